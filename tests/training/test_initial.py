"""What a run takes from another one: weights and plan, never heads of other classes, and no look at who is held out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from scantling.data.catalog.phantom import write_cardiac_phantom, write_chest_phantom
from scantling.data.splits import Split
from scantling.errors import ConfigError, DataError, PlanMismatch
from scantling.files import read_json
from scantling.inference.model_folder import save_model
from scantling.sealed_folder import write_sealed
from scantling.training.checkpoint import load_checkpoint
from scantling.training.config import DataConfig, PlanConfig, RunConfig
from scantling.training.feature_road import FeatureRoad
from scantling.training.initial import Start
from scantling.training.interruption import StopSignals
from scantling.training.loop import Loop
from scantling.training.loop_state import LoopConfig
from scantling.training.progress import Silent
from scantling.training.run_folder import RunFolder
from scantling.training.seen import Learnt, learnt_by, require_unseen
from scantling.training.segmentation_road import SegmentationRoad
from scantling.training.train import resume, start

PATCH = (16, 32)


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    @property
    def text(self) -> str:
        return "\n".join(self.sentences)


def config(folder: Path, **changes: Any) -> RunConfig:
    data = {"path": str(folder), **changes.pop("data", {})}
    loop = LoopConfig(steps=1, steps_per_epoch=1, precision="float32", checkpoint_seconds=0)
    return RunConfig(**({"training": loop, "data": DataConfig(**data)} | changes))


def pretraining(folder: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "recipe": "dvd_cl",
        "settings": {"points": 20, "views": {"n_views": 2}, "tap": ""},
        "plan": PlanConfig(patch_size=PATCH, batch_size=2, network="residual_unet"),
    }
    return config(folder, **(values | changes))


def ready(wanted: RunConfig, folder: Path, told: Told | None = None) -> tuple[SegmentationRoad, Loop]:
    """A run before its first step."""
    run = RunFolder.create(folder)
    wanted.save(run.config)
    run.update(status="preparing", recipe=wanted.recipe)
    road = SegmentationRoad(run, wanted, device=torch.device("cpu"), display=told or Told())
    road.gather()
    return road, road.loop(StopSignals())


def pretend(wanted: RunConfig, folder: Path) -> RunFolder:
    """All of a pretraining run but the training."""
    run = RunFolder.create(folder)
    run.update(status="preparing", recipe=wanted.recipe)
    road = FeatureRoad(run, wanted, device=torch.device("cpu"), display=Silent())
    road.gather()
    loop = road.loop(StopSignals())
    road.finish(loop, loop.deployable().eval(), stop=StopSignals())
    return run


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without test cases: folds are drawn with the seed."""
    folder = tmp_path_factory.mktemp("initial") / "chest"
    return write_chest_phantom(folder, n_labelled=6, n_unlabelled=2, n_test=0, seed=3, size=40)


@pytest.fixture(scope="module")
def pretrained(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return start(pretraining(chest), tmp_path_factory.mktemp("runs") / "p")


@pytest.fixture(scope="module")
def careless(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Learnt from everybody."""
    return pretend(pretraining(chest, data={"fold": "none"}), tmp_path_factory.mktemp("runs") / "all")


def tensors(run: RunFolder) -> dict[str, Any]:
    return load_file(run.model / "model.safetensors")


def test_a_run_folder_gives_its_weights_grid_intensities_patch_and_network_and_no_head(
    pretrained: RunFolder, chest: Path, tmp_path: Path
) -> None:
    told = Told()
    run = start(config(chest, init=str(pretrained.path)), tmp_path / "run", display=told)
    mine, theirs = (read_json(each.plan) for each in (run, pretrained))
    for name in ("network", "spacing_mm", "intensities", "patch_size", "axis_order", "dimensions"):
        assert mine[name] == theirs[name], name
    assert theirs["patch_size"] == list(PATCH)
    assert mine["batch_size"] > theirs["batch_size"] == 2  # one view an image, so there is room for more images
    assert mine["label_kinds"] == ["full", "slices"]
    table = (run.path / "transfer.txt").read_text().splitlines()
    n_tensors = len(tensors(pretrained))
    assert table[0].endswith(f": {n_tensors} matched, 0 adapted, 0 skipped, 2 missing")
    assert len(table) == 2 + n_tensors + 2
    said = next(sentence for sentence in told.sentences if sentence.startswith("weights from"))
    assert len(said.splitlines()) == 4
    assert "heads.0.weight" in said
    assert run.status()["started_from"].startswith("p (dvd_cl, SHA-256 ")
    assert "started from: p (dvd" in (run.model / "MODEL_CARD.md").read_text()
    assert run.evaluation.is_file()


@pytest.mark.parametrize(
    ("tune", "moved"), [("frozen", ("decoder.", "heads.")), ("linear-probe", ("heads.0.",))]
)  # fmt: skip
def test_what_is_not_tuned_is_saved_to_the_bit_as_it_was_and_has_no_optimiser_state(
    tune: str, moved: tuple[str, ...], chest: Path, pretrained: RunFolder, tmp_path: Path
) -> None:
    run = start(config(chest, init=str(pretrained.path), tune=tune), tmp_path / "run")
    before, after = tensors(pretrained), tensors(run)
    equal = {name for name, value in after.items() if name in before and bool((value == before[name]).all())}
    assert equal == {name for name in after if not name.startswith(moved)}
    assert len(equal) > 20
    checkpoint, _ = load_checkpoint(run.checkpoints)
    states = {name.split("/")[1].split(".")[0] for name in checkpoint.tensors if name.startswith("optimiser/")}
    assert len(states) == sum(name.startswith(moved) for name in after)
    assert checkpoint.tensors.keys() >= {f"average/{name}" for name in after}
    assert ("encoder stayed" in run.status()["started_from"]) == (tune == "frozen")


def test_levels_that_had_not_been_learnt_are_trained_whatever_else_stays(chest: Path, tmp_path: Path) -> None:
    settings = {"points": 20, "views": {"n_views": 2}, "tap": "decoder.0"}
    source, told = pretend(pretraining(chest, settings=settings), tmp_path / "source"), Told()
    run = start(config(chest, init=str(source.path), tune="linear-probe"), tmp_path / "run", display=told)
    assert "Note: decoder.1, decoder.2 had not been learnt there, and are trained as well." in told.text
    before, after = tensors(source), tensors(run)
    equal = {name for name, value in after.items() if name in before and bool((value == before[name]).all())}
    assert equal == {name for name in after if name.startswith(("encoder.", "decoder.0."))}
    assert not any(name.startswith(("decoder.1.", "decoder.2.")) for name in before)
    longer = resume(run.path, steps=run.status()["steps"] + 1)
    assert tensors(longer).keys() == after.keys()
    again = {name for name, value in tensors(longer).items() if bool((value == after[name]).all())}
    assert again >= equal
    assert not any(name.startswith(("decoder.1.", "decoder.2.")) for name in again)


def test_tensors_that_are_kept_and_were_not_in_the_file_are_said_to_be_chance(
    pretrained: RunFolder, chest: Path, tmp_path: Path
) -> None:
    weights, told = tensors(pretrained), Told()
    name = next(name for name in weights if name.startswith("decoder.1."))
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "weights.safetensors")
    plan = {**read_json(pretrained.plan), "label_kinds": ["full"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    start(
        config(chest, init=str(tmp_path / "weights.safetensors"), tune="linear-probe"), tmp_path / "run",
        plan=tmp_path / "plan.json", dry_run=True, display=told,
    )  # fmt: skip
    assert (
        f"Note: 1 tensors that --tune linear-probe keeps as they are were not in the file, such as {name}" in told.text
    )


def test_a_file_of_weights_leaves_the_plan_alone(pretrained: RunFolder, chest: Path, tmp_path: Path) -> None:
    road, _ = ready(config(chest, init=str(pretrained.model / "model.safetensors")), tmp_path / "file")
    assert road.materials.plan.network.kind == "plain_unet"
    assert road.materials.plan.patch_size != PATCH


def test_a_given_plan_stands_above_that_of_the_weights(pretrained: RunFolder, chest: Path, tmp_path: Path) -> None:
    plan, told = {**read_json(pretrained.plan), "patch_size": [32, 32]}, Told()
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    run = start(
        config(chest, init=str(pretrained.model)), tmp_path / "run",
        plan=tmp_path / "plan.json", dry_run=True, display=told,
    )  # fmt: skip
    assert read_json(run.plan)["patch_size"] == [32, 32]
    assert read_json(run.plan)["label_kinds"] == ["full", "slices"]  # pretraining read none
    assert "2 missing" in told.text
    assert run.verify() == []


def test_settings_win_over_the_plan_of_the_weights_where_the_network_allows_it(
    pretrained: RunFolder, chest: Path, tmp_path: Path
) -> None:
    wanted = PlanConfig(patch_size=(24, 24), batch_size=3)
    plan = ready(config(chest, init=str(pretrained.path), plan=wanted), tmp_path / "run")[0].materials.plan
    assert (plan.patch_size, plan.batch_size) == ((24, 24), 3)
    with pytest.raises(PlanMismatch, match=r"plan.network residual_unet, but scribble_unet is asked for") as caught:
        start(config(chest, init=str(pretrained.path), plan=PlanConfig(network="scribble_unet")), tmp_path / "refused")
    assert caught.value.code == "E-RUN-13"


def test_images_of_other_axes_or_channels_are_refused_and_both_are_named(
    pretrained: RunFolder, chest: Path, tmp_path: Path
) -> None:
    heart = write_cardiac_phantom(tmp_path / "heart", n_labelled=2, n_unlabelled=0, n_test=1, seed=0, shape=(6, 32, 32))
    with pytest.raises(PlanMismatch, match=r"--init p: .* pictures of 2 axes, but \S+ has volumes of 3 axes"):
        start(config(heart, init=str(pretrained.path)), tmp_path / "axes")
    colour = tmp_path / "colour"
    shutil.copytree(chest, colour)
    rng = np.random.default_rng(0)
    for path in (colour / "images").iterdir():
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    with pytest.raises(PlanMismatch, match=r"1 channel \(image\), but \S+ has 3 channels \(red, green, blue\)"):
        start(config(colour, init=str(pretrained.path)), tmp_path / "channels")
    assert not (tmp_path / "channels").exists()


def test_heads_are_taken_only_where_they_tell_the_same_classes_apart(chest: Path, tmp_path: Path) -> None:
    road, loop = ready(config(chest), tmp_path / "first")
    save_model(road.run.model, loop.deployable(), road.materials.plan, {})
    for classes, skipped in (((), 0), (("heart",), 2)):
        told = Told()
        ready(config(chest, init=str(road.run.path), data={"classes": classes}), tmp_path / f"n{skipped}", told)
        assert f" {skipped} skipped" in next(said for said in told.sentences if said.startswith("weights from"))


def test_weights_that_have_seen_who_is_held_out_are_refused_or_the_leak_is_said(
    careless: RunFolder, chest: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"all has learnt from 2 of the 2 patients held out here") as caught:
        start(config(chest, init=str(careless.path)), tmp_path / "refused")
    assert caught.value.code == "E-RUN-12"
    assert not (tmp_path / "refused").exists()
    with pytest.raises(DataError, match="E-RUN-12"):  # the weights alone have seen no less
        start(config(chest, init=str(careless.model / "model.safetensors")), tmp_path / "refused")
    told = Told()
    road, loop = ready(config(chest, init=str(careless.path), data={"allow_leak": True}), tmp_path / "leak", told)
    assert "Leak: all has learnt from 2 of the 2 patients held out here" in told.text
    assert road.materials.split.leak_allowed
    kept = read_json(road.run.path / "initial.json")
    assert set(road.materials.split.patients.values()) == set(kept["patients"])
    save_model(road.run.model, loop.deployable(), road.materials.plan, {})
    with pytest.raises(DataError, match=r"leak has learnt from"):  # who starts from that one has, too
        start(config(chest, init=str(road.run.path)), tmp_path / "again")


def test_the_same_fold_and_seed_leak_nothing_and_others_do(pretrained: RunFolder, chest: Path, tmp_path: Path) -> None:
    ready(config(chest, init=str(pretrained.path)), tmp_path / "same")
    with pytest.raises(DataError, match="E-RUN-12"):
        ready(config(chest, init=str(pretrained.path), data={"fold": 1}), tmp_path / "other")
    ready(config(chest, init=str(pretrained.path), data={"fold": "none"}), tmp_path / "none")


def test_images_are_known_whatever_their_names_and_names_only_within_one_data_set(
    careless: RunFolder, chest: Path, tmp_path: Path
) -> None:
    learnt = learnt_by(careless.path, chosen=False)
    patients = {f"n{k}": f"p{k}" for k in range(4)}
    split = Split(train=("n1",), heldout=("n0", "n2"), unused=("n3",), patients=patients, scheme="folds", sentence="")
    copy = next(iter(sorted(learnt.images)))

    def asked(voxels: dict[str, str], seen: Learnt | None = learnt) -> str:
        told = Told()
        require_unseen(seen, split, voxels, name="all", allow_leak=False, say=told.say)
        return told.text

    assert asked({"n0": "new", "n2": "newer"}) == ""
    with pytest.raises(DataError, match="1 of the 2 patients held out here, such as p2"):
        asked({"n0": "new", "n2": copy})
    named = Learnt(patients=frozenset({"p0"}), images=frozenset({"a"}), around=frozenset({"a", "b"}))
    assert "taken for other people" in asked({"n0": "x", "n1": "y"}, named)
    with pytest.raises(DataError, match="such as p0"):
        asked({"n0": "x", "n1": "b"}, named)
    assert "nothing says whom it has learnt from" in asked({}, None)


def test_a_model_folder_without_its_run_cannot_say_whom_it_has_seen(
    careless: RunFolder, chest: Path, tmp_path: Path
) -> None:
    shutil.copytree(careless.model, tmp_path / "alone")
    assert Start.read(tmp_path / "alone").learnt is None
    told = Told()
    ready(config(chest, init=str(tmp_path / "alone")), tmp_path / "run", told)
    assert "alone: nothing says whom it has learnt from" in told.text


def test_an_image_model_and_an_unfinished_run_are_no_start(chest: Path, tmp_path: Path) -> None:
    described = json.dumps({"schema_version": 1, "kind": "image_model", "plan": {}, "meta": {}})
    write_sealed(
        tmp_path / "images" / "model",
        {"model.safetensors": b"", "model.json": described.encode(), "MODEL_CARD.md": b""},
    )
    with pytest.raises(DataError, match="this model makes images"):
        start(config(chest, init=str(tmp_path / "images")), tmp_path / "run")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    with pytest.raises(DataError, match="this run has no model yet; finish it"):
        start(config(chest, init=str(tmp_path / "unfinished")), tmp_path / "run")


def test_keeping_parts_of_nothing_is_refused(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it starts from nothing; give --init RUN") as caught:
        start(config(chest, tune="frozen"), tmp_path / "run")
    assert caught.value.code == "E-CFG-70"
