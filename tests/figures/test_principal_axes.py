"""Principal axes: those of scikit-learn, signs included, and blind to the axes in which features are written."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from scantling.figures.principal_axes import fit_principal_axes


def rows(n: int = 400, n_features: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_features)) @ rng.normal(size=(n_features, n_features)) + rng.normal(size=n_features)


@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("each_feature", [True, False])
def test_components_and_scores_are_those_of_another_hand(unit_length: bool, each_feature: bool) -> None:
    sample, others = rows(), rows(seed=0)[:50] * 0.7 + 0.1
    axes = fit_principal_axes(sample, n_components=5, unit_length=unit_length, each_feature=each_feature)
    seen = normalize(sample) if unit_length else sample
    scaler = StandardScaler().fit(seen)
    scale = scaler.scale_ if each_feature else np.sqrt(np.mean(scaler.var_))
    oracle = PCA(n_components=5, svd_solver="full").fit((seen - scaler.mean_) / scale)
    np.testing.assert_allclose(axes.components, oracle.components_, atol=1e-8)
    np.testing.assert_allclose(axes.explained, oracle.explained_variance_ratio_, atol=1e-9)
    wanted = oracle.transform(((normalize(others) if unit_length else others) - scaler.mean_) / scale)
    np.testing.assert_allclose(axes.scores(others.T).T, wanted, atol=1e-4)


def test_each_component_has_its_largest_entry_positive() -> None:
    for seed in range(5):
        components = fit_principal_axes(rows(seed=seed)).components
        largest = np.abs(components).argmax(axis=1)
        assert (components[np.arange(len(components)), largest] > 0).all()


def test_turning_the_feature_space_changes_no_score_but_its_sign() -> None:
    sample = rows()
    turned = sample @ ortho_group.rvs(12, random_state=1)
    before = fit_principal_axes(sample).scores(sample.T)
    after = fit_principal_axes(turned).scores(turned.T)
    signs = np.sign((before * after).sum(axis=1))
    np.testing.assert_allclose(after * signs[:, None], before, atol=1e-4)
    each = fit_principal_axes(sample, each_feature=True).scores(sample.T)
    each_turned = fit_principal_axes(turned, each_feature=True).scores(turned.T)
    assert np.abs(np.abs(each) - np.abs(each_turned)).max() > 0.1  # which is why that is not the default


def test_length_counts_nothing_unless_it_is_asked_for() -> None:
    sample = rows()
    lengths = np.random.default_rng(5).uniform(0.1, 9, (len(sample), 1))
    by_direction = fit_principal_axes(sample)
    np.testing.assert_allclose(by_direction.scores((sample * lengths).T), by_direction.scores(sample.T), atol=1e-4)
    by_length = fit_principal_axes(sample, unit_length=False)
    assert np.abs(by_length.scores((sample * lengths).T) - by_length.scores(sample.T)).max() > 1


def test_places_keep_their_axes_and_few_features_give_few_components() -> None:
    axes = fit_principal_axes(rows(n_features=3))
    assert axes.scores(rows(n_features=3).T.reshape(3, 20, 4, 5)).shape == (3, 20, 4, 5)
    assert axes.scores(rows(n_features=3).T, 2).shape == (2, 400)


def test_features_that_do_not_vary_give_zeros_and_those_that_are_not_finite_are_refused() -> None:
    still = np.ones((30, 4))
    axes = fit_principal_axes(still)
    np.testing.assert_allclose(axes.scores(still.T), 0, atol=1e-6)
    assert np.isfinite(axes.explained).all()
    assert np.isfinite(axes.scores(np.zeros((4, 3)))).all()
    for bad in (np.empty((0, 4)), np.array([[1.0, np.inf]])):
        with pytest.raises(ValueError, match="finite features"):
            fit_principal_axes(bad)
