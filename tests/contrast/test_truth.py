"""Three-valued logic of masks against the smallest, the largest and the negative of -1, 0 and 1."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from scantling.contrast.truth import Mask, Truth, conjunction, disjunction, negation, restriction

VALUES = (1, 0, -1)  # yes, unknown, no


def as_constant(value: int) -> Truth:
    return Truth(yes=value == 1, known=value != 0)


def as_masks(value: int) -> Truth:
    return Truth(yes=torch.tensor([[value == 1]]), known=torch.tensor([[value != 0]]))


def as_certain_mask(value: int) -> Truth:
    return Truth(yes=torch.tensor([[value == 1]]), known=True) if value else Truth(yes=False, known=False)


def value_of(truth: Truth) -> int:
    yes, known = bool(truth.yes), bool(truth.known)
    assert known or not yes
    return 1 if yes else -1 if known else 0


def among(value: int, condition: int) -> int:
    return value if condition == 1 else 0


TWO: dict[str, tuple[Callable[[Truth, Truth], Truth], Callable[[int, int], int]]] = {
    "and": (conjunction, min),
    "or": (disjunction, max),
    "among": (lambda a, b: restriction(a, b, None), among),
    "positives among": (lambda a, b: restriction(a, b, "positives"), lambda a, b: among(a, max(b, -a))),
    "negatives among": (lambda a, b: restriction(a, b, "negatives"), lambda a, b: among(a, max(b, a))),
}
FORMS = (as_constant, as_masks, as_certain_mask)


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("forms", list(itertools.product(FORMS, FORMS)))
def test_two_values_combine_as_numbers_do_whether_masks_or_constants(
    name: str, forms: tuple[Callable[[int], Truth], Callable[[int], Truth]]
) -> None:
    combine, expected = TWO[name]
    for first, second in itertools.product(VALUES, VALUES):
        found = combine(forms[0](first), forms[1](second))
        assert value_of(found) == expected(first, second), (first, second)


@pytest.mark.parametrize("form", FORMS)
def test_not_changes_the_sign(form: Callable[[int], Truth]) -> None:
    assert [value_of(negation(form(value))) for value in VALUES] == [-1, 0, 1]


def test_constants_stay_constants_so_that_a_uniform_block_holds_no_mask() -> None:
    mask = Truth(yes=torch.tensor([[True, False]]), known=True)
    never, always, unknown = as_constant(-1), as_constant(1), as_constant(0)
    uniform: list[Mask] = [
        conjunction(never, mask).yes, disjunction(always, mask).yes, restriction(mask, never, None).known,
        restriction(mask, unknown, "negatives").known is mask.yes, restriction(never, mask, "positives").known,
        conjunction(mask, always).known, disjunction(mask, never).known, negation(mask).known,
    ]  # fmt: skip
    assert uniform == [False, True, False, True, True, True, True, True]
