"""Pair rules: what the losses read of a relation, and that what is said shorter is the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scantling.contrast.counting import count_pairs
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Tags
from scantling.contrast.relations import (
    ACROSS_IMAGES,
    ACROSS_PATIENTS,
    ACROSS_VIEWS,
    NOT_OF_ONE_PICTURE,
    Relation,
    SameClass,
    SameGroup,
    SameImage,
    SamePatient,
    SamePoint,
    SameSite,
    SameSliceBand,
    SameView,
    SliceWithin,
    Within,
)
from scantling.losses.contrastive import info_nce
from scantling.losses.pairs import PairBlock, Pairs
from scantling.shapes import IGNORE

ALL = slice(None)
N_CLASSES = 4
Pixel = dict[str, np.ndarray]
Value = Callable[[Pixel, Pixel], int]


def dense(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Positives and what is compared, as the block of everything says."""
    return parts(pairs.block(ALL, ALL), pairs.n_anchors, pairs.n_keys)


def parts(block: PairBlock, n_anchors: int, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    positive = np.zeros((n_anchors, n_keys), bool) if block.positive is None else block.positive.numpy()
    compared = np.ones((n_anchors, n_keys), bool) if block.compared is None else block.compared.numpy()
    assert positive.shape == compared.shape == (n_anchors, n_keys)
    return positive, compared


def taking_part(pairs: Pairs) -> np.ndarray:
    """Pairs of usable pixels that are not one pixel."""
    mask = np.ones((pairs.n_anchors, pairs.n_keys), bool)
    for i, j in itertools.product(range(pairs.n_anchors), range(pairs.n_keys)):
        mask[i, j] &= pairs.anchors_usable is None or bool(pairs.anchors_usable[i])
        mask[i, j] &= pairs.keys_usable is None or bool(pairs.keys_usable[j])
        mask[i, j] &= pairs.own is None or j != pairs.own + i
    return mask


# Two data sets, one with the spleen (1) outlined and one with the liver (2). What each says of its six voxels:
# spleen; spleen; not outlined, so background or liver; liver; not outlined, so background or spleen; not looked at.
TWO_DATA_SETS = Tags(
    klass=torch.tensor([1, 1, 0, 2, 0, IGNORE]),
    annotated=torch.tensor([[1, 1, 0]] * 3 + [[1, 0, 1]] * 3).bool(),
)
POSITIVE = [
    [1, 1, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
]
COMPARED = [
    [1, 1, 1, 1, 0, 0],
    [1, 1, 1, 1, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 1, 0, 1, 1, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0],
]


def test_six_voxels_of_two_data_sets_that_know_different_organs() -> None:
    pairs = PairRule(SameClass()).pairs(TWO_DATA_SETS)
    positive, compared = dense(pairs)
    assert positive.astype(int).tolist() == POSITIVE
    assert compared.astype(int).tolist() == COMPARED
    assert pairs.groups is not None
    assert pairs.groups.anchors.tolist() == [1, 1, -1, 2, -1, -1]
    assert not pairs.all_compared
    assert pairs.own == 0


def test_a_spleen_that_nobody_outlined_is_never_a_negative_of_a_spleen() -> None:
    spleen, unlabelled_spleen = 0, 4
    _, compared = dense(PairRule(SameClass()).pairs(TWO_DATA_SETS))
    assert not compared[[spleen, unlabelled_spleen], [unlabelled_spleen, spleen]].any()
    naive, _ = dense(PairRule(SameClass()).pairs(replace(TWO_DATA_SETS, annotated=None)))
    assert not naive[spleen, unlabelled_spleen]  # taken at its word, background, it would be pushed away


def test_a_spleen_that_nobody_outlined_is_not_pushed_from_the_spleen_by_the_loss() -> None:
    def push(tags: Tags) -> float:
        embeddings = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        alone = tags.pick([0, 1, 4])  # two spleen voxels and the unlabelled one
        vectors = embeddings[:3].requires_grad_()
        info_nce(vectors, None, PairRule(SameClass()).pairs(alone), temperature=0.1).backward()
        assert vectors.grad is not None
        return float(vectors.grad[2].abs().sum())

    assert push(TWO_DATA_SETS) == 0
    assert push(replace(TWO_DATA_SETS, annotated=None)) > 1e-3


def random_tags(seed: int, n: int = 26, *, in_order: bool = False, annotated: bool = True) -> Tags:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 3, n)
    if in_order:
        image = np.sort(image)
    looked_for = rng.random((n, N_CLASSES)) < 0.8
    looked_for[:, 0] = True
    integers = {
        "image": image,
        "patient": image // 2,
        "site": rng.integers(-1, 2, n),
        "view": rng.integers(0, 2, n),
        "point": rng.integers(-1, 5, n),
        "klass": rng.integers(IGNORE, N_CLASSES, n),
        "group": rng.integers(-1, 2, n),
    }
    return Tags(
        **{name: torch.from_numpy(value) for name, value in integers.items()},
        position_mm=torch.from_numpy(rng.integers(0, 4, (n, 2)).astype(np.float32)),
        slice_position=torch.from_numpy(rng.integers(0, 9, n) / 8),
        annotated=torch.from_numpy(looked_for) if annotated else None,
        trust=torch.from_numpy(rng.random(n)),
        usable=torch.from_numpy(rng.random(n) < 0.8),
    )


def pixels(tags: Tags) -> list[Pixel]:
    known = {name: value.numpy() for name, value in tags.known().items()}
    return [{name: value[i] for name, value in known.items()} for i in range(len(known["image"]))]


def same(tag: str) -> Value:
    return lambda p, q: 1 if p[tag] == q[tag] >= 0 else -1


def same_group(p: Pixel, q: Pixel) -> int:
    return 0 if min(p["group"], q["group"]) < 0 else same("group")(p, q)


def classes(p: Pixel) -> set[int]:
    looked_for = p.get("annotated", np.ones(N_CLASSES, bool))
    if p["klass"] == IGNORE or not looked_for[p["klass"]]:
        return set(range(N_CLASSES))
    return {int(p["klass"])} | ({k for k in range(N_CLASSES) if not looked_for[k]} if p["klass"] == 0 else set())


def same_class(without: int | None = None) -> Value:
    def value(p: Pixel, q: Pixel) -> int:
        mine, theirs = classes(p), classes(q)
        if len(mine | theirs) == 1:
            return 0 if mine == {without} else 1
        return 0 if mine & theirs else -1

    return value


def within(radius: float, exclusion: float) -> Value:
    def value(p: Pixel, q: Pixel) -> int:
        distance = math.dist(p["position_mm"], q["position_mm"])
        if p["image"] != q["image"]:
            return -1
        return 1 if distance < radius else 0 if distance < exclusion else -1

    return value


def same_band(p: Pixel, q: Pixel) -> int:
    first, second = (min(int(pixel["slice_position"] * 4), 3) for pixel in (p, q))
    return 1 if first == second else -1


def slice_within(p: Pixel, q: Pixel) -> int:
    return 1 if abs(p["slice_position"] - q["slice_position"]) < 0.25 else -1


def no(value: Value) -> Value:
    return lambda p, q: -value(p, q)


def least(*values: Value) -> Value:
    return lambda p, q: min(value(p, q) for value in values)


def most(*values: Value) -> Value:
    return lambda p, q: max(value(p, q) for value in values)


def among(value: Value, condition: Value) -> Value:
    return lambda p, q: value(p, q) if condition(p, q) == 1 else 0


RULES: dict[str, tuple[Relation, Value]] = {
    "point": (SamePoint(), same("point")),
    "image": (SameImage(), same("image")),
    "site": (SameSite(), same("site")),
    "group": (SameGroup(), same_group),
    "not group": (~SameGroup(), no(same_group)),
    "class": (SameClass(), same_class()),
    "not class": (~SameClass(), no(same_class())),
    "foreground class": (SameClass(without=(0,)), same_class(without=0)),
    "not foreground class": (~SameClass(without=(0,)), no(same_class(without=0))),
    "band": (SameSliceBand(4), same_band),
    "slices": (SliceWithin(0.25), slice_within),
    "radius": (Within(1.5), within(1.5, 0)),
    "ring": (Within(1.5, exclusion_mm=3.0), within(1.5, 3.0)),
    "class in image": (SameClass() & SameImage(), least(same_class(), same("image"))),
    "image of class": (SameImage() & SameClass(without=(0,)), least(same("image"), same_class(without=0))),
    "point, band, view": (
        SamePoint() & SameSliceBand(4) & SameView(),
        least(same("point"), same_band, same("view")),
    ),
    "class within radius": (Within(1.5) & SameClass(without=(0,)), least(within(1.5, 0), same_class(without=0))),
    "class or point": (SameClass() | SamePoint(), most(same_class(), same("point"))),
    "ring or group": (Within(1.5, 3.0) | SameGroup(), most(within(1.5, 3.0), same_group)),
    "band across patients": (SameSliceBand(4) & ACROSS_PATIENTS, least(same_band, no(same("patient")))),
    "class among images": (SameClass().among(ACROSS_IMAGES), among(same_class(), no(same("image")))),
    "class in image only": (SameClass().among(SameImage()), among(same_class(), same("image"))),
    "positives across": (
        SameClass().among(ACROSS_IMAGES, only="positives"),
        among(same_class(), most(no(same("image")), no(same_class()))),
    ),
    "negatives across": (
        SameClass(without=(0,)).among(ACROSS_IMAGES, only="negatives"),
        among(same_class(without=0), most(no(same("image")), same_class(without=0))),
    ),
    "point without neighbours": (
        SamePoint().among(~Within(1.5), only="negatives"),
        among(same("point"), most(no(within(1.5, 0)), same("point"))),
    ),
    "point, other pictures": (
        SamePoint().among(NOT_OF_ONE_PICTURE),
        among(same("point"), no(least(same("image"), same("view")))),
    ),
    "group across views": (SameGroup().among(ACROSS_VIEWS), among(same_group, no(same("view")))),
    "group or not": (SameGroup() | ~SameGroup(), most(same_group, no(same_group))),
}


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("annotated", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_pairs_are_what_the_relation_says_of_each_pair(name: str, annotated: bool, in_order: bool) -> None:
    relation, value = RULES[name]
    for seed, alone in itertools.product(range(2), (True, False)):
        anchors = random_tags(seed, in_order=in_order, annotated=annotated)
        keys = random_tags(seed + 10, 21, in_order=in_order, annotated=annotated)
        pairs = PairRule(relation).pairs(anchors) if alone else PairRule(relation).pairs(anchors, keys)
        others = pixels(anchors if alone else keys)
        expected = np.array([[value(p, q) for q in others] for p in pixels(anchors)])
        (positive, compared), counted = dense(pairs), taking_part(pairs)
        np.testing.assert_array_equal(positive & counted, (expected == 1) & counted)
        # What is left unknown, and taken for compared all the same, is between two pixels without any positive.
        without = ~(expected == 1).any(axis=1)[:, None] & ~(expected == 1).any(axis=0)
        excused = pairs.all_compared and pairs.groups is not None and "foreground" in name
        np.testing.assert_array_equal(compared & counted, ((expected != 0) | (without & excused)) & counted)
        # Pixels that are called empty although they are usable are unknown to everybody.
        for axis, usable, side in (
            (1, pairs.anchors_usable, anchors),
            (0, pairs.keys_usable, anchors if alone else keys),
        ):
            assert usable is not None
            dropped = (side.need("usable") & ~usable).numpy()
            assert not (expected != 0).any(axis=axis)[dropped].any()
            assert not (usable & ~side.need("usable")).any()


@pytest.mark.parametrize("annotated", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_shortcuts_say_what_the_blocks_say(name: str, annotated: bool) -> None:
    for seed in range(3):
        tags, others = random_tags(seed, annotated=annotated), random_tags(seed + 20, 17, annotated=annotated)
        pairs = PairRule(RULES[name][0]).pairs(tags, others)
        (positive, _), counted = dense(pairs), taking_part(pairs)
        if pairs.all_compared:
            assert pairs.block(slice(1, 9), slice(0, 5)).compared is None
        if pairs.groups is not None:
            mine, theirs = pairs.groups.anchors.numpy(), pairs.groups.keys.numpy()
            assert -1 <= min(mine.min(), theirs.min()) <= max(mine.max(), theirs.max()) < pairs.groups.n_groups
            related = (mine[:, None] == theirs) & (mine[:, None] >= 0)
            np.testing.assert_array_equal(related & counted, positive & counted)


GROUPED = {
    "point", "image", "site", "group", "class", "foreground class", "band", "class in image", "image of class",
    "point, band, view", "class in image only", "negatives across", "point without neighbours",
}  # fmt: skip
ALL_COMPARED = {
    "point", "image", "site", "group", "not group", "class", "not class", "foreground class", "band", "slices",
    "radius", "point, band, view", "band across patients",
}  # fmt: skip
LABELLED_ONLY = {"class in image", "image of class", "class or point"}  # once no pixel is without a label


@pytest.mark.parametrize("name", RULES)
def test_shortcuts_are_taken_exactly_where_they_can_be(name: str) -> None:
    tags = random_tags(0, annotated=False)
    pairs = PairRule(RULES[name][0]).pairs(tags)
    assert (pairs.groups is not None) == (name in GROUPED)
    labelled = PairRule(RULES[name][0]).pairs(replace(tags, klass=tags.need("klass").clamp(min=0)))
    assert pairs.all_compared == (name in ALL_COMPARED)
    assert labelled.all_compared == (name in ALL_COMPARED | LABELLED_ONLY)


def test_labels_that_know_all_classes_are_as_good_as_labels_of_which_nothing_is_said() -> None:
    tags = random_tags(0, annotated=False)
    told = replace(tags, annotated=torch.ones(26, N_CLASSES).bool())
    plain, full = (PairRule(SameClass()).pairs(side) for side in (tags, told))
    assert full.all_compared
    for first, second in zip(dense(plain), dense(full), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not PairRule(SameClass()).pairs(random_tags(0)).all_compared


@pytest.mark.parametrize("name", RULES)
def test_blocks_are_parts_of_the_whole(name: str) -> None:
    for in_order, annotated in itertools.product((False, True), (False, True)):
        tags, others = random_tags(1, in_order=in_order, annotated=annotated), random_tags(2, 21, in_order=in_order)
        pairs = PairRule(RULES[name][0]).pairs(tags, others)
        positive, compared = dense(pairs)
        for (a, b), (c, d) in itertools.product([(0, 26), (0, 5), (5, 6), (9, 20)], [(0, 3), (3, 21), (8, 8)]):
            found = parts(pairs.block(slice(a, b), slice(c, d)), b - a, d - c)
            np.testing.assert_array_equal(found[0], positive[a:b, c:d])
            np.testing.assert_array_equal(found[1], compared[a:b, c:d])


@pytest.mark.parametrize("name", RULES)
def test_every_relation_is_the_same_with_its_sides_exchanged(name: str) -> None:
    first, second = random_tags(3), random_tags(4, 19)
    rule = PairRule(RULES[name][0])
    there, back = rule.pairs(first, second), rule.pairs(second, first)
    assert there.symmetric
    for one, other in zip(dense(there), dense(back), strict=True):
        np.testing.assert_array_equal(one, other.T)


def test_blocks_of_different_images_hold_no_mask() -> None:
    tags = Tags(image=torch.arange(2).repeat_interleave(4), position_mm=torch.rand(8, 3), klass=torch.arange(8) % 3)
    first, second = slice(0, 4), slice(4, 8)
    for relation in (SameImage(), Within(0.5), SameImage() & Within(0.5), SameImage() & SameClass()):
        assert PairRule(relation).pairs(tags).block(first, second) == PairBlock(None, None)
    inside = PairRule(SameImage()).pairs(tags).block(second, second)
    assert inside.positive is not None
    assert bool(inside.positive.all())
    apart = PairRule(SameClass().among(SameImage())).pairs(tags).block(first, second)
    assert apart.positive is None
    assert apart.compared is not None
    assert not apart.compared.any()
    outside = PairRule(Within(0.5).among(ACROSS_IMAGES)).pairs(tags).block(first, second)
    assert outside == PairBlock(None, None)


@pytest.mark.parametrize("own", [None, 0, 3, -4, 40])
@pytest.mark.parametrize("name", RULES)
def test_counts_are_the_sums_of_the_dense_masks(name: str, own: int | None) -> None:
    tags, others = random_tags(5, annotated=False), random_tags(6, 21, annotated=False)
    relation = RULES[name][0]
    pairs = PairRule(relation).pairs(tags, own=own) if own == 0 else PairRule(relation).pairs(tags, others, own)
    (positive, compared), counted = dense(pairs), taking_part(pairs)
    for tile in (4, 1024):
        positives, negatives = count_pairs(pairs, tile)
        assert positives.tolist() == (positive & counted).sum(axis=1).tolist()
        assert negatives.tolist() == (compared & ~positive & counted).sum(axis=1).tolist()
    everywhere = replace(pairs, anchors_usable=None, keys_usable=None)
    mask = taking_part(everywhere)
    assert count_pairs(everywhere, 7)[0].tolist() == (positive & mask).sum(axis=1).tolist()
    assert count_pairs(everywhere, 7)[1].tolist() == (compared & ~positive & mask).sum(axis=1).tolist()


def test_counts_where_no_block_has_a_mask() -> None:
    tags = Tags(image=torch.arange(3), position_mm=torch.zeros(3, 2))
    positives, negatives = count_pairs(PairRule(Within(1.0)).pairs(tags), tile=1)
    assert (positives.tolist(), negatives.tolist()) == ([0, 0, 0], [2, 2, 2])


def test_no_pixels_make_no_pairs() -> None:
    for relation in (SameClass(), SamePoint() & SameImage(), Within(1.0), SameClass() | SameImage()):
        pairs = PairRule(relation, "balanced").pairs(random_tags(0, 0), random_tags(0, 3))
        assert (pairs.n_anchors, pairs.n_keys) == (0, 3)
        assert [counts.shape for counts in count_pairs(pairs)] == [(0,), (0,)]
        assert count_pairs(PairRule(relation).pairs(random_tags(0, 3), random_tags(0, 0)))[1].tolist() == [0, 0, 0]


def test_tags_become_weights_classes_and_empty_places() -> None:
    tags, others = random_tags(7, annotated=False), random_tags(8, 5, annotated=False)
    pairs = PairRule(SamePatient(), "balanced", trust=True).pairs(tags, others, 2)
    seen: list[tuple[Tensor | None, str, Tags]] = [
        (pairs.anchor_trust, "trust", tags), (pairs.key_trust, "trust", others),
        (pairs.anchor_classes, "klass", tags), (pairs.key_classes, "klass", others),
        (pairs.anchors_usable, "usable", tags), (pairs.keys_usable, "usable", others),
    ]  # fmt: skip
    for value, tag, side in seen:
        assert value is not None
        assert value.tolist() == side.need(tag).tolist()
    assert (pairs.denominator, pairs.own, pairs.symmetric) == ("balanced", 2, True)
    plain = PairRule(SamePatient()).pairs(replace(tags, usable=None))
    assert (plain.denominator, plain.own) == ("shared", 0)
    assert [plain.anchor_trust, plain.key_trust, plain.anchor_classes, plain.anchors_usable] == [None] * 4


def test_unlabelled_pixels_are_left_out_as_empty_places_are() -> None:
    tags = Tags(klass=torch.tensor([0, IGNORE, 1, 0]), usable=torch.tensor([True, True, True, False]))
    for relation in (SameClass(), ~SameClass()):
        pairs = PairRule(relation).pairs(tags)
        assert pairs.anchors_usable is not None
        assert pairs.keys_usable is not None
        assert pairs.anchors_usable.tolist() == pairs.keys_usable.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("rule", "tag"),
    [
        (PairRule(SamePoint()), "point"),
        (PairRule(SameImage(), trust=True), "trust"),
        (PairRule(SameImage(), "balanced"), "klass"),
        (PairRule(SameImage().among(SamePatient())), "patient"),
    ],
)
def test_a_missing_tag_of_either_side_is_named(rule: PairRule, tag: str) -> None:
    full, lacking = random_tags(0), Tags(image=torch.arange(3))
    for sides in ((lacking, None), (full, lacking), (lacking, full)):
        with pytest.raises(ValueError, match=f"the pixels have no tag '{tag}'; they have image"):
            rule.pairs(*sides)


def test_leaving_out_background_gives_the_loss_of_background_that_is_no_anchor() -> None:
    tags = random_tags(9, annotated=False)
    embeddings = torch.randn(26, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = PairRule(SameClass(without=(0,))).pairs(tags)
    found = info_nce(embeddings, None, pairs, temperature=0.3)
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    logits = (unit @ unit.T / 0.3).tolist()
    klass, usable = tags.need("klass").tolist(), tags.need("usable").tolist()
    terms = []
    for i in range(26):
        others = [j for j in range(26) if j != i and usable[j] and klass[j] != IGNORE]
        positives = [j for j in others if klass[j] == klass[i]]
        if klass[i] > 0 and usable[i] and positives:
            total = math.log(sum(math.exp(logits[i][j]) for j in others))
            terms.append(sum(total - logits[i][j] for j in positives) / len(positives))
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
