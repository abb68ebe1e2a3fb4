from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterfactuals.toy_image_model import ROWS, graph, greys, network, picture, plan
from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig
from scantling.counterfactuals.counterfactual import CounterfactualGenerator, ImageModelSource
from scantling.counterfactuals.model_files import (
    find_model_folder,
    load_generator,
    load_image_model,
    save_image_model,
)
from scantling.errors import DataError, IntegrityError, ResourceError, ScantlingError
from scantling.files import sha256_bytes

CPU = torch.device("cpu")
META = {"recipe": "counterfactual_vae", "seed": 4, "steps": 10, "n_training_cases": 80, "judge": {"scanner": 0.97}}


def judge() -> AttributePredictor:
    config = PredictorConfig(widths=(8, 16))
    attributes = plan().attributes
    return AttributePredictor(
        config, attributes, in_channels=1, dimensions=2, generator=torch.Generator().manual_seed(2)
    ).eval()


def saved(folder: Path, *, with_judge: bool = True, **changes: Any) -> Path:
    save_image_model(folder, network(plan(), **changes), plan(), graph(), META, judge=judge() if with_judge else None)
    return folder


def resealed(folder: Path, **changes: Any) -> None:
    """Edit model.json and write its right checksum, as somebody would who means to."""
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sums = folder / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("  model.json")]
    sums.write_text("\n".join([*lines, f"{sha256_bytes(path.read_bytes())}  model.json"]) + "\n")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model = load_image_model(saved(tmp_path / "model"), CPU)
    assert (model.plan, model.meta, model.graph.attributes) == (plan(), META, graph().attributes)
    assert model.network.config == network(plan()).config
    assert not model.network.training
    original = network(plan()).state_dict()
    assert all(torch.equal(value, original[name]) for name, value in model.network.state_dict().items())
    assert model.judge is not None
    assert not model.judge.training
    seen = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    assert torch.equal(model.judge(seen), judge()(seen))
    assert model.weights_sha256 == sha256_bytes((tmp_path / "model" / "model.safetensors").read_bytes())


def test_a_model_without_a_judge_has_none_and_saving_one_later_adds_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", with_judge=False)
    assert load_image_model(folder, CPU).judge is None
    assert not (folder / "judge.safetensors").exists()
    saved(folder)
    assert load_image_model(folder, CPU).judge is not None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_loaded_generator_answers_to_the_bit_as_the_one_in_memory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run" / "model")
    image = picture(greys((19, 15), 1))
    source = ImageModelSource(network(plan()), plan(), graph())
    here = CounterfactualGenerator(graph=graph(), source=source, plan=plan(), seed=7)
    there = load_generator(tmp_path / "run", CPU, seed=7, batch_size=2)
    for do in ({"site": "s"}, {"scanner": "B", "age": 61}):
        one, other = here.counterfactual(image, do), there.counterfactual(image, do)
        assert one.image.row == other.image.row
        assert np.array_equal(one.image.channels[0], other.image.channels[0])


def test_the_folder_can_be_checked_with_sha256sum(tmp_path: Path) -> None:
    files = content(saved(tmp_path / "model"))
    listed = dict(reversed(line.split("  ")) for line in files.pop("SHA256SUMS").decode().splitlines())
    assert listed == {name: sha256_bytes(data) for name, data in files.items()}
    assert {"model.safetensors", "judge.safetensors", "model.json", "MODEL_CARD.md", "causal_graph.json"} < set(listed)
    assert json.loads(files["model.json"])["kind"] == "image_model"


def test_the_card_says_what_it_may_be_asked_and_what_it_is_not_for(tmp_path: Path) -> None:
    card = (saved(tmp_path / "model") / "MODEL_CARD.md").read_text()
    assert "must never be read for a diagnosis" in card
    assert "scanner: binary (A, B), caused by site" in card
    assert "scanner: 0.970" in card
    assert "training cases: 80" in card
    assert "cases for choosing the checkpoint: not recorded" in card


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    for name, data in content(folder).items():
        damaged = bytearray(data)
        damaged[len(data) // 2] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises(IntegrityError):
            load_image_model(folder, CPU)
        (folder / name).unlink()
        with pytest.raises(IntegrityError, match="missing"):
            load_image_model(folder, CPU)
        (folder / name).write_bytes(data)
    load_image_model(folder, CPU)


def test_a_save_that_fails_leaves_the_older_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "model")
    before = content(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scantling.sealed_folder.write_atomic", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        saved(folder, with_judge=False)
    assert content(folder) == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_model_of_another_kind_is_told_apart(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    resealed(folder, kind="segmentation")
    with pytest.raises(DataError, match="this model is for segmentation, and makes no images"):
        load_image_model(folder, CPU)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema_version": 99}, "newer release"),
        ({"plan": 3}, "not a model description"),
        ({"network": None}, "'network' is missing"),
        ({"network": {"preset": "tiny"}}, "coarser|divides|do not belong"),
        ({"judge": {"widths": [8, 8]}}, r"judge\.safetensors: the weights do not belong"),
        ({"judge": {"widths": []}}, "judge: widths"),
        ({"plan": {**plan().model_dump(mode="json"), "size": [9, 9]}}, "divides every axis"),
        (
            {
                "plan": {
                    **plan().model_dump(mode="json"),
                    "attributes": plan().model_dump(mode="json")["attributes"][:2],
                }
            },
            "different attributes",
        ),
    ],
)
def test_an_edited_description_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    folder = saved(tmp_path / "model")
    resealed(folder, **changes)
    with pytest.raises(IntegrityError, match=sentence):
        load_image_model(folder, CPU)


def test_a_folder_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model here"):
        find_model_folder(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="scantling resume"):
        load_generator(tmp_path, CPU)
    with pytest.raises(ScantlingError, match="no such model folder"):
        load_image_model(tmp_path / "gone", CPU)


def test_rows_of_the_toy_world_fit_its_graph() -> None:
    assert graph().encode(ROWS).shape == (len(ROWS), len(plan().context))
