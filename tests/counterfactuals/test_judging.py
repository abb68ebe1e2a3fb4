"""Scores and judgements by hand-worked numbers, with predictors whose answer is set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig
from scantling.counterfactuals.attributes import DeclaredAttribute, encoded, found
from scantling.counterfactuals.judging import (
    as_floats,
    held_out_scores,
    judge_counterfactuals,
    read_attributes,
    readable,
)

SCANNER = found("scanner", DeclaredAttribute(), ["A", "B"])
GRADE = found("grade", DeclaredAttribute(kind="categorical"), ["1", "2", "3"] * 5)
AGE = found("age", DeclaredAttribute(kind="continuous"), ["40", "60"])
ATTRIBUTES = (SCANNER, GRADE, AGE)


def contexts(*rows: tuple[str, str, str]) -> torch.Tensor:
    columns = [encoded(a, a.read([row[i] for row in rows])) for i, a in enumerate(ATTRIBUTES)]
    return torch.cat(columns, dim=1).float()


def predictor(*, dimensions: int = 2) -> AttributePredictor:
    generator = torch.Generator().manual_seed(0)
    return AttributePredictor(
        PredictorConfig(widths=(8,)), ATTRIBUTES, in_channels=1, dimensions=dimensions, generator=generator
    )


def test_stored_grey_values_become_minus_1_to_1_and_floats_stay() -> None:
    stored = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    torch.testing.assert_close(as_floats(stored), torch.tensor([[[[-1, 1, -0.6]]]]))
    values = np.array([[[[-0.25, 1.0]]]], dtype=np.float32)
    assert as_floats(values).tolist() == values.tolist()
    as_floats(values).zero_()
    assert values.max() == 1.0


@pytest.mark.parametrize(("dimensions", "size"), [(2, (9, 8)), (3, (8, 5, 7))])
def test_reading_in_batches_equals_the_network_on_all_images(dimensions: int, size: tuple[int, ...]) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (5, 1, *size), dtype=np.uint8)
    network = predictor(dimensions=dimensions)
    read = read_attributes(network, stored, batch_size=2)
    torch.testing.assert_close(read.outputs, network(as_floats(stored)).detach())
    torch.testing.assert_close(read.features, network.features(as_floats(stored)).detach())
    torch.testing.assert_close(read_attributes(network, as_floats(stored)).outputs, read.outputs)
    assert read_attributes(network, stored[:0]).outputs.shape == (0, 6)


def test_scores_are_the_mean_share_read_rightly_a_value_and_the_variance_explained() -> None:
    stated = contexts(("A", "1", "40"), ("A", "2", "60"), ("A", "2", ""), ("B", "2", "60"), ("", "1", "40"))
    outputs = torch.tensor(
        [
            [-1, 3, 0, 0, -1.0, 0],
            [-2, 0, 9, 0, 0.0, 0],
            [5, 0, 9, 0, 9.0, 0],
            [1, 0, 0, 9, 1.0, 0],
            [1, 0, 0, 9, -1.0, 0],
        ]
    )
    scores = held_out_scores(outputs, stated, ATTRIBUTES)
    assert scores["scanner"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["grade"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["age"] == pytest.approx(1 - 1 / 4)  # ages are -1, 1, 1, -1 deviations; one is off by 1


def test_an_attribute_of_which_one_value_or_none_was_held_out_has_no_score() -> None:
    stated = contexts(("A", "", "40"), ("A", "", "40"))
    scores = held_out_scores(torch.zeros(2, 6), stated, ATTRIBUTES)
    assert all(math.isnan(score) for score in scores.values())
    none = held_out_scores(torch.zeros(0, 6), contexts(("A", "1", "40"))[:0], ATTRIBUTES)
    assert all(math.isnan(score) for score in none.values())


def test_an_attribute_is_readable_where_its_score_is_well_above_chance() -> None:
    assert readable({"scanner": 0.71, "grade": 0.59, "age": 0.41}, ATTRIBUTES) == ("scanner", "age")
    assert readable({"scanner": 0.69, "grade": 0.61, "age": math.nan}, ATTRIBUTES) == ("grade",)
    assert readable({}, ATTRIBUTES) == ()
    assert readable({"scanner": 0.69}, ATTRIBUTES, least_skill=0.3) == ("scanner",)


def fixed_answers(monkeypatch: pytest.MonkeyPatch, network: AttributePredictor, before: object, after: object) -> None:
    """The outputs of the predictor: first those of the images, then those of the counterfactuals."""
    answers = iter([torch.tensor(before), torch.tensor(after)])
    monkeypatch.setattr(network.head, "forward", lambda features: next(answers))


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_a_judgement_is_the_worst_agreement_with_what_changed_and_the_worst_loss_with_what_did_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = predictor()
    before = contexts(("A", "1", "40"), ("A", "2", "60"), ("A", "1", ""))
    after = contexts(("B", "1", "40"), ("B", "2", "40"), ("A", "1", ""))
    flat = [0.0, 0.0, 0.0]
    fixed_answers(
        monkeypatch,
        network,
        [[logit(0.1), *flat, -1.0, 0], [logit(0.1), *flat, 1.0, 0], [logit(0.2), *flat, 0, 0]],
        [[logit(0.7), *flat, 0.0, 0], [logit(0.9), *flat, 0.0, 0], [logit(0.7), *flat, 0, 0]],
    )
    pictures = np.zeros((3, 1, 4, 4), dtype=np.float32)
    found = judge_counterfactuals(network, pictures, pictures + 1, before, after)
    near = math.exp(-0.5)
    np.testing.assert_allclose(found.effectiveness, [0.7, near, math.nan], rtol=1e-5)
    np.testing.assert_allclose(found.kept, [near, 1.0, 0.5], rtol=1e-5)
    np.testing.assert_allclose(found.agreement[:, 0], [0.7, 0.9, 0.3], rtol=1e-5)


def test_only_the_attributes_asked_about_count_and_a_misread_image_is_not_held_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = predictor()
    before, after = contexts(("A", "1", "40")), contexts(("B", "1", "40"))
    answers = ([[0.0, 0.0, 9.0, 0.0, 1.0, 0.0]], [[0.0, 0.0, 9.0, 0.0, 1.0, 0.0]])
    pictures = np.zeros((1, 1, 4, 4), dtype=np.float32)
    fixed_answers(monkeypatch, network, *answers)
    found = judge_counterfactuals(network, pictures, pictures, before, after)
    assert found.effectiveness.tolist() == [0.5]
    assert found.kept.tolist() == [1.0]
    fixed_answers(monkeypatch, network, *answers)
    blind = judge_counterfactuals(network, pictures, pictures, before, after, asked=("grade",))
    assert blind.effectiveness.isnan().all()
    assert blind.kept.tolist() == [1.0]
