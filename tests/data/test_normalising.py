from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from scantling.data.normalising import common_type, finite, normalise, quantise, small_integers
from scantling.data.plan import IntensityPlan

ZSCORE = IntensityPlan(scheme="zscore")
ALL_SCHEMES = [
    ZSCORE,
    IntensityPlan(scheme="zscore", nonzero_only=True),
    IntensityPlan(scheme="percentile"),
    IntensityPlan(scheme="percentile", nonzero_only=True),
    IntensityPlan(scheme="range", high=255.0),
    IntensityPlan(scheme="window", low=-100.0, high=300.0, mean=50.0, std=80.0),
]


def values_of(shape=(20, 30), seed=0):
    return np.random.default_rng(seed).gamma(2.0, 50.0, size=shape).astype(np.float32)


def test_zscore_equals_scipy_and_so_does_range_after_division():
    values = values_of()
    expected = scipy.stats.zscore(values, axis=None)
    np.testing.assert_allclose(normalise(values, ZSCORE).values(), expected, atol=1e-5)
    ranged = normalise(values, IntensityPlan(scheme="range", high=255.0)).values()
    np.testing.assert_allclose(ranged, scipy.stats.zscore(values / 255.0, axis=None), atol=1e-5)


def test_range_with_a_data_sets_own_mean_and_deviation_refers_to_divided_values():
    values = values_of()
    plan = IntensityPlan(scheme="range", high=255.0, mean=0.4, std=0.2)
    np.testing.assert_allclose(normalise(values, plan).values(), (values / 255.0 - 0.4) / 0.2, atol=1e-5)


def test_nonzero_only_takes_mean_and_deviation_from_the_nonzero_voxels_and_maps_all():
    values = values_of()
    values[:, :15] = 0
    inside = values[values != 0].astype(float)
    expected = (values - inside.mean()) / inside.std()
    actual = normalise(values, IntensityPlan(scheme="zscore", nonzero_only=True)).values()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_percentile_clips_to_numpys_percentiles_before_scaling():
    values = values_of()
    plan = IntensityPlan(scheme="percentile", low_percentile=2.0, high_percentile=95.0)
    clipped = np.clip(values, *np.percentile(values.astype(float), (2.0, 95.0)))
    np.testing.assert_allclose(normalise(values, plan).values(), scipy.stats.zscore(clipped, axis=None), atol=1e-5)


def test_a_window_uses_the_plans_own_numbers_and_no_statistics_of_the_image():
    plan = IntensityPlan(scheme="window", low=-100.0, high=300.0, mean=50.0, std=80.0)
    values = np.array([[-1000, -100, 50], [130, 300, 3000]], dtype=np.int16)
    channel = normalise(values, plan)
    expected = (np.clip(values.astype(float), -100, 300) - 50) / 80
    np.testing.assert_allclose(channel.values(), expected, atol=1e-6)
    assert channel.stored.dtype == np.int16


@pytest.mark.parametrize("plan", ALL_SCHEMES, ids=lambda plan: f"{plan.scheme}-{plan.nonzero_only}")
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_integers_stay_integers_of_at_most_16_bits_under_every_scheme(plan, dtype):
    values = np.random.default_rng(1).integers(0, 120, size=(16, 16)).astype(dtype)
    channel = normalise(values, plan)
    kept = small_integers(channel)
    assert kept is not None
    assert kept.stored.dtype.itemsize <= 2
    np.testing.assert_array_equal(kept.values(), channel.values())


def damaged():
    base = values_of().astype(np.float32)
    wrong = {}
    wrong["nan"] = base.copy()
    wrong["nan"][3, 4] = np.nan
    wrong["infinity"] = base.copy()
    wrong["infinity"][0, 0], wrong["infinity"][1, 1] = np.inf, -np.inf
    wrong["all nan"] = np.full((5, 5), np.nan, dtype=np.float32)
    wrong["constant"] = np.full((5, 5), 7.3, dtype=np.float32)
    wrong["constant integers"] = np.full((5, 5), 200, dtype=np.uint8)
    wrong["zeros"] = np.zeros((5, 5), dtype=np.float32)
    wrong["outlier"] = base.copy()
    wrong["outlier"][2, 2] = 1e30
    wrong["double outlier"] = base.astype(np.float64)
    wrong["double outlier"][2, 2] = -1e300
    wrong["constant and outlier"] = np.zeros((20, 30), dtype=np.float32)
    wrong["constant and outlier"][2, 2] = 1e30
    wrong["denormal"] = base * np.float32(1e-42)
    wrong["half"] = base.astype(np.float16)
    wrong["one voxel"] = np.ones((1, 1), dtype=np.float32)
    wrong["huge"] = base * np.float32(1e35)
    return wrong


@pytest.mark.parametrize("plan", ALL_SCHEMES, ids=lambda plan: f"{plan.scheme}-{plan.nonzero_only}")
@pytest.mark.parametrize("name", sorted(damaged()))
def test_odd_values_give_finite_numbers_of_ordinary_size(name, plan):
    values = normalise(damaged()[name], plan).values()
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 100.0
    again = quantise(values).values()
    assert np.isfinite(again).all()


@pytest.mark.parametrize("name", ["outlier", "double outlier"])
def test_an_absurd_outlier_leaves_the_contrast_of_the_rest(name):
    values = normalise(damaged()[name], ZSCORE).values()
    assert np.std(np.delete(values.ravel(), 2 * 30 + 2)) > 0.5


@pytest.mark.parametrize("name", ["constant", "constant integers", "zeros", "all nan", "one voxel"])
def test_a_constant_image_is_zero_everywhere(name):
    np.testing.assert_array_equal(normalise(damaged()[name], ZSCORE).values(), 0.0)


def test_what_is_not_finite_becomes_the_smallest_finite_value():
    values = np.array([[1.0, np.nan], [-3.0, np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(finite(values), [[1.0, -3.0], [-3.0, -3.0]])


def test_a_few_bright_voxels_on_an_empty_image_are_not_clipped_away():
    values = np.zeros((100, 100), dtype=np.uint8)
    values[50, 50:53] = 200
    assert normalise(values, IntensityPlan(scheme="percentile")).values().max() > 1.0


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e6])
def test_quantising_errs_by_less_than_a_ten_thousandth_of_the_range(spread):
    values = (values_of((64, 64)) * spread).astype(np.float32)
    error = np.abs(quantise(values).values() - values).max()
    assert error < 1e-4 * (values.max() - values.min())
    assert quantise(values).stored.dtype == np.int16


def test_channels_share_a_type_only_where_it_holds_all_of_them_in_16_bits():
    def channel(dtype, high):
        return normalise(np.arange(high, dtype=dtype).reshape(1, -1), ZSCORE)

    assert common_type([channel(np.uint8, 200), channel(np.int16, 300)]) == np.int16
    assert common_type([channel(np.int32, 300), channel(np.uint8, 200)]) == np.uint16
    assert common_type([channel(np.uint16, 50_000), channel(np.int16, 300)]) is None
    assert common_type([channel(np.int32, 70_000)]) is None
    assert common_type([channel(np.float32, 10)]) is None
