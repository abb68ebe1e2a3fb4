"""`scantling generate`, as a call and as a command, with a small image model that nobody trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import scantling
from counterfactuals.toy_image_model import graph as toy_graph
from counterfactuals.toy_image_model import greys, network, plan, write_pictures
from counterfactuals.toy_image_model import manifest as toy_manifest
from scantling.cli.main import app
from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig
from scantling.counterfactuals.counterfactual import CounterfactualGenerator, ImageModelSource
from scantling.counterfactuals.model_files import save_image_model
from scantling.counterfactuals.soundness import SoundnessLimits
from scantling.counterfactuals.table import Row
from scantling.data.layouts import cases_csv, open_dataset
from scantling.data.splits import Split
from scantling.errors import ConfigError, DataError
from scantling.inference.generation_run import GenerationRun
from scantling.workflows.generate import generate, parse_limits

N = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "data"
    cases = write_pictures(folder / "images", [greys((12, 10), seed) for seed in range(N)])
    cases_csv.write(toy_manifest(folder, [replace(case, split="train") for case in cases]), folder)
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run folder with a model and a judge."""
    folder = data.parent / "run"
    wanted = plan()
    judge = AttributePredictor(
        PredictorConfig(widths=(8,)), wanted.attributes, in_channels=1, dimensions=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    meta = {"judge": {"site": 0.9, "scanner": 0.95, "age": None}}
    save_image_model(folder / "model", network(wanted), wanted, toy_graph(), meta, judge=judge)
    learnt = ("case_0", "case_1", "case_2")
    split = Split(train=learnt, patients={name: name for name in learnt}, scheme="train_only", sentence="")
    split.save(folder / "splits.json")
    return folder


def table(folder: Path) -> Mapping[str, Any]:
    return {case.case_id: case for case in open_dataset(folder).cases}


def test_the_call_writes_what_the_image_model_says_a_data_set_and_a_page(data: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = scantling.generate(run, data, out, do=["scanner=other", "site=n;age=50"], limits=["effectiveness=none"])
    assert isinstance(done, GenerationRun)
    assert done.report == out / "report.html"
    assert done.report.is_file()
    cases = table(out)
    manifest = open_dataset(data)
    source = ImageModelSource(network(plan()), plan(), toy_graph())
    generator = CounterfactualGenerator(graph=toy_graph(), source=source, plan=plan())
    for record in done.records:
        do = dict(part.split("=") for part in record.intervention.split(";"))
        expected = generator.counterfactual(manifest.case(record.counterfactual_of), do)
        with Image.open(cases[record.name].images[0]) as picture:
            np.testing.assert_allclose(np.asarray(picture).astype(int), expected.image.channels[0], atol=1)
        assert dict(record.after) == dict(expected.image.row)
    said = json.loads((out / "generate.json").read_text())
    assert said["learnt_from"] == 3
    assert said["judge"] == {"site": 0.9, "scanner": 0.95, "age": None}
    assert said["asked_of_judge"] == ["site", "scanner"]
    assert said["limits"]["effectiveness"] is None
    assert said["settings"]["model_sha256"]
    assert str(tmp_path) not in (out / "generate.json").read_text()


def test_the_same_call_goes_on_and_another_model_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    generate(run, data, tmp_path / "out", do="scanner=other", cases="case_0,case_3")
    again = generate(run, data, tmp_path / "out", do="scanner=other", cases="case_0,case_3")
    assert again.kept == len(again.records) == 2
    other = tmp_path / "model"
    wanted = plan()
    save_image_model(other, network(wanted, log_scale=-2.0), wanted, toy_graph(), {})
    weights = network(wanted)
    with torch.no_grad():
        next(iter(weights.parameters())).add_(1.0)
    save_image_model(other, weights, wanted, toy_graph(), {})
    with pytest.raises(ConfigError, match="was generated with model_sha256"):
        generate(other, data, tmp_path / "out", do="scanner=other", cases="case_0,case_3")


def test_the_appearance_source_maps_grey_values_of_one_attribute(data: Path, run: Path, tmp_path: Path) -> None:
    done = generate(run, data, tmp_path / "out", do=["scanner=A", "scanner=B"], source="appearance")
    assert len(done.records) == N
    said = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert (said["settings"]["source"], said["settings"]["attribute"]) == ("appearance", "scanner")
    assert all(record.soundness.composition == 0 for record in done.records)
    with pytest.raises(ConfigError, match="knows one attribute, and age and scanner are to be set"):
        generate(run, data, tmp_path / "b", do=["scanner=A", "age=50"], source="appearance")
    with pytest.raises(ConfigError, match=r"wanted 'appearance', or a folder with counterfactuals\.csv"):
        generate(run, data, tmp_path / "b", do="scanner=A", source="apearance")


def test_a_function_is_a_source_too(data: Path, run: Path, tmp_path: Path) -> None:
    def seven_brighter(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        return image + 7 * (before != after)

    done = generate(run, data, tmp_path / "out", do="scanner=other", source=seven_brighter, cases=["case_1"])
    with Image.open(data / "images" / "case_1.png") as source:
        before = np.asarray(source).astype(int)
    with Image.open(tmp_path / "out" / done.records[0].images[0]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), before + 7)
    assert json.loads((tmp_path / "out" / "generate.json").read_text())["settings"]["source"] == "seven_brighter"


def test_ready_made_images_are_taken_from_their_folder(data: Path, run: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    Image.fromarray(np.full((12, 10), 99, np.uint8)).save(made / "a.png")
    scanner = open_dataset(data).case("case_0").scanner
    other = "B" if scanner == "A" else "A"
    (made / "counterfactuals.csv").write_text(f"case,intervention,image\ncase_0,scanner={other},a.png\n")
    done = generate(run, data, tmp_path / "out", do=f"scanner={other}", source=made, cases=["case_0"])
    with Image.open(tmp_path / "out" / done.records[0].images[0]) as picture:
        assert (np.asarray(picture) == 99).all()


def test_limits_come_as_words_a_mapping_or_themselves() -> None:
    assert parse_limits(["change=0.2", "composition=none"]) == SoundnessLimits(change=0.2, composition=None)
    assert parse_limits({"kept": None}) == SoundnessLimits(kept=None)
    assert parse_limits(SoundnessLimits(structure=0.5)) == SoundnessLimits(structure=0.5)
    for words, said in (
        (["change"], "wanted name=value"),
        (["chnge=1"], "did you mean 'change'"),
        (["kept=many"], "--limit: kept"),
        (["kept=2"], "--limit: kept"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_limits(words)


def test_neither_data_nor_model_can_be_written_over(data: Path, run: Path, tmp_path: Path) -> None:
    for out in (data, data / "made", data.parent, run, run / "model"):
        if out == run / "model":
            with pytest.raises(ConfigError):
                generate(run / "model", data, out, do="scanner=A", overwrite=True)
            continue
        with pytest.raises(ConfigError, match="lies there"):
            generate(run, data, out, do="scanner=A", overwrite=True)
    assert (run / "model" / "model.json").is_file()
    with pytest.raises(DataError, match="no model here"):
        generate(tmp_path, data, tmp_path / "out", do="scanner=A")


def test_the_command_says_in_a_few_lines_what_became_of_it(data: Path, run: Path, tmp_path: Path) -> None:
    words = [
        "generate",
        str(run),
        str(data),
        "--do",
        "scanner=other",
        "-o",
        str(tmp_path / "out"),
        "--limit",
        "change=0",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{N} counterfactuals of {N} cases: 0 sound, {N} rejected")
    assert any(line.strip().startswith("scanner=B: ") and "for change" in line for line in lines)
    assert lines[-1] == f"report:   {tmp_path / 'out' / 'report.html'}"
    assert len(lines) < 8
    as_json = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert (as_json["counterfactuals"], as_json["kept"], as_json["sound"]) == (N, N, 0)


def test_a_failed_case_is_said_and_ends_with_3(data: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    cases = [
        replace(case, images=(tmp_path / f"{case.case_id}.png",), attributes=case.attributes)
        for case in open_dataset(data).cases
    ]
    for index, case in enumerate(cases):
        Image.fromarray(greys((12, 10), index)).save(case.images[0])
    other.mkdir()
    cases_csv.write(toy_manifest(other, cases), other)
    cases[2].images[0].write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    words = ["generate", str(run), str(other), "--do", "scanner=other", "-o", str(tmp_path / "out"), "-q"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    assert "failed: " in result.output
    assert "case_2" in result.output
    assert (tmp_path / "out" / "cases.csv").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals of a shell")
def test_ctrl_c_ends_in_one_sentence_and_the_same_command_goes_on(data: Path, run: Path, tmp_path: Path) -> None:
    """The process is interrupted from within, as soon as the first image is there."""
    out = tmp_path / "out"
    code = (
        "import os, signal, sys\n"
        "from scantling.inference import generation_pass as module\n"
        "real = module.write_image\n"
        "def write(*args):\n"
        "    real(*args)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "module.write_image = write\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        f"sys.argv = ['scantling', 'generate', {str(run)!r}, {str(data)!r}, '-o', {str(out)!r},"
        " '--do', 'scanner=other', '--batch-size', '2', '-q']\n"
        "from scantling.cli.main import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(scantling.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1
    assert "the same command goes on from there" in done.stderr
    assert not (out / "cases.csv").exists()
    assert len(generate(run, data, out, do="scanner=other").records) == N


def test_masks_need_a_segmenter_and_a_kind_of_annotation(data: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --segmenter RUN"):
        generate(run, data, tmp_path / "out", do="scanner=B", masks="silver")
    with pytest.raises(ConfigError, match="'golden': no kind of annotation"):
        generate(run, data, tmp_path / "out", do="scanner=B", masks="golden")
    assert not (tmp_path / "out").exists()
