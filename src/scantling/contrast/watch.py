"""Watches what the diagnostics measure, and says when a contrast does not do what it should.

A finding must hold for many steps before it is a warning, and be clearly over before it is forgotten: between the
two thresholds nothing changes. What is watched is a dictionary that JSON holds, so a resumed run goes on watching.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from scantling.contrast.observation import FEATURES, Observation

Kind = Literal["no_anchors", "no_gradient", "empty_bank", "one_point", "few_directions", "background_only"]

PATIENCE: Final = 50
"""Steps for which a class must go without anchors or gradient, or a memory stay empty."""
COLLAPSE_PATIENCE: Final = 100
"""Steps for which embeddings must be collapsed, or predictions background."""
SETTLING: Final = 75
"""Steps at the start in which these are not held against a network that has hardly learnt: 75 + 100 < 200."""
STARVED: Final = (1e-3, 1e-2)
"""Gradient of a class's anchor over that of an average one: below the first it is starved, above the second fed."""
COLLAPSED_STD: Final = (0.1, 0.2)
"""Standard deviation as a share of that of evenly spread embeddings. At the first, the mean of the unit embeddings
has a length of about 0.995."""
FEW_DIRECTIONS: Final = 2.0
"""Effective rank. Pixels of G groups can be told apart in G - 1 directions, so where the relation has less than four
groups half their number is the bound."""
FEW_FEATURE_DIRECTIONS: Final = 3.0
"""Effective rank of a network's own features. Normalised, a single field behind a leaky ReLU makes two directions, and
what training leaves over makes part of a third: features of 16 channels pulled together without negatives had 2.9 after
200 steps and 2.5 after 500. Healthy ones had 6.5 of 12 to 14 of 16: supervised, contrasted or of random weights."""
CLASSES_TOLD_APART: Final = 0.9
"""Purity of the clusters of as many pixels of each class. Features that are all about K classes need no more than K - 1
directions, so few of them are a fault only where the clusters are not the classes."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A warning that begins (`active`) or is over.

    Attributes:
        klass: name of the class it is about, None if it is about all.
        sentence: what has been wrong since which step (counted from 1), or that it is over.
    """

    step: int
    kind: Kind
    term: str
    klass: str | None
    active: bool
    sentence: str


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """One thing that is watched, as an observation shows it: bad, good, or neither, which changes nothing.

    Attributes:
        warning: what has been wrong "since step N".
        over: that it is good again.
    """

    kind: Kind
    klass: str | None = None
    bad: bool
    good: bool
    warning: str
    over: str
    patience: int = PATIENCE
    settling: int = 0


@final
class Watch:
    """Remembers since when each thing has been bad, and which warnings hold.

    Args:
        state: what an earlier watch remembered; it is kept up to date in place, and JSON holds it.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state: dict[str, Any] = {} if state is None else state

    @property
    def active(self) -> list[str]:
        """The sentences of the warnings that hold."""
        return [memory["sentence"] for memory in self.state.values() if memory["sentence"] is not None]

    def see(self, seen: Observation) -> list[Notice]:
        """Take note of one observation; the warnings that begin or end with it."""
        notices = []
        for finding in _findings(seen):
            sentence = self._judge(seen, finding)
            if sentence is not None:
                notices.append(
                    Notice(
                        step=seen.step, kind=finding.kind, term=seen.term, klass=finding.klass,
                        active=finding.bad, sentence=sentence,
                    )
                )  # fmt: skip
        return notices

    def _judge(self, seen: Observation, finding: _Finding) -> str | None:
        """The sentence to be said now, if any."""
        key = "/".join((finding.kind, seen.term, finding.klass or ""))
        if finding.good:
            memory = self.state.pop(key, None)
            return finding.over if memory is not None and memory["sentence"] is not None else None
        if not finding.bad or seen.step < finding.settling:
            return None
        memory = self.state.setdefault(key, {"since": seen.step, "sentence": None})
        if memory["sentence"] is not None or seen.step - memory["since"] < finding.patience:
            return None
        memory["sentence"] = f"since step {memory['since'] + 1} {finding.warning}"
        return str(memory["sentence"])


def _findings(seen: Observation) -> Iterator[_Finding]:
    if seen.term == FEATURES:
        yield from _about_features(seen)
        return
    yield from _about_anchors(seen)
    yield from _about_gradient(seen)
    yield from _about_the_bank(seen)
    yield from _about_collapse(seen)
    yield from _about_predictions(seen)


def _about_anchors(seen: Observation) -> Iterator[_Finding]:
    labelled = seen.by_class.get("labelled", {})
    for name, anchors in seen.by_class.get("anchors", {}).items():
        yield _Finding(
            kind="no_anchors",
            klass=name,
            bad=anchors == 0 and labelled.get(name, 0) > 0,
            good=anchors > 0,
            warning=f"no pixel of {name} has been an anchor of {seen.term} with a positive, although {name} occurs in "
            "the labels: the contrast does not train this class",
            over=f"{name} has anchors in {seen.term} again",
        )


def _about_gradient(seen: Observation) -> Iterator[_Finding]:
    anchors, shares = seen.by_class.get("anchors", {}), seen.by_class.get("gradient_share", {})
    total = sum(anchors.values())
    for name, share in shares.items():
        if not anchors.get(name):
            continue
        relative = share * total / anchors[name]
        yield _Finding(
            kind="no_gradient",
            klass=name,
            bad=relative < STARVED[0],
            good=relative > STARVED[1],
            warning=f"the anchors of {name} in {seen.term} have got less than a thousandth of the gradient of an "
            "average anchor: the contrast hardly trains this class",
            over=f"{name} gets gradient in {seen.term} again",
        )


def _about_the_bank(seen: Observation) -> Iterator[_Finding]:
    filled, labelled = seen.figures.get("bank_filled"), seen.by_class.get("labelled", {})
    if filled is None:
        return
    yield _Finding(
        kind="empty_bank",
        bad=filled == 0,
        good=filled > 0,
        warning=f"the memory of {seen.term} has held nothing but empty places or zeros",
        over=f"the memory of {seen.term} holds embeddings again",
    )
    for name, held in seen.by_class.get("bank", {}).items():
        yield _Finding(
            kind="empty_bank",
            klass=name,
            bad=held == 0 and filled > 0 and labelled.get(name, 0) > 0,
            good=held > 0,
            warning=f"the memory of {seen.term} has held no {name} but empty places or zeros, although {name} occurs "
            "in the labels",
            over=f"the memory of {seen.term} holds {name} again",
        )


def _about_collapse(seen: Observation) -> Iterator[_Finding]:
    std, rank = seen.figures.get("feature_std"), seen.figures.get("effective_rank")
    if std is not None:
        yield _Finding(
            kind="one_point",
            bad=std < COLLAPSED_STD[0],
            good=std > COLLAPSED_STD[1],
            warning=f"the embeddings of {seen.term} have been nearly one point: they have collapsed",
            over=f"the embeddings of {seen.term} are spread out again",
            patience=COLLAPSE_PATIENCE,
            settling=SETTLING,
        )
    if rank is not None:
        bound = min(FEW_DIRECTIONS, seen.figures.get("groups", 2 * FEW_DIRECTIONS) / 2)
        yield _Finding(
            kind="few_directions",
            bad=rank <= bound,
            good=rank > 1.25 * bound,
            warning=f"the embeddings of {seen.term} have filled no more than {bound:.2g} dimensions: they "
            "have collapsed",
            over=f"the embeddings of {seen.term} fill more dimensions again",
            patience=COLLAPSE_PATIENCE,
            settling=SETTLING,
        )


def _about_predictions(seen: Observation) -> Iterator[_Finding]:
    predicted, labelled = seen.figures.get("foreground_predicted"), seen.figures.get("foreground_labelled")
    if predicted is None:
        return
    yield _Finding(
        kind="background_only",
        bad=predicted == 0 and (labelled or 0) > 0,
        good=predicted > 0,
        warning="nothing but background has been predicted, although the labels have foreground",
        over="foreground is predicted again",
        patience=COLLAPSE_PATIENCE,
        settling=SETTLING,
    )


def _about_features(seen: Observation) -> Iterator[_Finding]:
    """Of what a validation measured on thousands of pixels: once is enough, as no network starts there."""
    spread, rank = seen.figures.get("feature_spread"), seen.figures.get("effective_rank")
    if spread is not None:
        yield _Finding(
            kind="one_point",
            bad=spread < COLLAPSED_STD[0],
            good=spread > COLLAPSED_STD[1],
            warning="the network's features of all pixels have been nearly one point: they have collapsed, and say "
            "nothing of the image",
            over="the network's features are spread out again",
            patience=0,
        )
    if rank is not None:
        dimensions, pure = seen.figures["dimensions"], seen.figures.get("kmeans_purity")
        bound = min(FEW_FEATURE_DIRECTIONS, dimensions / 4)
        told_apart = pure is not None and pure >= CLASSES_TOLD_APART
        lost = "" if pure is None else " and their clusters are not the classes,"
        yield _Finding(
            kind="few_directions",
            bad=rank <= bound and not told_apart,
            good=rank > 1.25 * bound or told_apart,
            warning=f"the network's features have filled no more than {bound:.2g} of {dimensions:.0f} dimensions,"
            f"{lost} so nearly all that they could say is lost: they have collapsed",
            over="the network's features fill more dimensions again, or tell the classes apart",
            patience=0,
        )
