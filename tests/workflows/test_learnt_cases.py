"""Which predicted cases trained the model, from the files of run and predictions."""

from __future__ import annotations

from pathlib import Path

from scantling.data.splits import Split
from scantling.files import read_json, write_json
from scantling.workflows.learnt_cases import learnt_note, record_learnt_cases


def predictions_of(folder: Path, *cases: str) -> Path:
    write_json(folder / "predictions.json", {"cases": [{"case": case} for case in cases]})
    return folder


def test_training_and_validation_cases_count_and_held_out_ones_do_not(tmp_path: Path) -> None:
    patients = {case: case for case in "abc"}
    split = Split(train=("a",), validation=("b",), heldout=("c",), patients=patients, scheme="folds", sentence="")
    split.save(tmp_path / "splits.json")
    out = predictions_of(tmp_path / "out", "a", "b", "c", "d")
    record_learnt_cases(tmp_path, out)
    assert read_json(out / "predictions.json")["learnt_from"] == ["a", "b"]
    assert learnt_note(out, ["a", "c", "d"]).startswith("1 of 3 cases bear names")
    assert learnt_note(out, ["c", "d"]) == ""


def test_without_a_run_or_with_another_tools_record_nothing_is_said(tmp_path: Path) -> None:
    out = predictions_of(tmp_path / "out", "a")
    record_learnt_cases(tmp_path, out)
    assert "learnt_from" not in read_json(out / "predictions.json")
    write_json(out / "predictions.json", ["a"])
    assert learnt_note(out, ["a"]) == ""
    assert learnt_note(tmp_path, ["a"]) == ""
