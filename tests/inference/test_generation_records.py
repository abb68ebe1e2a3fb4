"""Records survive whatever stops the process that writes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from scantling.counterfactuals.soundness import Soundness
from scantling.files import sha256_bytes
from scantling.inference.generation_records import Record, RecordLog


def record(folder: Path, name: str = "a__scanner-B", **changes: object) -> Record:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / f"{name}.png").write_bytes(name.encode())
    made = Record(
        name=name, counterfactual_of="a", patient_id="p", intervention="scanner=B", before={"scanner": "A"},
        after={"scanner": "B"}, images=(f"images/{name}.png",), checksums=(sha256_bytes(name.encode()),),
        sources=("00",), soundness=Soundness(change=0.125, composition=0.0),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_records_come_back_as_they_were_with_unknown_measures_as_nan(tmp_path: Path) -> None:
    log = RecordLog(tmp_path)
    log.add([record(tmp_path), record(tmp_path, "ä__scanner-B")])
    again = RecordLog(tmp_path).records
    assert list(again) == ["a__scanner-B", "ä__scanner-B"]
    assert again["a__scanner-B"].soundness.change == 0.125
    assert math.isnan(again["a__scanner-B"].soundness.kept)
    assert "NaN" not in log.path.read_text()
    assert replace(again["a__scanner-B"], soundness=Soundness()) == replace(record(tmp_path), soundness=Soundness())


@pytest.mark.parametrize("kept_bytes", [1, 60, -2, -1])
def test_the_rest_of_a_line_that_a_killed_process_left_is_cut_off(tmp_path: Path, kept_bytes: int) -> None:
    log = RecordLog(tmp_path)
    log.add([record(tmp_path)])
    whole = log.path.read_bytes()
    log.add([record(tmp_path, "b__scanner-B")])
    second = log.path.read_bytes()[len(whole) :]
    log.path.write_bytes(whole + second[:kept_bytes])
    again = RecordLog(tmp_path)
    assert list(again.records) == ["a__scanner-B"]
    again.add([record(tmp_path, "c__scanner-B")])
    assert list(RecordLog(tmp_path).records) == ["a__scanner-B", "c__scanner-B"]


def test_a_line_that_says_no_record_is_passed_over_and_the_last_of_a_name_counts(tmp_path: Path) -> None:
    log = RecordLog(tmp_path)
    log.add([record(tmp_path)])
    with log.path.open("ab") as stream:
        stream.write(b'{"name": "b"}\n[]\n\xff\xfe\n{"name": "b", "soundness": null}\n')
    log.add([record(tmp_path, after={"scanner": "C"})])
    again = RecordLog(tmp_path).records
    assert {name: dict(one.after) for name, one in again.items()} == {"a__scanner-B": {"scanner": "C"}}


def test_a_record_holds_for_its_attributes_and_files_only(tmp_path: Path) -> None:
    one = record(tmp_path)
    assert one.says(before={"scanner": "A"}, after={"scanner": "B"}, sources=["00"])
    assert not one.says(before={"scanner": ""}, after={"scanner": "B"}, sources=["00"])
    assert not one.says(before={"scanner": "A"}, after={"scanner": "C"}, sources=["00"])
    assert not one.says(before={"scanner": "A"}, after={"scanner": "B"}, sources=["01"])
    assert one.is_whole(tmp_path)
    (tmp_path / one.images[0]).write_bytes(b"other")
    assert not one.is_whole(tmp_path)
    (tmp_path / one.images[0]).unlink()
    assert not one.is_whole(tmp_path)
