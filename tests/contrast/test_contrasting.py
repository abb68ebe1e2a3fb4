"""A contrast under a rule in one process: which keys there are, and what is refused. Several: test_gathering.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from scantling.contrast.bank import FIFOBank
from scantling.contrast.contrasting import contrast
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.prototypes import ClassStatistics
from scantling.contrast.relations import SameClass, SamePoint
from scantling.losses.prototypes import prototype_cross_entropy
from scantling.shapes import IGNORE

TEMPERATURE = 0.3


def labelled(n: int, seed: int, *, usable: bool = True) -> Pixels:
    g = torch.Generator().manual_seed(seed)
    kept = torch.rand(n, generator=g) < 0.8
    tags = Tags(
        klass=torch.randint(IGNORE, 3, (n,), generator=g), point=torch.arange(n), usable=kept if usable else None
    )
    return Pixels(embeddings=torch.randn(n, 4, generator=g, dtype=torch.float64), tags=tags)


def by_loops(anchors: Pixels, keys: Pixels, tag: str, *, own: bool = False) -> float:
    """The contrast of pixels of equal tag, one pair at a time; with `own`, key i is anchor i itself."""

    def usable(pixels: Pixels, i: int) -> bool:
        known = tag != "klass" or int(pixels.tags.need("klass")[i]) >= 0
        return known and (pixels.tags.usable is None or bool(pixels.tags.usable[i]))

    terms = []
    for i in range(len(anchors)):
        others = [j for j in range(len(keys)) if usable(keys, j) and not (own and i == j)]
        logits = {
            j: torch.cosine_similarity(anchors.embeddings[i], keys.embeddings[j], dim=0).item() / TEMPERATURE
            for j in others
        }
        mine = int(anchors.tags.need(tag)[i])
        positives = [j for j in others if int(keys.tags.need(tag)[j]) == mine >= 0]
        if usable(anchors, i) and positives:
            log_z = math.log(sum(math.exp(s) for s in logits.values()))
            terms.append(sum(log_z - logits[j] for j in positives) / len(positives))
    return sum(terms) / len(terms)


def appended(first: Pixels, second: Pixels) -> Pixels:
    tags = {name: torch.cat([first.tags.need(name), second.tags.need(name)]) for name in ("klass", "point", "usable")}
    return Pixels(embeddings=torch.cat([first.embeddings, second.embeddings]), tags=Tags(**tags))


def test_given_keys_are_compared_in_one_direction_or_both() -> None:
    anchors, keys, rule = labelled(7, 0), labelled(7, 1), PairRule(SamePoint())
    there, back = by_loops(anchors, keys, "point"), by_loops(keys, anchors, "point")
    assert contrast(anchors, keys, rule, temperature=TEMPERATURE).item() == pytest.approx(there, rel=1e-10)
    both = contrast(anchors, keys, rule, temperature=TEMPERATURE, directions="both")
    assert both.item() == pytest.approx((there + back) / 2, rel=1e-10)


def test_without_keys_anchors_are_compared_among_themselves() -> None:
    anchors = labelled(12, 0)
    found = contrast(anchors, None, PairRule(SameClass()), temperature=TEMPERATURE)
    assert found.item() == pytest.approx(by_loops(anchors, anchors, "klass", own=True), rel=1e-10)


def test_pixels_that_are_keys_alone_may_stand_anywhere_among_the_anchors() -> None:
    anchors, rule = labelled(12, 0, usable=False), PairRule(SameClass(without=(0,)))
    klass = anchors.tags.need("klass").clamp(min=0)
    anchors = replace(anchors, tags=replace(anchors.tags, klass=klass, point=torch.where(klass == 0, -1, klass)))
    found = contrast(anchors, None, rule, temperature=TEMPERATURE, tile=2)
    assert found.item() == pytest.approx(by_loops(anchors, anchors, "point", own=True), rel=1e-10)


def test_a_memory_joins_the_keys_of_the_batch() -> None:
    anchors, keys, memory, rule = labelled(7, 0), labelled(7, 1), labelled(9, 2), PairRule(SamePoint())
    memory = replace(memory, tags=replace(memory.tags, point=torch.full((9,), -1)))
    found = contrast(anchors, keys, rule, temperature=TEMPERATURE, memory=memory)
    assert found.item() == pytest.approx(by_loops(anchors, appended(keys, memory), "point"), rel=1e-10)
    assert found.item() > contrast(anchors, keys, rule, temperature=TEMPERATURE).item()


def test_a_memory_joins_anchors_compared_among_themselves_and_none_meets_itself() -> None:
    anchors, memory = labelled(7, 0), labelled(9, 2)
    found = contrast(anchors, None, PairRule(SameClass()), temperature=TEMPERATURE, memory=memory)
    assert found.item() == pytest.approx(by_loops(anchors, appended(anchors, memory), "klass", own=True), rel=1e-10)


def test_a_memory_alone_is_keys_that_are_not_gathered() -> None:
    anchors, memory = labelled(7, 0), labelled(9, 2)
    found = contrast(anchors, memory, PairRule(SameClass()), temperature=TEMPERATURE, gather_keys=False)
    assert found.item() == pytest.approx(by_loops(anchors, memory, "klass"), rel=1e-10)


def test_an_empty_bank_adds_nothing_and_a_filled_one_only_what_is_in_it() -> None:
    anchors, keys, rule = labelled(7, 0, usable=False), labelled(7, 1), PairRule(SamePoint())
    bank = FIFOBank(20, 4, tags=("point", "klass"), dtype=torch.float64)
    alone = contrast(anchors, keys, rule, temperature=TEMPERATURE)
    with_empty = contrast(anchors, keys, rule, temperature=TEMPERATURE, memory=bank.pixels())
    assert with_empty.item() == pytest.approx(alone.item(), rel=1e-12)
    past = labelled(5, 2, usable=False)
    bank.push(past)
    with_past = contrast(anchors, keys, rule, temperature=TEMPERATURE, memory=bank.pixels())
    never = torch.full((5,), -1)
    past = replace(past, tags=replace(past.tags, point=never, usable=torch.ones(5, dtype=torch.bool)))
    assert with_past.item() == pytest.approx(by_loops(anchors, appended(keys, past), "point"), rel=1e-10)


def test_prototypes_as_keys_give_the_cross_entropy_over_prototypes() -> None:
    anchors = labelled(10, 0)
    statistics = ClassStatistics(4, 4, dtype=torch.float64)
    statistics.update(labelled(30, 1))
    found = contrast(anchors, statistics.pixels(), PairRule(SameClass()), temperature=TEMPERATURE, gather_keys=False)
    wanted = prototype_cross_entropy(
        anchors.embeddings, anchors.tags.need("klass"), statistics.mean, temperature=TEMPERATURE,
        anchors_usable=anchors.tags.usable, classes_usable=statistics.seen,
    )  # fmt: skip
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_what_has_no_meaning_is_refused_in_words() -> None:
    anchors, memory, rule = labelled(4, 0), labelled(4, 1), PairRule(SameClass())
    for options in ({"memory": memory}, {"gather_keys": False}):
        with pytest.raises(ValueError, match="what a memory holds is never an anchor"):
            contrast(anchors, memory, rule, temperature=TEMPERATURE, directions="both", **options)
    with pytest.raises(ValueError, match="gather_keys=False is for keys that are given"):
        contrast(anchors, None, rule, temperature=TEMPERATURE, gather_keys=False)
    other = Pixels(embeddings=memory.embeddings, tags=replace(memory.tags, trust=torch.ones(4)))
    with pytest.raises(ValueError, match="the sets differ in their tags: trust"):
        contrast(anchors, anchors, rule, temperature=TEMPERATURE, memory=other)
