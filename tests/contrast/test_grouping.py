"""Groups as equality of numbers: what blocks say, what is joined, and how tightly numbers are bounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scantling.contrast.grouping import Grouping
from scantling.losses.pairs import Groups

HUGE = 2**62


def equal(anchors: Tensor, keys: Tensor) -> list[list[bool]]:
    return [[a == k and a >= 0 for k in keys.tolist()] for a in anchors.tolist()]


def whole(grouping: Grouping) -> list[list[bool]]:
    mask = grouping.same()(slice(None), slice(None))
    return torch.as_tensor(mask).expand(len(grouping.anchors), len(grouping.keys)).tolist()


def by_groups(groups: Groups) -> list[list[bool]]:
    assert int(max(groups.anchors.max(), groups.keys.max())) < groups.n_groups
    assert int(min(groups.anchors.min(), groups.keys.min())) >= -1
    return equal(groups.anchors, groups.keys)


ANCHORS, KEYS = torch.tensor([3, -1, 0, 7, -5, 3]), torch.tensor([7, -1, 3, 2, -5])


def test_numbers_are_the_same_where_they_are_equal_and_not_negative() -> None:
    grouping = Grouping(anchors=ANCHORS, keys=KEYS)
    assert whole(grouping) == equal(ANCHORS, KEYS)
    assert by_groups(grouping.groups()) == equal(ANCHORS, KEYS)
    assert grouping.groups().n_groups == 8


def test_numbers_of_any_type_are_compared() -> None:
    grouping = Grouping(anchors=ANCHORS.to(torch.int8), keys=KEYS)
    assert whole(grouping) == by_groups(grouping.groups()) == equal(ANCHORS, KEYS)


def test_a_block_of_one_group_or_of_none_in_common_holds_no_mask() -> None:
    numbers = torch.tensor([0, 0, 1, 1, -1, -1])
    same = Grouping(anchors=numbers, keys=numbers).same()
    first, second, none = slice(0, 2), slice(2, 4), slice(4, 6)
    assert [same(first, first), same(first, second), same(second, first), same(none, none)] == [
        True,
        False,
        False,
        False,
    ]
    assert same(slice(0, 0), first).shape == (0, 2)
    mixed = same(slice(1, 3), second)
    assert mixed.tolist() == [[False, False], [True, True]]


def test_large_numbers_are_numbered_anew_without_gaps() -> None:
    grouping = Grouping(anchors=ANCHORS + HUGE * (ANCHORS >= 0), keys=KEYS + HUGE * (KEYS >= 0))
    groups = grouping.groups()
    assert by_groups(groups) == equal(ANCHORS, KEYS)
    assert groups.n_groups == 4  # 0, 2, 3 and 7


@pytest.mark.parametrize(("bound", "scale"), [(None, 1), (2, 1), (None, HUGE // 2)])
def test_joined_groups_are_the_same_where_both_are(bound: int | None, scale: int) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (
        Grouping(
            anchors=torch.randint(-1, 2, (12,), generator=generator) * scale,
            keys=torch.randint(-1, 2, (9,), generator=generator) * scale,
            bound=bound,
        )
        for _ in range(2)
    )
    joint = first.joined(second)
    rows = zip(equal(first.anchors, first.keys), equal(second.anchors, second.keys), strict=True)
    expected = [[a and b for a, b in zip(*row, strict=True)] for row in rows]
    assert sum(map(sum, expected)) > 3
    assert whole(joint) == by_groups(joint.groups()) == expected
    assert joint.groups().n_groups <= 4


def test_wide_bounds_are_not_multiplied() -> None:
    numbers = torch.arange(4)
    wide = Grouping(anchors=numbers, keys=numbers, bound=10**9)
    assert wide.joined(wide).groups().n_groups == 4


def test_a_given_bound_is_taken_as_it_is() -> None:
    numbers = torch.tensor([0, 1])
    assert Grouping(anchors=numbers, keys=numbers, bound=5).groups().n_groups == 5


def test_no_pixels_have_no_groups() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    grouping = Grouping(anchors=empty, keys=empty)
    for groups in (grouping.groups(), grouping.joined(grouping).groups()):
        assert (len(groups.anchors), len(groups.keys), groups.n_groups) == (0, 0, 1)
