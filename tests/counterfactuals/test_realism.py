"""The Frechet distance against SciPy's matrix root and closed forms; shrinkage against loops over its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import sqrtm

from scantling.counterfactuals.realism import GaussianFit, frechet_distance, gaussian_fit, realism


def rows(n: int, dim: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift


def fit(mean: np.ndarray, covariance: np.ndarray) -> GaussianFit:
    return GaussianFit(mean=mean, covariance=covariance, shrinkage=0.0)


def test_the_distance_equals_the_formula_with_scipys_matrix_root() -> None:
    one, other = gaussian_fit(rows(200, 6, 0), shrinkage=0), gaussian_fit(rows(90, 6, 1, shift=0.5), shrinkage=0)
    cross = np.real(sqrtm(one.covariance @ other.covariance))
    wanted = np.square(one.mean - other.mean).sum() + np.trace(one.covariance + other.covariance - 2 * cross)
    assert frechet_distance(one, other) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(wanted, rel=1e-9)


def test_the_distance_of_gaussians_with_diagonal_covariances_has_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 5)), rng.uniform(0.1, 2, size=(2, 5))
    wanted = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    one, other = (fit(mean, np.diag(deviation**2)) for mean, deviation in zip(means, deviations, strict=True))
    assert frechet_distance(one, other) == pytest.approx(wanted, rel=1e-12)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)


def test_singular_covariances_of_fewer_rows_than_features_have_a_distance() -> None:
    one, other = gaussian_fit(rows(3, 8, 0), shrinkage=0), gaussian_fit(rows(4, 8, 1), shrinkage=0)
    assert np.linalg.matrix_rank(one.covariance) == 2
    assert 0 < frechet_distance(one, other) < math.inf
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_a_fit_without_shrinkage_is_numpys_mean_and_population_covariance() -> None:
    features = rows(20, 4, 2).astype(np.float32)
    plain = gaussian_fit(features, shrinkage=0)
    np.testing.assert_allclose(plain.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(plain.covariance, np.cov(features.astype(np.float64).T, bias=True), rtol=1e-10)


@pytest.mark.parametrize("n", [3, 10, 200])
def test_shrinkage_is_that_of_ledoit_and_wolf(n: int) -> None:
    features = rows(n, 5, 3)
    x = features - features.mean(axis=0)
    sample = sum(np.outer(v, v) for v in x) / n
    middle = np.trace(sample) / 5 * np.eye(5)
    apart = sum((sample[i, j] - middle[i, j]) ** 2 for i in range(5) for j in range(5)) / 5
    noise = sum(np.sum((np.outer(v, v) - sample) ** 2) / 5 for v in x) / n**2
    share = min(noise, apart) / apart
    actual = gaussian_fit(features)
    assert actual.shrinkage == pytest.approx(share, rel=1e-9)
    np.testing.assert_allclose(actual.covariance, share * middle + (1 - share) * sample, rtol=1e-9)


def test_features_that_do_not_vary_have_a_covariance_of_0_and_one_row_has_none() -> None:
    constant = gaussian_fit(np.ones((4, 3)))
    assert (constant.covariance == 0).all()
    assert frechet_distance(constant, gaussian_fit(np.full((4, 3), 3.0))) == pytest.approx(12)
    with pytest.raises(ValueError, match="at least 2 rows of features, got 1"):
        gaussian_fit(np.ones((1, 3)))


def test_good_counterfactuals_lie_as_near_as_real_images_and_unchanged_ones_further() -> None:
    rng = np.random.default_rng(0)
    real, good = rng.normal(size=(120, 6)), rng.normal(size=(50, 6))
    found = realism(good, real, good + 2.0, np.random.default_rng(1))
    assert (found.group, found.n_counterfactual, found.n_real) == (50, 50, 120)
    assert found.counterfactual < 2 * found.between_real
    assert found.unchanged == pytest.approx(6 * 2.0**2, rel=0.2)


def test_the_draw_of_groups_depends_on_the_generator_alone() -> None:
    real, made = rows(30, 4, 0), rows(11, 4, 1)
    first, again, other = (realism(made, real, made, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.between_real != other.between_real
    assert first.group == 11


@pytest.mark.parametrize(("n_made", "n_real"), [(1, 30), (30, 3), (0, 0)])
def test_groups_too_small_to_fit_have_no_distance(n_made: int, n_real: int) -> None:
    found = realism(np.zeros((n_made, 4)), np.zeros((n_real, 4)), np.zeros((n_made, 4)), np.random.default_rng(0))
    assert found.group == 0
    assert math.isnan(found.counterfactual)
    assert math.isnan(found.between_real)
    assert math.isnan(found.unchanged)
