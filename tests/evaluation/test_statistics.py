from __future__ import annotations

import math

import numpy as np
import pytest

from scantling.evaluation.statistics import bootstrap_intervals, bootstrap_mean, patient_means


def test_the_interval_of_many_independent_cases_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    found = bootstrap_mean(values, [str(k) for k in range(400)], np.random.default_rng(1), resamples=4000)
    half_width = 1.959964 * values.std(ddof=0) / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    # 4000 draws place a 2.5 % quantile to within about 3 % of the half width
    assert found.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert found.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_scans_of_one_patient_do_not_count_as_independent() -> None:
    per_patient = np.random.default_rng(2).normal(0, 1, 100)
    repeated = np.repeat(per_patient, 10)
    patients = [str(k // 10) for k in range(1000)]
    clustered = bootstrap_mean(repeated, patients, np.random.default_rng(3))
    once = bootstrap_mean(per_patient, [str(k) for k in range(100)], np.random.default_rng(3))
    naive = bootstrap_mean(repeated, [str(k) for k in range(1000)], np.random.default_rng(3))
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=1e-9)
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)


def test_the_interval_of_95_percent_covers_the_truth_about_as_often() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        found = bootstrap_mean(rng.normal(0, 1, 40), [str(k) for k in range(40)], rng, resamples=400)
        covered += found.low <= 0 <= found.high
    assert 0.89 <= covered / 300 <= 0.98


def test_columns_are_resampled_together_and_nan_takes_no_part() -> None:
    rng = np.random.default_rng(5)
    table = rng.normal(size=(30, 3))
    table[:, 1] = table[:, 0] + 1
    table[10:, 2] = np.nan
    patients = [f"p{k}" for k in range(30)]
    low, high = bootstrap_intervals(table, patients, np.random.default_rng(6))
    assert low[1] == pytest.approx(low[0] + 1)
    assert high[1] == pytest.approx(high[0] + 1)
    assert low[2] < np.nanmean(table[:, 2]) < high[2]


def test_with_fewer_than_two_patients_there_is_no_interval() -> None:
    rng = np.random.default_rng(0)
    one_patient = bootstrap_mean(np.array([0.5, 0.7]), ["a", "a"], rng)
    assert one_patient.mean == pytest.approx(0.6)
    assert math.isnan(one_patient.low)
    assert math.isnan(one_patient.high)
    nothing = bootstrap_mean(np.array([np.nan, np.nan]), ["a", "b"], rng)
    assert math.isnan(nothing.mean)
    assert math.isnan(bootstrap_mean(np.array([]), [], rng).mean)


def test_the_same_generator_state_gives_the_same_interval() -> None:
    values, patients = np.random.default_rng(7).normal(size=20), [str(k) for k in range(20)]
    first = bootstrap_mean(values, patients, np.random.default_rng(8))
    assert first == bootstrap_mean(values, patients, np.random.default_rng(8))
    assert first != bootstrap_mean(values, patients, np.random.default_rng(9))


def test_patient_means_leave_out_what_has_no_value() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan])
    np.testing.assert_array_equal(patient_means(values, ["b", "b", "b", "a", "c"]), [5.0, 2.0])
