"""Measures of embedded pixels; the oracles are the papers' formulas in loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scantling.contrast import measures
from scantling.evaluation import embedding
from scantling.evaluation.embedding import (
    alignment,
    balanced_pixels,
    centre_distance_over_spread,
    effective_rank,
    feature_spread,
    purity,
    uniformity,
    unit_vectors,
)


def random_features(n: int = 30, d: int = 5, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + 0.5


def unit(row: np.ndarray) -> list[float]:
    length = math.sqrt(sum(float(x) ** 2 for x in row))
    return [float(x) / length for x in row]


def squared_distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def test_alignment_is_the_mean_squared_distance_of_unit_vectors_pair_by_pair() -> None:
    first, second = random_features(seed=1), random_features(seed=2)
    expected = [squared_distance(unit(a), unit(b)) for a, b in zip(first, second, strict=True)]
    assert alignment(first, second) == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    assert alignment(first, 7 * first) == pytest.approx(0, abs=1e-15)
    assert alignment(first, -first) == pytest.approx(4)
    assert math.isnan(alignment(first[:0], second[:0]))
    with pytest.raises(ValueError, match="wanted pairs, row by row"):
        alignment(first, second[:3])


@pytest.mark.parametrize("block", [1, 7, 30, 1024])
def test_uniformity_is_the_formula_over_all_pairs_whatever_the_block(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "BLOCK", block)
    rows = [unit(row) for row in random_features()]
    terms = [math.exp(-2 * squared_distance(a, b)) for a, b in itertools.combinations(rows, 2)]
    assert uniformity(random_features()) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-12)


def test_uniformity_of_one_point_is_zero_and_of_fewer_than_two_pixels_unknown() -> None:
    assert uniformity(np.ones((4, 3))) == pytest.approx(0)
    assert math.isnan(uniformity(np.ones((1, 3))))
    assert uniformity(random_features(500, 200) - 0.5) == pytest.approx(-4, abs=0.05)


def test_effective_rank_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    features = random_features()
    singular = np.linalg.svd(features, compute_uv=False)
    shares = [float(s) / float(singular.sum()) for s in singular]
    assert effective_rank(features) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)


def test_effective_rank_has_its_bounds_and_no_scale() -> None:
    assert effective_rank(np.eye(6)) == pytest.approx(6)
    assert effective_rank(np.outer(np.arange(1, 9), [1.0, -2.0, 3.0])) == pytest.approx(1, abs=1e-5)
    for factor in (1e-200, 1e200):
        assert effective_rank(factor * random_features()) == pytest.approx(effective_rank(random_features()))
    assert math.isnan(effective_rank(np.zeros((4, 3))))
    assert math.isnan(effective_rank(np.empty((0, 3))))


def test_feature_spread_is_the_share_of_an_even_spread() -> None:
    rows = [unit(row) for row in random_features()]
    of_dimension = []
    for k in range(5):
        mean = sum(row[k] for row in rows) / len(rows)
        of_dimension.append(math.sqrt(sum((row[k] - mean) ** 2 for row in rows) / len(rows)))
    assert feature_spread(random_features()) == pytest.approx(sum(of_dimension) / 5 * math.sqrt(5), rel=1e-12)
    assert feature_spread(np.ones((9, 4))) == 0
    assert feature_spread(np.zeros((9, 4))) == 0
    assert feature_spread(random_features(4000, 8) - 0.5) == pytest.approx(1, abs=0.01)
    assert math.isnan(feature_spread(np.empty((0, 4))))


def test_what_the_diagnostics_measure_while_training_has_the_same_value_here() -> None:
    features = random_features(200, 6)
    there, usable = torch.from_numpy(unit_vectors(features)), torch.ones(200, dtype=torch.bool)
    assert uniformity(features) == pytest.approx(float(measures.uniformity(there, usable)))
    assert feature_spread(features) == pytest.approx(float(measures.feature_std(there, usable)) * math.sqrt(6))
    moment = measures.second_moment(there, usable)
    assert effective_rank(unit_vectors(features)) == pytest.approx(measures.effective_rank(moment))


def centre_distance_by_loops(features: np.ndarray, labels: np.ndarray, power: float) -> float:
    rows = [unit(row) for row in features]
    centres, widths = [], []
    for k in sorted({int(label) for label in labels if label >= 0}):
        own = [row for row, label in zip(rows, labels, strict=True) if label == k]
        centre = [sum(column) / len(own) for column in zip(*own, strict=True)]
        centres.append(centre)
        widths.append((sum(squared_distance(row, centre) for row in own) / len(own)) ** power)
    between = [math.sqrt(squared_distance(a, b)) for a, b in itertools.combinations(centres, 2)]
    return (sum(between) / len(between)) / (sum(widths) / len(widths))


def test_centre_distance_over_spread_is_its_definition_and_the_released_one_leaves_the_root_out() -> None:
    rng = np.random.default_rng(3)
    features, labels = random_features(60), rng.integers(-1, 3, 60)
    labels[labels == 1] = 7
    found = centre_distance_over_spread(features, labels)
    assert found == pytest.approx(centre_distance_by_loops(features, labels, 0.5), rel=1e-10)
    released = centre_distance_over_spread(features, labels, spread="variance")
    assert released == pytest.approx(centre_distance_by_loops(features, labels, 1.0), rel=1e-10)
    assert found != pytest.approx(released)


def test_classes_that_are_points_of_their_own_are_infinitely_far_apart_and_one_class_has_no_distance() -> None:
    two_points = np.repeat(np.eye(2), 4, axis=0)
    assert centre_distance_over_spread(two_points, np.repeat([0, 1], 4)) == math.inf
    assert math.isnan(centre_distance_over_spread(np.ones((8, 2)), np.repeat([0, 1], 4)))
    assert math.isnan(centre_distance_over_spread(two_points, np.repeat([2, -1], 4)))


def test_purity_counts_each_clusters_majority_among_the_pixels_of_known_class() -> None:
    rng = np.random.default_rng(4)
    clusters, labels = rng.integers(0, 4, 80), rng.integers(-1, 3, 80)
    known = [(c, k) for c, k in zip(clusters, labels, strict=True) if k >= 0]
    majority = sum(max(sum(pair == (c, k) for pair in known) for k in range(3)) for c in range(4))
    assert purity(clusters, labels) == pytest.approx(majority / len(known))


def test_clusters_that_are_the_classes_are_pure_and_of_unknown_pixels_nothing_is_known() -> None:
    labels = np.array([0, 0, 1, 2, 2, -1])
    assert purity(np.array([5, 5, 3, 9, 9, 5]), labels) == 1
    assert purity(np.zeros(6, dtype=int), labels) == pytest.approx(2 / 5)
    assert math.isnan(purity(np.zeros(3, dtype=int), np.full(3, -1)))


def test_balanced_pixels_are_as_many_of_each_class_and_never_of_unknown_class() -> None:
    labels = np.array([0] * 500 + [-1] * 300 + [2] * 40 + [1] * 3)
    rng = np.random.default_rng(0)
    drawn = balanced_pixels(labels, 20, rng)
    assert np.bincount(labels[drawn]).tolist() == [20, 3, 20]
    assert len(set(drawn.tolist())) == 43
    assert drawn.tolist() == sorted(drawn.tolist())
    assert balanced_pixels(labels, 20, np.random.default_rng(0)).tolist() == drawn.tolist()
    assert balanced_pixels(labels, 20, rng).tolist() != drawn.tolist()
    assert len(balanced_pixels(np.full(5, -1), 20, rng)) == 0


def test_every_pixel_of_a_class_is_drawn_equally_often() -> None:
    rng = np.random.default_rng(1)
    counts = np.zeros(10)
    for _ in range(2000):
        counts[balanced_pixels(np.array([0] * 10), 3, rng)] += 1
    assert counts == pytest.approx(np.full(10, 600), rel=0.12)


@pytest.mark.parametrize("factor", [1e-180, 1.0, 1e180])
def test_unit_vectors_have_length_one_at_any_scale_and_zero_stays(factor: float) -> None:
    found = unit_vectors(factor * np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert found == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
