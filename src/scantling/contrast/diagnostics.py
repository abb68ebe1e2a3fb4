"""Looks on at a contrast: every few steps it measures who takes part and what the embeddings have become.

A recipe owns one and shows it, inside `losses`, what it contrasts; nothing of training depends on what is measured,
and between the measured steps showing costs nothing. In another loop: `begin(step)` before the losses, `collect()`
after the backward pass, as often as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from scantling.contrast.counting import count_pairs
from scantling.contrast.measures import (
    alignment,
    classes_present,
    effective_rank,
    feature_std,
    gradient_spread,
    groups_told_apart,
    places_held,
    second_moment,
    some_of,
    sums_by_class,
    uniformity,
)
from scantling.contrast.observation import Observation
from scantling.contrast.pixels import Pixels, Tags
from scantling.losses.pairs import Pairs
from scantling.seeding import derived_seed, torch_generator
from scantling.shapes import Embeddings, LabelMaps, Logits


@runtime_checkable
class Rule(Protocol):
    """What `PairRule` is: binds itself to the tags of anchors and keys."""

    def pairs(self, anchors: Tags, keys: Tags | None = None, own: int | None = None) -> Pairs: ...


EVERY: Final = 10
"""Steps from one measurement to the next."""
SPREAD_PIXELS: Final = 1024
"""Pixels drawn for the measures that compare each with each."""
ALIGNED_ANCHORS: Final = 256
"""Anchors whose positive pairs are measured; each against all keys."""

_BY_CLASS: Final[tuple[str, ...]] = ("anchors", "labelled", "bank")
_SUMMED: Final = ("anchors", "anchors_in_all", "gradient", "moment")
_LARGEST: Final = ("labelled",)
_SMALLEST: Final = ("fewest_positives", "fewest_negatives")


@dataclass(kw_only=True)
class _Look:
    """Measures of one call, still on the device."""

    step: int
    term: str
    measured: dict[str, Tensor] = field(default_factory=dict)
    hook: RemovableHandle | None = None


@final
class Diagnostics:
    """Measures every few steps what it is shown, and hands the numbers out when asked.

    It holds nothing that training needs or that must survive a restart. Of several processes each sees its own
    pixels, or all if they are gathered before.
    """

    def __init__(self, classes: Sequence[str], *, every: int = EVERY) -> None:
        """An observer that has seen nothing.

        Args:
            classes: their names, background first.
            every: steps from one measurement to the next; up to 25 an alarm comes within 200 steps.
        """
        if every < 1:
            raise ValueError(f"Diagnostics: every must be at least 1, got {every}")
        self.classes, self.every = tuple(classes), every
        self._measured_step: int | None = None
        self._looks: list[_Look] = []

    def begin(self, step: int) -> None:
        """What is shown from now on belongs to this step, and is measured if it is the step's turn."""
        self._measured_step = step if step % self.every == 0 else None

    def observe(
        self,
        term: str,
        pixels: Pixels,
        pairs: Pairs | Rule,
        bank: Pixels | None = None,
        *,
        keys: Pixels | None = None,
        labels: Int[Tensor, "*place"] | None = None,
    ) -> None:
        """Show a term of the contrast, before its backward pass. Shown several times in a step, a term counts as one.

        Args:
            pixels: the anchors. The gradient that is measured is the one at `pixels.embeddings`, of all terms.
            pairs: of the anchors with the keys; a rule is bound to their tags in the measured steps alone.
            bank: all places of the memory the term compares with.
            keys: what the anchors are related to; None where these are the anchors themselves, or where `pairs` were
                made with the bank.
            labels: where anchors were drawn from, so that a class without any is noticed. A class that is not
                meant to have anchors is to be IGNORE there.

        Raises:
            ValueError: `pairs` is about other numbers of anchors or keys.
        """
        if self._measured_step is None:
            return
        if keys is None:
            keys = bank if isinstance(pairs, Pairs) and pairs.own is None and bank is not None else pixels
        if isinstance(pairs, Rule):
            pairs = pairs.pairs(pixels.tags, None if keys is pixels else keys.tags)
        if (len(pixels), len(keys)) != (pairs.n_anchors, pairs.n_keys):
            raise ValueError(
                f"diagnostics of {term!r}: got {len(pixels)} anchors and {len(keys)} keys, but pairs of "
                f"{pairs.n_anchors} and {pairs.n_keys}; give the pixels the pairs were made of"
            )
        look = _Look(step=self._measured_step, term=term)
        with torch.no_grad(), torch.autocast(pixels.embeddings.device.type, enabled=False):
            if labels is not None:
                look.measured["labelled"] = classes_present(labels, len(self.classes))
            if bank is not None:
                look.measured |= self._of_bank(bank)
            taking_part = self._of_pairs(look, pixels, pairs)
            if len(pixels):
                self._of_embeddings(look, pixels, keys, pairs)
        if pixels.embeddings.requires_grad and torch.is_grad_enabled():
            look.hook = pixels.embeddings.register_hook(  # type: ignore[no-untyped-call]
                self._gradient_hook(look, pixels, taking_part)
            )
        self._looks.append(look)

    def observe_prediction(self, logits: Logits, labels: LabelMaps, *, term: str = "prediction") -> None:
        """Show what a network predicts, beside the labels it learns from."""
        if self._measured_step is None:
            return
        look = _Look(step=self._measured_step, term=term)
        with torch.no_grad():
            look.measured["foreground_predicted"] = (logits.argmax(dim=1) > 0).float().mean()
            look.measured["foreground_labelled"] = (labels > 0).sum() / (labels >= 0).sum()
        self._looks.append(look)

    def drop(self) -> None:
        """Forget what was not collected yet: its step has been undone."""
        for look in self._looks:
            _unhook(look)
        self._looks, self._measured_step = [], None

    def collect(self) -> list[Observation]:
        """What was measured since the last call, step by step; the device is waited for once, if there is anything."""
        looks, self._measured_step = self._looks, None
        self._looks = []
        if not looks:
            return []
        tensors = [tensor.detach() for look in looks for tensor in look.measured.values()]
        exact = torch.float32 if tensors[0].device.type == "mps" else torch.float64
        flat = torch.cat([tensor.to(exact).flatten() for tensor in tensors]).cpu()
        parts = iter(torch.split(flat, [tensor.numel() for tensor in tensors]))
        found: dict[tuple[int, str], dict[str, list[Tensor]]] = {}
        for look in looks:
            _unhook(look)
            measured = found.setdefault((look.step, look.term), {})
            for name in look.measured:
                measured.setdefault(name, []).append(next(parts))
        return [self._observation(step, term, measured) for (step, term), measured in found.items()]

    def _of_pairs(self, look: _Look, pixels: Pixels, pairs: Pairs) -> Bool[Tensor, "pixel"]:
        """Who is compared with how many; which anchors have a positive."""
        positives, negatives = count_pairs(pairs)
        usable = _usable_anchors(pixels, pairs)
        taking_part = usable & (positives > 0)
        if pixels.tags.klass is not None:
            anchors = sums_by_class(taking_part.float(), pixels.tags.klass, len(self.classes))
            look.measured["anchors"] = anchors
        look.measured["anchors_in_all"] = taking_part.sum()
        if len(pixels):
            n = usable.sum()
            for name, count in (("positives", positives), ("negatives", negatives)):
                look.measured[name] = torch.where(usable, count, 0).sum() / n
                look.measured[f"fewest_{name}"] = torch.where(usable, count.float(), math.inf).amin()
            groups = groups_told_apart(positives, negatives)
            look.measured["groups"] = torch.where(taking_part, groups, 0).sum() / taking_part.sum()
        return taking_part

    def _of_embeddings(self, look: _Look, pixels: Pixels, keys: Pixels, pairs: Pairs) -> None:
        """The shape of the anchors' embeddings, on a random part of them."""
        generator = torch_generator(0, "diagnostics", look.step)  # not the run's: looking must not change it
        unit, usable = some_of(pixels.embeddings, _usable_anchors(pixels, pairs), SPREAD_PIXELS, generator)
        n = min(len(pixels), ALIGNED_ANCHORS)
        start = derived_seed(0, "aligned anchors", look.step) % (len(pixels) - n + 1)
        look.measured |= {
            "feature_std": feature_std(unit, usable) * math.sqrt(unit.shape[1]),
            "moment": second_moment(unit, usable),
            "uniformity": uniformity(unit, usable),
            "alignment": alignment(pixels, keys, pairs, slice(start, start + n)),
        }

    def _of_bank(self, bank: Pixels) -> dict[str, Tensor]:
        held = places_held(bank).float()
        measured = {"bank_filled": held.mean()}
        if bank.tags.klass is not None:
            measured["bank"] = sums_by_class(held, bank.tags.klass, len(self.classes)) / max(len(bank), 1)
        return measured

    def _gradient_hook(self, look: _Look, pixels: Pixels, taking_part: Tensor) -> Any:
        def measure(gradient: Embeddings) -> None:
            with torch.no_grad():
                lengths = gradient.float().norm(dim=1)
                if pixels.tags.klass is not None:
                    look.measured["gradient"] = sums_by_class(lengths, pixels.tags.klass, len(self.classes))
                if len(lengths):
                    look.measured["gradient_spread"] = gradient_spread(lengths, taking_part)

        return measure

    def _observation(self, step: int, term: str, measured: Mapping[str, Sequence[Tensor]]) -> Observation:
        merged = {name: _merged(name, parts) for name, parts in measured.items()}
        by_class: dict[str, Tensor] = {name: merged[name] for name in _BY_CLASS if name in merged}
        figures = {name: float(merged[name]) for name in merged.keys() - {*_BY_CLASS, "moment", "gradient"}}
        if "moment" in merged:
            dim = math.isqrt(merged["moment"].numel())
            figures["effective_rank"] = effective_rank(merged["moment"].view(dim, dim))
        if "gradient" in merged:
            by_class["gradient_share"] = merged["gradient"] / merged["gradient"].sum()
        return Observation(
            step=step,
            term=term,
            figures={name: figures[name] for name in sorted(figures) if math.isfinite(figures[name])},
            by_class={
                name: dict(zip(self.classes, values.tolist(), strict=True))
                for name, values in by_class.items()
                if values.isfinite().all()
            },
        )


def _usable_anchors(pixels: Pixels, pairs: Pairs) -> Bool[Tensor, "pixel"]:
    """Anchors that are there and trusted."""
    usable = torch.ones(len(pixels), dtype=torch.bool, device=pixels.embeddings.device)
    if pairs.anchors_usable is not None:
        usable = usable & pairs.anchors_usable
    return usable if pairs.anchor_trust is None else usable & (pairs.anchor_trust > 0)


def _merged(name: str, parts: Sequence[Tensor]) -> Tensor:
    """One value of a measure that was taken several times in a step; averages count alike."""
    together = torch.stack(list(parts))
    if name in _SUMMED:
        return together.sum(dim=0)
    if name in _LARGEST:
        return together.amax(dim=0)
    return together.amin(dim=0) if name in _SMALLEST else together.nanmean(dim=0)


def _unhook(look: _Look) -> None:
    if look.hook is not None:
        look.hook.remove()
