"""Every relation and every way to combine them, written out pair by pair: + yes, - no, ? unknown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from scantling.contrast.binding import Binding, Doubt
from scantling.contrast.nearness import nearer
from scantling.contrast.pixels import Tags
from scantling.contrast.relations import (
    ACROSS_IMAGES,
    ACROSS_PATIENTS,
    ACROSS_SITES,
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
from scantling.contrast.truth import Truth
from scantling.shapes import IGNORE

ALL = slice(None)


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def floats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def said(relation: Relation, anchors: Tags, keys: Tags | None = None) -> list[str]:
    keys = anchors if keys is None else keys
    truth = relation.bind(anchors, keys).truth(ALL, ALL)
    shape = [len(next(iter(tags.known().values()))) for tags in (anchors, keys)]
    yes, known = (torch.as_tensor(mask).expand(shape).tolist() for mask in truth)
    return [
        "".join("+" if y else "-" if k else "?" for y, k in zip(*row, strict=True))
        for row in zip(yes, known, strict=True)
    ]


@dataclass(frozen=True)
class Given(Relation):
    """A relation that is what it is said to be."""

    rows: tuple[str, ...]

    def bind(self, anchors: Tags, keys: Tags) -> Binding:
        yes, known = (torch.tensor([[s in which for s in row] for row in self.rows]) for which in ("+", "+-"))
        return Binding(truth=lambda a, k: Truth(yes[a, k], known[a, k]), doubt=Doubt.SOME)


FIRST, SECOND = Given(("+++", "???", "---")), Given(("+?-", "+?-", "+?-"))
THREE = Tags(image=ints(0, 1, 2))


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        (FIRST & SECOND, ["+?-", "??-", "---"]),
        (FIRST | SECOND, ["+++", "+??", "+?-"]),
        (~FIRST, ["---", "???", "+++"]),
        (~SECOND, ["-?+", "-?+", "-?+"]),
        (FIRST.among(SECOND), ["+??", "???", "-??"]),
        (FIRST.among(SECOND, only="positives"), ["+??", "???", "---"]),
        (FIRST.among(SECOND, only="negatives"), ["+++", "???", "-??"]),
    ],
)
def test_truth_tables_of_the_operators(relation: Relation, expected: list[str]) -> None:
    assert said(relation, THREE) == expected


@pytest.mark.parametrize("relation", [FIRST, SECOND, SameImage()])
@pytest.mark.parametrize("condition", [SECOND, FIRST, ~SameImage()])
def test_only_positives_and_only_negatives_are_short_for_a_condition(relation: Relation, condition: Relation) -> None:
    positives, negatives = relation.among(condition | ~relation), relation.among(condition | relation)
    assert said(relation.among(condition, only="positives"), THREE) == said(positives, THREE)
    assert said(relation.among(condition, only="negatives"), THREE) == said(negatives, THREE)


@pytest.mark.parametrize(
    ("relation", "tag"),
    [
        (SamePoint(), "point"),
        (SameImage(), "image"),
        (SamePatient(), "patient"),
        (SameSite(), "site"),
        (SameView(), "view"),
    ],
)
def test_equal_numbers_are_the_same_and_negative_ones_are_the_same_as_none(relation: Relation, tag: str) -> None:
    tags = Tags(**{tag: ints(4, -1, 7, 4, -1)})
    assert said(relation, tags) == ["+--+-", "-----", "--+--", "+--+-", "-----"]
    assert said(relation, tags, Tags(**{tag: ints(7, -1)})) == ["--", "--", "+-", "--", "--"]


def test_a_pixel_without_confidence_group_is_unknown() -> None:
    assert said(SameGroup(), Tags(group=ints(0, 1, -1, 0))) == ["+-?+", "-+?-", "????", "+-?+"]


def test_same_class_knows_nothing_of_a_pixel_that_nobody_labelled() -> None:
    assert said(SameClass(), Tags(klass=ints(2, IGNORE, 0, 2))) == ["+?-+", "????", "-?+-", "+?-+"]
    assert said(~SameClass(), Tags(klass=ints(2, IGNORE, 0, 2))) == ["-?+-", "????", "+?-+", "-?+-"]


def test_classes_that_are_left_out_are_negatives_of_the_others_and_nothing_to_each_other() -> None:
    tags = Tags(klass=ints(0, 1, 0, 2, IGNORE, 1))
    left_out = ["?-?-?-", "-+--?+", "?-?-?-", "---+?-", "??????", "-+--?+"]
    assert said(SameClass(without=(0,)), tags) == left_out
    more = ["?-?-?-", "-?--??", "?-?-?-", "---+?-", "??????", "-?--??"]
    assert said(SameClass(without=(0, 1)), tags) == more


def test_a_background_label_excludes_only_the_classes_that_were_looked_for() -> None:
    # background, spleen, liver; the first source knows the spleen, the second the liver, the third both
    tags = Tags(
        klass=ints(1, 0, 2, 0, IGNORE, 0, 1),
        annotated=torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]]).bool(),
    )
    assert said(SameClass(), tags) == [
        "+--??-+",  # spleen
        "-?????-",  # background or liver
        "-?+-?--",  # liver
        "??-????",  # background or spleen
        "???????",  # nobody looked
        "-?-??+-",  # background
        "+--??-+",
    ]
    assert said(SameClass(without=(0,)), tags)[5] == "-?-???-"


def test_a_label_of_a_class_that_was_not_looked_for_is_unknown() -> None:
    tags = Tags(klass=ints(1, 2, 0), annotated=torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 1]]).bool())
    assert said(SameClass(), tags) == ["???", "?+?", "???"]


@pytest.mark.parametrize("n_classes", [1, 7, 8, 15, 16, 31, 32, 70])
def test_sets_of_any_number_of_classes_are_compared_as_sets(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    klass = rng.integers(IGNORE, n_classes, size=(2, 40)) * rng.integers(0, 2, size=(2, 40))
    annotated = rng.random((2, 40, n_classes)) < rng.random((2, 40, 1)) ** 0.1
    annotated[..., 0] = True
    annotated[:, 0, n_classes - 1] = n_classes == 1  # one pixel at least knows some of them only
    sides = [
        Tags(klass=torch.from_numpy(k), annotated=torch.from_numpy(a)) for k, a in zip(klass, annotated, strict=True)
    ]

    def classes(side: int, place: int) -> set[int]:
        label, known = klass[side, place], annotated[side, place]
        if label == IGNORE or not known[label]:
            return set(range(n_classes))
        return {int(label)} | ({k for k in range(n_classes) if not known[k]} if label == 0 else set())

    def same(i: int, j: int) -> str:
        mine, theirs = classes(0, i), classes(1, j)
        if IGNORE in (klass[0, i], klass[1, j]):
            return "?"
        return "+" if len(mine | theirs) == 1 else "?" if mine & theirs else "-"

    assert said(SameClass(), *sides) == ["".join(same(i, j) for j in range(40)) for i in range(40)]


def test_prototypes_are_keys_of_their_class() -> None:
    pixels = Tags(klass=ints(1, 0, IGNORE), annotated=torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool())
    prototypes = Tags(klass=ints(0, 1, 2))
    assert said(SameClass(), pixels, prototypes) == ["-+-", "?-?", "???"]


def test_slice_bands_are_equal_parts_of_the_volume_and_the_top_belongs_to_the_last() -> None:
    tags = Tags(slice_position=floats(0.0, 0.2499, 0.25, 0.75, 1.0))
    assert said(SameSliceBand(4), tags) == ["++---", "++---", "--+--", "---++", "---++"]
    assert said(SameSliceBand(1), tags) == ["+++++"] * 5


def test_slices_within_a_distance_are_strictly_within_it() -> None:
    assert said(SliceWithin(0.25), Tags(slice_position=floats(0.5, 0.75, 0.625))) == ["+-+", "-++", "+++"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_within_is_strict_at_both_radii_and_ends_at_the_image(dtype: torch.dtype) -> None:
    position = torch.tensor([[0, 0, 0], [3, 4, 0], [3, 4, 0.5], [0, 8, 6], [0, 0, 0]], dtype=dtype)
    tags = Tags(image=ints(0, 0, 0, 0, 1), position_mm=position)
    assert said(Within(5.0), tags) == ["+----", "-++--", "-++--", "---+-", "----+"]
    assert said(Within(5.0, exclusion_mm=10.0), tags) == ["+??--", "?++?-", "?++?-", "-??+-", "----+"]
    assert said(Within(5.01, exclusion_mm=5.01), tags) == ["++---", "+++--", "-++--", "---+-", "----+"]
    flat = Tags(image=tags.image, position_mm=position[:, :2])
    assert said(Within(5.01), flat) == ["+++--", "++++-", "++++-", "-+++-", "----+"]


def test_distances_whose_squares_overflow_half_precision_are_right() -> None:
    tags = Tags(image=ints(0, 0, 0), position_mm=torch.tensor([[0.0], [280.0], [310.0]], dtype=torch.float16))
    assert said(Within(300.0), tags) == ["++-", "+++", "-++"]


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_distances_of_more_pairs_than_are_made_at_a_time_are_all_of_them(n_axes: int) -> None:
    rng = np.random.default_rng(n_axes)
    mine, theirs = rng.normal(size=(n_axes, 300)), rng.normal(size=(n_axes, 1000))
    distance = np.sqrt(((mine[:, :, None] - theirs[:, None]) ** 2).sum(axis=0))
    masks = nearer(torch.from_numpy(mine), torch.from_numpy(theirs), 0.7, 1.3)
    for mask, radius in zip(masks, (0.7, 1.3), strict=True):
        np.testing.assert_array_equal(mask.numpy(), distance < radius)
    for n in (0, 1):
        assert nearer(torch.from_numpy(mine[:, :n]), torch.from_numpy(theirs[:, :0]), 1.0)[0].shape == (n, 0)


# Two samples of two views, of patients 0 and 1; the first place of each is seen in both views.
PICTURES = Tags(
    image=ints(0, 0, 0, 1, 1, 1),
    patient=ints(5, 5, 5, 6, 6, 6),
    site=ints(2, 2, 2, 2, 2, 2),
    view=ints(0, 1, 1, 0, 1, 1),
    point=ints(0, 0, -1, 1, 1, -1),
    klass=ints(1, 1, 2, 1, 1, 2),
)


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        (ACROSS_VIEWS, ["-++-++", "+--+--", "+--+--", "-++-++", "+--+--", "+--+--"]),
        (ACROSS_IMAGES, ["---+++"] * 3 + ["+++---"] * 3),
        (ACROSS_PATIENTS, ["---+++"] * 3 + ["+++---"] * 3),
        (ACROSS_SITES, ["------"] * 6),
        (NOT_OF_ONE_PICTURE, ["-+++++", "+--+++", "+--+++", "+++-++", "++++--", "++++--"]),
    ],
)
def test_switches(switch: Relation, expected: list[str]) -> None:
    assert said(switch, PICTURES) == expected


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        # points of the two views: only pairs of different views take part
        (SamePoint().among(ACROSS_VIEWS), ["?+-?--", "+??-??", "-??-??", "?--?+-", "-??+??", "-??-??"]),
        # one class, compared with other patients alone
        (SameClass().among(ACROSS_PATIENTS), ["???++-"] * 2 + ["???--+"] + ["++-???"] * 2 + ["--+???"]),
        # positives of other patients, negatives of all: what is alike within a patient is neither
        (
            SameClass().among(ACROSS_PATIENTS, only="positives"),
            ["??-++-", "??-++-", "--?--+", "++-??-", "++-??-", "--+--?"],
        ),
        # positives of all, negatives of other patients
        (
            SameClass().among(ACROSS_PATIENTS, only="negatives"),
            ["++?++-", "++?++-", "??+--+", "++-++?", "++-++?", "--+??+"],
        ),
        # what is alike within a patient is a negative
        (SameClass() & ACROSS_PATIENTS, ["---++-", "---++-", "-----+", "++----", "++----", "--+---"]),
    ],
)
def test_switches_for_both_for_positives_and_for_negatives(relation: Relation, expected: list[str]) -> None:
    assert said(relation, PICTURES) == expected


def test_near_places_can_be_left_out_of_the_negatives_of_the_same_point() -> None:
    tags = Tags(image=ints(0, 0, 0, 1), point=ints(3, 3, 4, 5), position_mm=floats(0, 0, 9, 0).unsqueeze(1))
    assert said(SamePoint().among(~Within(12), only="negatives"), tags) == ["++?-", "++?-", "??+-", "---+"]


def test_other_slices_of_the_band_can_be_left_out_of_the_negatives_of_an_image() -> None:
    tags = Tags(image=ints(0, 0, 1, 2), slice_position=floats(0.1, 0.1, 0.2, 0.9))
    assert said(SameImage().among(~SameSliceBand(4), only="negatives"), tags) == ["++?-", "++?-", "??+-", "---+"]


MISSING: dict[str, tuple[Relation, Tags]] = {
    "point": (SamePoint(), THREE),
    "image": (Within(1.0), Tags(position_mm=torch.zeros(3, 2))),
    "position_mm": (Within(1.0), THREE),
    "patient": (SameImage() & SamePatient(), THREE),
    "site": (SameImage() | ACROSS_SITES, THREE),
    "view": (SameImage().among(ACROSS_VIEWS), THREE),
    "klass": (SameClass(), THREE),
    "group": (SameGroup(), THREE),
    "slice_position": (SameSliceBand(4) | SliceWithin(0.1), THREE),
}


@pytest.mark.parametrize("tag", MISSING)
def test_a_missing_tag_is_named_when_the_relation_is_bound(tag: str) -> None:
    relation, tags = MISSING[tag]
    with pytest.raises(ValueError, match=f"the pixels have no tag '{tag}'; they have"):
        relation.bind(tags, tags)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Within(0.0), r"Within: radius_mm must be > 0, got 0.0"),
        (lambda: Within(5.0, exclusion_mm=3.0), r"Within: exclusion_mm is 3.0, less than radius_mm 5.0"),
        (lambda: SameSliceBand(0), r"SameSliceBand: bands must be >= 1, got 0"),
        (lambda: SliceWithin(-0.1), r"SliceWithin: distance must be > 0, got -0.1"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Relation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_two_sides_must_know_the_same_number_of_classes() -> None:
    sides = [Tags(klass=ints(0), annotated=torch.eye(n)[:1].bool()) for n in (2, 3)]
    with pytest.raises(ValueError, match="'annotated' of the anchors has 2 classes, of the keys 3"):
        SameClass().bind(*sides)


def test_relations_are_values() -> None:
    assert SameClass() & ~SameImage() == SameClass() & ACROSS_IMAGES
    assert len({Within(math.pi), Within(math.pi), SamePoint().among(ACROSS_VIEWS), SamePoint()}) == 3
