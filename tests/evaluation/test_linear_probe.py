"""The linear probe; the oracles are the loss in loops, its slope by differences, and scikit-learn."""

from __future__ import annotations

import importlib
import math
import types
import warnings

import numpy as np
import pytest

from scantling.evaluation.linear_probe import TOLERANCE, LinearProbe, fit_linear_probe


def peer(name: str) -> types.ModuleType:
    """A peer's module; its own warnings are not ours to answer for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0], exc_type=ImportError)
        return importlib.import_module(name)


def task(n: int = 240, d: int = 4, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that overlap, features of very different scales, some pixels of unknown class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    features = rng.normal(size=(n, d)) + 1.2 * rng.normal(size=(3, d))[labels]
    labels[::11] = -1
    return features * [1e-3, 1.0, 50.0, 1e4][:d] + [5.0, 0.0, -3.0, 1e5][:d], labels


def loss_by_loops(
    weight: np.ndarray, bias: np.ndarray, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, l2: float
) -> float:
    """Of weights on standardised features; mean and deviation are weighted too."""
    known = [i for i in range(len(labels)) if labels[i] >= 0]
    total = sum(weights[i] for i in known)
    means = [sum(weights[i] * features[i][j] for i in known) / total for j in range(features.shape[1])]
    deviations = [
        math.sqrt(sum(weights[i] * (features[i][j] - means[j]) ** 2 for i in known) / total) for j in range(len(means))
    ]
    loss = 0.0
    for i in known:
        x = [(features[i][j] - means[j]) / deviations[j] for j in range(len(means))]
        logits = [b + sum(w * v for w, v in zip(row, x, strict=True)) for row, b in zip(weight, bias, strict=True)]
        loss += weights[i] * (math.log(sum(map(math.exp, logits))) - logits[labels[i]])
    return loss / total + l2 / 2 * float((weight**2).sum())


def on_standardised(
    probe: LinearProbe, features: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases before standardising was folded into them."""
    known = labels >= 0
    mean = np.average(features[known], axis=0, weights=weights[known])
    deviation = np.sqrt(np.average((features[known] - mean) ** 2, axis=0, weights=weights[known]))
    return probe.weight * deviation, probe.bias + probe.weight @ mean


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_its_definition_and_no_step_away_from_the_fit_lowers_it(weighted: bool) -> None:
    features, labels = task()
    weights = np.random.default_rng(1).uniform(0.2, 3, len(labels)) if weighted else np.ones(len(labels))
    probe = fit_linear_probe(features, labels, weights=weights if weighted else None, l2=0.01)
    weight, bias = on_standardised(probe, features, labels, weights)
    assert loss_by_loops(weight, bias, features, labels, weights, 0.01) == pytest.approx(probe.loss, rel=1e-9)
    assert probe.gradient <= TOLERANCE
    rng = np.random.default_rng(2)
    for size in (1e-3, 1e-1):
        away = rng.normal(size=(3, 5)) * size
        moved = loss_by_loops(weight + away[:, :4], bias + away[:, 4], features, labels, weights, 0.01)
        assert moved > probe.loss


def test_the_slope_at_the_fit_is_as_small_as_is_said_by_differences_in_every_direction() -> None:
    features, labels = task(120)
    ones = np.ones(len(labels))
    probe = fit_linear_probe(features, labels, l2=0.01, tolerance=1e-7)
    weight, bias = on_standardised(probe, features, labels, ones)
    h = 1e-4
    for place in np.ndindex(weight.shape):
        up, down = weight.copy(), weight.copy()
        up[place] += h
        down[place] -= h
        slope = loss_by_loops(up, bias, features, labels, ones, 0.01)
        slope -= loss_by_loops(down, bias, features, labels, ones, 0.01)
        assert slope / (2 * h) == pytest.approx(0, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_scikit_learn_fits_the_same_classifier(l2: float) -> None:
    linear_model = peer("sklearn.linear_model")
    features, labels = task(600)
    known = labels >= 0
    standard = (features - features[known].mean(axis=0)) / features[known].std(axis=0)
    theirs = linear_model.LogisticRegression(C=1 / (l2 * known.sum()), tol=1e-10, max_iter=10_000)
    theirs.fit(standard[known], labels[known])
    probe = fit_linear_probe(features, labels, l2=l2, tolerance=1e-8)
    logits = probe.logits(features)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert probs == pytest.approx(theirs.predict_proba(standard), abs=1e-4)
    assert (probe.predict(features) == theirs.predict(standard)).mean() > 0.998
    usual = fit_linear_probe(features, labels, l2=l2).logits(features)
    probs = np.exp(usual) / np.exp(usual).sum(axis=1, keepdims=True)
    assert probs == pytest.approx(theirs.predict_proba(standard), abs=1e-3)


def test_a_weight_of_two_is_the_pixel_twice_and_a_weight_of_zero_is_no_pixel() -> None:
    features, labels = task(90)
    weights = np.random.default_rng(3).integers(0, 3, 90).astype(float)
    repeated = np.repeat(np.arange(90), weights.astype(int))
    first = fit_linear_probe(features, labels, weights=weights, tolerance=1e-8)
    second = fit_linear_probe(features[repeated], labels[repeated], tolerance=1e-8)
    assert first.logits(features) == pytest.approx(second.logits(features), abs=1e-4)


def test_scale_and_shift_of_features_change_no_prediction() -> None:
    features, labels = task(150)
    plain = fit_linear_probe(features, labels, tolerance=1e-8).logits(features)
    changed = features * [3.0, -2.0, 1e-5, 7.0] + [1e3, 0.0, 4.0, -1.0]
    assert fit_linear_probe(changed, labels, tolerance=1e-8).logits(changed) == pytest.approx(plain, abs=1e-3)


def test_labels_keep_their_numbers_and_a_class_that_is_not_there_is_never_predicted() -> None:
    features, labels = task()
    labels[labels == 1] = 5
    probe = fit_linear_probe(features, labels)
    assert probe.classes.tolist() == [0, 2, 5]
    predicted = probe.predict(features)
    assert set(predicted.tolist()) == {0, 2, 5}
    assert (predicted == labels)[labels >= 0].mean() > 0.7


def test_classes_that_can_be_told_apart_have_a_finite_fit() -> None:
    features = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    probe = fit_linear_probe(features, np.array([0, 0, 1, 1]))
    assert probe.gradient <= TOLERANCE
    assert np.isfinite(probe.weight).all()
    assert probe.predict(features).tolist() == [0, 0, 1, 1]


def test_features_that_never_vary_and_a_single_class_do_no_harm() -> None:
    features, labels = task(60)
    features = np.column_stack([features, np.full(60, 0.1), np.zeros(60), np.full(60, 1e9)])
    probe = fit_linear_probe(features, labels)
    assert probe.weight[:, 4:] == pytest.approx(0, abs=1e-12)
    assert probe.logits(features) == pytest.approx(fit_linear_probe(features[:, :4], labels).logits(features[:, :4]))
    alone = fit_linear_probe(features, np.full(60, 3))
    assert set(alone.predict(features).tolist()) == {3}


def test_nothing_to_fit_and_what_is_not_finite_are_refused() -> None:
    features, labels = task(20)
    with pytest.raises(ValueError, match="none of 20 pixels has a known class"):
        fit_linear_probe(features, np.full(20, -1))
    with pytest.raises(ValueError, match="l2 must be > 0"):
        fit_linear_probe(features, labels, l2=0.0)
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        fit_linear_probe(features, labels)
