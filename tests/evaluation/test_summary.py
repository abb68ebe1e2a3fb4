from __future__ import annotations

import math

import numpy as np
import pytest

from scantling.evaluation.conventions import Settings
from scantling.evaluation.rows import Row
from scantling.evaluation.summary import summarise

SETTINGS = Settings(resamples=500)


def row(case: str, value: float, status: str = "ok", metric: str = "hd95_mm") -> Row:
    return Row(case=case, class_name="liver", metric=metric, value=value, status=status)


def test_missed_structures_do_not_vanish_from_beside_the_mean() -> None:
    # 50 of 100 structures missed: the mean HD95 of the others says nothing of them, so the count must
    rows = [row(f"c{k}", 2.0) if k < 50 else row(f"c{k}", math.nan, "missed") for k in range(100)]
    (summary,) = summarise(rows, {f"c{k}": f"p{k}" for k in range(100)}, SETTINGS)
    assert (summary.mean, summary.n, summary.scored, summary.failed) == (2.0, 100, 50, 50)
    assert summary.sentence() == "2.000 mm (2.000 to 2.000; failed 50 of 100)"


def test_absent_and_unannotated_cases_are_counted_apart() -> None:
    rows = [
        row("a", 0.5, metric="dice"), row("b", 0.7, metric="dice"),
        row("c", math.nan, "both_empty", metric="dice"),
        row("d", math.nan, "not_annotated", metric="dice"), row("e", 0.0, "false_positive", metric="dice"),
    ]  # fmt: skip
    patients = {"a": "p1", "b": "p1", "c": "p2", "d": "p3", "e": "p4"}
    (summary,) = summarise(rows, patients, SETTINGS)
    assert (summary.n, summary.scored, summary.failed, summary.absent, summary.patients) == (3, 3, 1, 1, 2)
    assert summary.mean == pytest.approx(0.4)
    assert summary.median == 0.5
    assert summary.sd == pytest.approx(np.std([0.5, 0.7, 0.0], ddof=1))
    # two patients with means 0.6 and 0: three of four draws of two patients hold at least one 0
    assert summary.low == 0.0
    assert summary.high == pytest.approx(0.6)


def test_each_class_metric_and_version_is_summed_up_by_itself_in_order() -> None:
    rows = [
        Row(case=case, class_name=name, metric=metric, value=value, status="ok", post=post)
        for case in "ab"
        for name, metric, value, post in (("x", "dice", 0.1, "raw"), ("x", "iou", 0.2, "raw"),
                                          ("y", "dice", 0.3, "raw"), ("x", "dice", 0.4, "largest_component"))
    ]  # fmt: skip
    found = summarise(rows, {"a": "a", "b": "b"}, SETTINGS)
    assert [(s.class_name, s.metric, s.post, pytest.approx(s.mean)) for s in found] == [
        ("x", "dice", "raw", 0.1), ("x", "iou", "raw", 0.2), ("y", "dice", "raw", 0.3),
        ("x", "dice", "largest_component", 0.4),
    ]  # fmt: skip


def test_nothing_measured_is_summed_up_as_nothing() -> None:
    assert summarise([], {}, SETTINGS) == ()
    (summary,) = summarise([row("a", math.nan, "missed")], {"a": "a"}, SETTINGS)
    assert math.isnan(summary.mean)
    assert (summary.n, summary.failed, summary.scored) == (1, 1, 0)


def test_the_interval_depends_on_the_seed_and_on_nothing_else() -> None:
    rows = [row(f"c{k}", float(k)) for k in range(12)]
    patients = {f"c{k}": f"p{k}" for k in range(12)}
    first, again = summarise(rows, patients, SETTINGS), summarise(rows, patients, SETTINGS)
    assert first == again
    assert first != summarise(rows, patients, Settings(resamples=500, seed=1))
