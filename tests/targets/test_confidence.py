from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from scantling.evaluation.overlap import dice
from scantling.shapes import IGNORE
from scantling.targets.confidence import (
    ConfidentLabels,
    agreement,
    class_quantiles,
    confident_labels,
    entropy,
    foreground_agreement,
    margin,
    polynomial_ramp,
    predictive_uncertainty,
    rising_entropy_threshold,
    running_mean,
    sigmoid_ramp,
    top_probability,
    with_annotations,
)

SHAPES = [(2, 4, 5, 6), (2, 3, 3, 4, 5)]


def probabilities(*shape: int, seed: int = 0, axis: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=draw, dtype=torch.float64)).softmax(dim=axis)


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_equals_that_of_scipy_and_normalised_lies_between_0_and_1(shape: tuple[int, ...]) -> None:
    probs = probabilities(*shape)
    torch.testing.assert_close(entropy(probs), torch.from_numpy(scipy.stats.entropy(probs.numpy(), axis=1)))
    torch.testing.assert_close(
        entropy(probs, normalised=True), torch.from_numpy(scipy.stats.entropy(probs.numpy(), axis=1, base=shape[1]))
    )


def test_entropy_of_a_certain_and_of_an_even_prediction() -> None:
    probs = torch.tensor([[[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]]])
    torch.testing.assert_close(entropy(probs), torch.tensor([[0.0, math.log(4)]]))
    assert entropy(probs.half()).dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_margin_and_top_probability_equal_those_of_sorted_values(shape: tuple[int, ...]) -> None:
    probs = probabilities(*shape)
    ordered = np.sort(probs.numpy(), axis=1)
    np.testing.assert_allclose(margin(probs), ordered[:, -1] - ordered[:, -2], rtol=1e-12)
    np.testing.assert_allclose(top_probability(probs), ordered[:, -1], rtol=1e-12)


def test_measures_that_need_two_classes_say_so() -> None:
    one = torch.ones(1, 1, 3)
    for measure in (margin, lambda probs: entropy(probs, normalised=True)):
        with pytest.raises(ValueError, match="two classes or more, got 1"):
            measure(one)


def test_agreement_is_the_share_of_the_largest_party_pixel_by_pixel() -> None:
    maps = torch.from_numpy(np.random.default_rng(0).integers(-1, 3, size=(5, 2, 3, 4)))
    shares = agreement(maps, n_classes=3)
    for place in itertools.product(range(2), range(3), range(4)):
        said = [int(one[place]) for one in maps]
        assert float(shares[place]) == pytest.approx(max(said.count(k) for k in range(3)) / 5)
    assert (agreement(maps[:1].clamp(min=0).expand(5, 2, 3, 4), n_classes=3) == 1).all()


@pytest.mark.parametrize("shape", [(8, 9), (4, 5, 6)])
def test_foreground_agreement_is_the_mean_dice_of_all_pairs_by_the_evaluations_own_ruler(
    shape: tuple[int, ...],
) -> None:
    maps = np.random.default_rng(1).integers(0, 3, size=(3, *shape))
    scores = []
    for (one, other), k in itertools.product(itertools.combinations(maps, 2), (1, 2)):
        true = ((one == k) & (other == k)).sum()
        scores.append(float(dice(true, (one == k).sum() - true, (other == k).sum() - true)))
    assert foreground_agreement(torch.from_numpy(maps), n_classes=3) == pytest.approx(np.mean(scores), abs=1e-6)


def test_foreground_agreement_leaves_out_classes_nobody_predicts_and_is_undefined_without_foreground() -> None:
    maps = torch.zeros(2, 4, 4, dtype=torch.long)
    assert math.isnan(foreground_agreement(maps, n_classes=3))
    maps[:, 0] = 1
    assert foreground_agreement(maps, n_classes=3) == 1
    maps[1, 0] = 2
    assert foreground_agreement(maps, n_classes=3) == 0
    with pytest.raises(ValueError, match="two predictions or more, got 1"):
        foreground_agreement(maps[:1], n_classes=3)


def test_predictive_uncertainty_equals_its_definition_pixel_by_pixel() -> None:
    samples = probabilities(4, 2, 3, 5, seed=2, axis=2)
    found = predictive_uncertainty(samples)
    for b, i in itertools.product(range(2), range(5)):
        each = samples[:, b, :, i].numpy()
        total = scipy.stats.entropy(each.mean(axis=0))
        assert float(found.entropy[b, i]) == pytest.approx(total, rel=1e-10)
        own = np.mean([scipy.stats.entropy(one) for one in each])
        assert float(found.mutual_information[b, i]) == pytest.approx(total - own, rel=1e-8)


def test_samples_that_agree_have_no_mutual_information_and_contradicting_ones_have_all_of_it() -> None:
    alike = probabilities(1, 2, 3, 5, axis=2).expand(6, 2, 3, 5)
    assert predictive_uncertainty(alike).mutual_information.max() < 1e-12
    against = torch.eye(2).reshape(2, 1, 2, 1)
    found = predictive_uncertainty(against)
    torch.testing.assert_close(found.mutual_information, found.entropy)
    torch.testing.assert_close(found.entropy, torch.full((1, 1), math.log(2)))


def test_the_rising_threshold_has_its_published_values() -> None:
    assert rising_entropy_threshold(0.0) == pytest.approx(0.521, abs=5e-4)
    assert rising_entropy_threshold(0.5) == pytest.approx(0.570, abs=5e-4)
    assert rising_entropy_threshold(1.0) == pytest.approx(math.log(2), abs=1e-12)
    assert rising_entropy_threshold(1.0, n_classes=4) == pytest.approx(math.log(4))
    assert rising_entropy_threshold(0.0, n_classes=4, start=0.5) == pytest.approx(
        (0.5 + 0.5 * math.exp(-5)) * math.log(4)
    )


def test_the_sigmoid_ramp_has_its_published_values_and_stays_within_its_ends() -> None:
    published = {0: 0.007, 119: 0.040, 238: 0.162, 357: 0.440, 476: 0.808}
    for epoch, weight in published.items():
        assert sigmoid_ramp(epoch / 600) == pytest.approx(weight, abs=1e-3)
    assert sigmoid_ramp(-1) == sigmoid_ramp(0)
    assert sigmoid_ramp(2) == 1


def test_the_polynomial_ramp_is_a_power_that_may_begin_late() -> None:
    assert polynomial_ramp(0.5) == pytest.approx(0.5**0.9)
    assert polynomial_ramp(0.5, power=2) == 0.25
    assert polynomial_ramp(1000 / 60000, start=1000 / 60000) == 0
    assert polynomial_ramp(0.02, start=1000 / 60000) == pytest.approx(0.02**0.9)
    assert polynomial_ramp(7) == 1
    assert polynomial_ramp(-7) == 0


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 1.0])
def test_class_quantiles_equal_those_of_numpy_class_by_class(quantile: float) -> None:
    rng = np.random.default_rng(0)
    confidence, labels = rng.random((2, 5, 6)), rng.integers(-1, 3, (2, 5, 6))
    found = class_quantiles(torch.from_numpy(confidence), torch.from_numpy(labels), n_classes=4, quantile=quantile)
    for k in range(3):
        assert float(found[k]) == pytest.approx(np.quantile(confidence[labels == k], quantile), rel=1e-12)
    assert found[3] == math.inf
    with pytest.raises(ValueError, match="quantile must be in"):
        class_quantiles(torch.rand(1, 2), torch.zeros(1, 2, dtype=torch.long), n_classes=1, quantile=1.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("measure", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("per_class", [False, True])
def test_confident_labels_equal_their_definition_pixel_by_pixel(
    shape: tuple[int, ...], measure: Any, per_class: bool
) -> None:
    probs = probabilities(*shape)
    middle = {"probability": 0.8, "margin": 0.6, "entropy": 0.5}[measure]
    limits = [middle + 0.1 * (k - 1) if per_class else middle for k in range(shape[1])]
    threshold = torch.tensor(limits, dtype=torch.float64) if per_class else middle
    found = confident_labels(probs, threshold=threshold, measure=measure)
    kept = 0
    for place in itertools.product(range(shape[0]), *map(range, shape[2:])):
        p = probs[(place[0], slice(None), *place[1:])].numpy()
        k = int(p.argmax())
        sureness = {
            "probability": p[k],
            "margin": p[k] - np.delete(p, k).max(),
            "entropy": 1 - scipy.stats.entropy(p) / math.log(shape[1]),
        }[measure]
        sure = scipy.stats.entropy(p) <= limits[k] if measure == "entropy" else sureness >= limits[k]
        kept += sure
        assert int(found.label_maps[place]) == (k if sure else IGNORE)
        assert float(found.weights[place]) == pytest.approx(sureness if sure else 0, abs=1e-12)
    assert 0 < kept < found.label_maps.numel()


def test_nothing_is_sure_where_the_network_diverged_and_no_gradient_flows_back() -> None:
    probs = torch.full((1, 2, 3), math.nan)
    for measure in ("probability", "margin", "entropy"):
        found = confident_labels(probs, threshold=0.5, measure=measure)
        assert (found.label_maps == IGNORE).all()
        assert (found.weights == 0).all()
    logits = torch.randn(1, 2, 3, requires_grad=True)
    assert not confident_labels(logits.softmax(dim=1), threshold=0.1).weights.requires_grad
    assert not running_mean(None, logits.softmax(dim=1)).requires_grad


def test_annotations_override_predictions_background_included() -> None:
    predicted = ConfidentLabels(
        label_maps=torch.tensor([[1, 2, IGNORE, IGNORE]]), weights=torch.tensor([[0.9, 0.8, 0.0, 0.0]])
    )
    annotations = torch.tensor([[IGNORE, 0, 1, IGNORE]], dtype=torch.int8)
    found = with_annotations(predicted, annotations)
    assert found.label_maps.tolist() == [[1, 0, 1, IGNORE]]
    torch.testing.assert_close(found.weights, torch.tensor([[0.9, 1.0, 1.0, 0.0]]))
    torch.testing.assert_close(
        with_annotations(predicted, annotations, weight=0.5).weights, torch.tensor([[0.9, 0.5, 0.5, 0.0]])
    )


def test_the_running_mean_equals_the_sum_of_its_terms() -> None:
    seen = [probabilities(1, 3, 4, seed=n) for n in range(4)]
    mean = None
    for probs in seen:
        mean = running_mean(mean, probs, share=0.2)
    expected = 0.8**3 * seen[0] + 0.2 * (0.8**2 * seen[1] + 0.8 * seen[2] + seen[3])
    torch.testing.assert_close(mean, expected)
