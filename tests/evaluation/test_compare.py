from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from scantling.errors import DataError
from scantling.evaluation.compare import compare_evaluations, wilcoxon_p
from scantling.evaluation.conventions import Settings
from scantling.evaluation.results import Evaluation
from scantling.evaluation.rows import Row
from scantling.evaluation.summary import summarise


def evaluation(
    values: dict[str, float],
    *,
    metric: str = "dice",
    patients: dict[str, str] | None = None,
    **settings: float,
) -> Evaluation:
    """An evaluation of one class; NaN is a missed case."""
    rows = tuple(
        Row(
            case=case,
            class_name="liver",
            metric=metric,
            value=value,
            status="missed" if math.isnan(value) else "ok",
        )
        for case, value in values.items()
    )
    owners = patients or {case: case for case in values}
    chosen = Settings(resamples=100, **settings)
    return Evaluation(
        settings=chosen,
        classes=("liver",),
        patients=owners,
        rows=rows,
        summary=summarise(rows, owners, chosen),
    )


def cases(values: list[float]) -> dict[str, float]:
    return {f"c{k}": value for k, value in enumerate(values)}


def wilcoxon_by_enumeration(differences: list[float]) -> float:
    """All 2^n assignments of signs to the ranks are equally likely; no ties allowed."""
    order = sorted(range(len(differences)), key=lambda k: abs(differences[k]))
    ranks = {k: rank for rank, k in enumerate(order, start=1)}
    observed = sum(ranks[k] for k, d in enumerate(differences) if d > 0)
    sums = [sum(rank for rank, sign in zip(ranks.values(), signs, strict=True) if sign)
            for signs in itertools.product((0, 1), repeat=len(differences))]  # fmt: skip
    middle = sum(ranks.values()) / 2
    return sum(abs(s - middle) >= abs(observed - middle) for s in sums) / len(sums)


def test_wilcoxon_equals_the_enumeration_of_all_signs() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 6, 9):
        differences = rng.normal(0.3, 1, n)
        assert wilcoxon_p(differences) == pytest.approx(wilcoxon_by_enumeration(differences.tolist()))


def test_wilcoxon_of_a_known_example() -> None:
    # Darwin's maize: 15 paired differences in eighths of an inch; the smaller rank sum is 24, and exact
    # enumeration gives p = 0.0413
    darwin = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=np.float64)
    assert wilcoxon_p(darwin) == pytest.approx(0.0413, abs=5e-5)


def test_equal_predictions_have_no_difference_and_no_p() -> None:
    one = evaluation(cases([0.8, 0.9, 0.7]))
    result = compare_evaluations(one, one).find("liver")
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert (result.wins, result.losses, result.ties) == (0, 0, 3)
    assert math.isnan(result.p)


def test_the_difference_is_first_minus_second_with_an_interval_over_patients() -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(0.5, 0.8, 60)
    gain = rng.normal(0.05, 0.02, 60)
    first, second = evaluation(cases((base + gain).tolist())), evaluation(cases(base.tolist()))
    result = compare_evaluations(first, second).find("liver")
    assert result.difference == pytest.approx(gain.mean())
    half_width = 1.96 * gain.std() / math.sqrt(60)
    assert result.low == pytest.approx(gain.mean() - half_width, abs=0.15 * half_width)
    assert result.high == pytest.approx(gain.mean() + half_width, abs=0.15 * half_width)
    assert result.wins == (gain > 0).sum()
    assert result.p < 1e-6
    mirrored = compare_evaluations(second, first).find("liver")
    assert mirrored.difference == pytest.approx(-result.difference)
    assert (mirrored.wins, mirrored.losses, mirrored.p) == (result.losses, result.wins, result.p)


def test_wins_follow_the_direction_of_the_metric() -> None:
    for metric, first, second, wins in (
        ("dice", [0.9, 0.5], [0.8, 0.6], 1), ("hd95_mm", [3.0, 1.0, 1.0], [2.0, 2.0, 2.0], 2),
        ("volume_difference_ml", [-1.0, 5.0], [-3.0, 4.0], 1),
    ):  # fmt: skip
        compared = compare_evaluations(
            evaluation(cases(first), metric=metric), evaluation(cases(second), metric=metric)
        )
        assert compared.find("liver", metric).wins == wins
        assert compared.find("liver", metric).losses == len(first) - wins


def test_scans_of_one_patient_make_one_observation() -> None:
    patients = {f"c{k}": f"p{k // 5}" for k in range(30)}
    rng = np.random.default_rng(2)
    gain = np.repeat(rng.normal(0.02, 0.05, 6), 5)
    first = evaluation(cases((0.5 + gain).tolist()), patients=patients)
    second = evaluation(cases([0.5] * 30), patients=patients)
    result = compare_evaluations(first, second).find("liver")
    assert (result.n_cases, result.n_patients) == (30, 6)
    assert result.p == pytest.approx(wilcoxon_by_enumeration(gain[::5].tolist()))


def test_failures_are_counted_on_both_sides_and_cannot_be_subtracted() -> None:
    first = evaluation(cases([2.0, math.nan, 3.0, math.nan]), metric="hd95_mm")
    second = evaluation(cases([1.0, 2.0, math.nan, math.nan]), metric="hd95_mm")
    result = compare_evaluations(first, second).find("liver", "hd95_mm")
    assert (result.n_cases, result.unpaired, result.failed_first, result.failed_second) == (1, 3, 2, 2)
    assert result.difference == 1.0
    assert math.isnan(result.low)


def test_only_shared_cases_take_part_and_the_others_are_named() -> None:
    first, second = evaluation({"a": 0.5, "b": 0.6}), evaluation({"b": 0.7, "c": 0.8})
    compared = compare_evaluations(first, second)
    assert compared.find("liver").n_cases == 1
    assert (compared.only_first, compared.only_second) == (("a",), ("c",))
    assert "only in the first, left out: a" in compared.text()
    with pytest.raises(DataError, match="share no case"):
        compare_evaluations(first, evaluation({"z": 0.5}))


def test_different_conventions_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="evaluate both alike"):
        compare_evaluations(evaluation({"a": 0.5}), evaluation({"a": 0.5}, tolerance_mm=2.0))


def test_a_comparison_is_told_as_a_table_and_as_json() -> None:
    compared = compare_evaluations(evaluation(cases([0.9, 0.8, 0.85])), evaluation(cases([0.7, 0.6, 0.75])))
    header, line, *_ = compared.text().splitlines()
    assert header.split() == [
        "class",
        "metric",
        "first",
        "second",
        "difference",
        "p",
        "wins:losses",
        "failed",
        "cases",
    ]
    assert line.split()[:5] == ["liver", "dice", "0.850", "0.683", "+0.167"]
    plain = json.loads(json.dumps(compared.to_json(), allow_nan=False))
    assert plain["results"][0]["wins"] == 3
    assert plain["missing"] == []
