"""Which attribute is set anew, and to what: never to what it was, and every other value with its due frequency."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.soft_interventions import draw_interventions
from scantling.errors import PlanMismatch

ATTRIBUTES = (
    Attribute(name="scanner", kind="binary", values=("A", "B"), shares=(0.5, 0.5), mechanism="logistic"),
    Attribute(name="grade", kind="categorical", values=("1", "2", "3"), shares=(0.2, 0.3, 0.5), mechanism="logistic"),
    Attribute(name="age", kind="continuous", mean=50.0, scale=10.0, mechanism="gaussian"),
)
# columns: scanner = B, missing | grade 1, 2, 3, missing | age, missing
B_2_OLD = [1.0, 0, 0, 1, 0, 0, 1.5, 0]
ALL_MISSING = [0.0, 1, 0, 0, 0, 1, 0, 1]
COLUMNS = ((0, 2), (2, 6), (6, 8))


def drawn(row: list[float], n: int, **options: object) -> tuple[Tensor, Tensor]:
    contexts = torch.tensor([row]).repeat(n, 1)
    rng = torch.Generator().manual_seed(3)
    changed, which = draw_interventions(contexts, ATTRIBUTES, rng, **options)  # type: ignore[arg-type]
    return changed, which


def test_one_attribute_is_set_anew_and_the_others_stay() -> None:
    changed, which = drawn(B_2_OLD, 300)
    for row, attribute in zip(changed, which.tolist(), strict=True):
        for position, (first, last) in enumerate(COLUMNS):
            same = torch.equal(row[first:last], torch.tensor(B_2_OLD[first:last]))
            assert same == (position != attribute)
    assert [count > 70 for count in which.bincount(minlength=3).tolist()] == [True] * 3


def test_a_class_becomes_each_other_value_equally_often_and_a_number_a_draw_of_its_own_spread() -> None:
    changed, which = drawn(B_2_OLD, 6000)
    scanner, grade, age = (changed[which == k][:, first:last] for k, (first, last) in enumerate(COLUMNS))
    assert scanner.unique(dim=0).tolist() == [[0.0, 0.0]]
    shares = grade.mean(dim=0).tolist()
    assert shares[1:2] + shares[3:] == [0.0, 0.0]  # neither what it was nor missing
    assert shares[0] == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / len(grade)))
    assert age[:, 1].max() == 0
    assert float(age[:, 0].mean()) == pytest.approx(0, abs=4 / math.sqrt(len(age)))
    assert float(age[:, 0].std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(age)))


def test_a_missing_attribute_gets_any_of_its_values() -> None:
    changed, which = drawn(ALL_MISSING, 6000)
    scanner, grade, _ = (changed[which == k][:, first:last] for k, (first, last) in enumerate(COLUMNS))
    assert float(scanner[:, 0].mean()) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / len(scanner)))
    assert scanner[:, 1].max() == grade[:, 3].max() == 0
    assert grade[:, :3].sum(dim=1).unique().tolist() == [1.0]
    for share in grade[:, :3].mean(dim=0).tolist():
        assert share == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / len(grade)))


def test_only_the_named_attributes_are_drawn_and_equal_generators_draw_the_same() -> None:
    changed, which = drawn(B_2_OLD, 50, among=[1])
    assert which.unique().tolist() == [1]
    again, _ = drawn(B_2_OLD, 50, among=[1])
    assert torch.equal(changed, again)
    with pytest.raises(ValueError, match="no attribute to draw from"):
        drawn(B_2_OLD, 2, among=[])


def test_a_context_of_other_attributes_is_refused() -> None:
    with pytest.raises(PlanMismatch, match="context columns"):
        drawn(B_2_OLD[:-1], 2)
