"""A model folder gives back what was saved, or says what is wrong with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.errors import DataError, IntegrityError
from scantling.files import sha256_file
from scantling.inference.model_folder import load_model, save_model
from scantling.networks import build_network
from scantling.sealed_folder import find_model_folder
from scantling.seeding import torch_generator

FILES = ("model.safetensors", "model.json", "MODEL_CARD.md", "SHA256SUMS")
PLAN = Plan(
    dataset="phantom <hearts>",
    modality="MR",
    image_axes=3,
    dimensions=2,
    channels=("cine",),
    classes=ClassPlan(names=("background", "left ventricle", "wall"), stored=((0,), (7,), (3, 4))),
    axis_order=(0, 1, 2),
    spacing_mm=(None, 1.5, 1.5),
    patch_size=(16, 16),
    batch_size=2,
    intensities=(IntensityPlan(scheme="zscore"),),
    network=NetworkPlan(features=(4, 8), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)), norm="batch"),
)
META = {"recipe": "supervised", "seed": 3, "n_training_cases": 12, "validation": "fold 0 of 5, by patient",
        "held_out": {"mean_dice": 0.8123456, "interval": [0.79, 0.83], "n": 4}}  # fmt: skip
CPU = torch.device("cpu")


def network() -> torch.nn.Module:
    return build_network(
        PLAN.network, dimensions=2, in_channels=1, out_channels=3, generator=torch_generator(0, "weights")
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    save_model(folder, network(), PLAN, META)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    model = load_model(saved, CPU)
    assert {path.name for path in saved.iterdir()} == set(FILES)
    assert model.plan == PLAN
    assert model.meta == META
    assert model.weights_sha256 == sha256_file(saved / "model.safetensors")
    assert not model.network.training
    wanted = network().state_dict()
    actual = model.network.state_dict()
    assert actual.keys() == wanted.keys()
    assert all(torch.equal(actual[name], wanted[name]) for name in wanted)


def test_the_checksums_are_those_that_sha256sum_checks(saved: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    done = subprocess.run(["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=saved, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_in_any_file_is_detected(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    positions = range(len(whole)) if len(whole) < 400 else range(0, len(whole), len(whole) // 150)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"damaged|missing"):
            load_model(copy, CPU)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_missing_is_detected(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        (copy / name).write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="damaged"):
            load_model(copy, CPU)
    (copy / name).unlink()
    with pytest.raises(IntegrityError, match="missing"):
        load_model(copy, CPU)


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its checksum, as somebody who edits a model on purpose would."""
    old = sha256_file(folder / name)
    (folder / name).write_bytes(content)
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, sha256_file(folder / name)))


def test_a_model_of_a_newer_release_is_refused_and_says_to_update(copy: Path) -> None:
    description = json.loads((copy / "model.json").read_text())
    for change in ({"schema_version": 2}, {"plan": {**description["plan"], "schema_version": 2}}):
        rewrite(copy, "model.json", json.dumps({**description, **change}).encode())
        with pytest.raises(IntegrityError, match=r"newer release .* update scantling"):
            load_model(copy, CPU)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"not json", b'{"schema_version": 1, "plan": {}, "meta": {}}'])
def test_a_description_that_is_none_is_refused(copy: Path, content: bytes) -> None:
    rewrite(copy, "model.json", content)
    with pytest.raises(IntegrityError, match=r"model\.json"):
        load_model(copy, CPU)


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    other = {name: tensor for name, tensor in network().state_dict().items() if not name.endswith("bias")}
    rewrite(copy, "model.safetensors", safetensors.torch.save(other))
    with pytest.raises(IntegrityError, match="do not belong to the plan"):
        load_model(copy, CPU)


def test_a_checksum_list_cannot_reach_outside_the_folder(copy: Path) -> None:
    (copy.parent / "secret").write_bytes(b"")
    sums = copy / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{sha256_file(copy.parent / 'secret')}  ../secret\n")
    with pytest.raises(IntegrityError, match="damaged"):
        load_model(copy, CPU)


def test_a_run_folder_or_its_model_folder_both_lead_to_the_model(saved: Path, tmp_path: Path) -> None:
    assert find_model_folder(saved) == saved
    assert find_model_folder(saved.parent) == saved
    with pytest.raises(DataError, match="no model here"):
        find_model_folder(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="no model yet; finish it with"):
        find_model_folder(tmp_path)


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(copy: Path) -> None:
    save_model(copy, network(), PLAN, {**META, "seed": 4})
    assert load_model(copy, CPU).meta["seed"] == 4
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_a_model_that_cannot_be_written_leaves_the_old_one_alone(copy: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_model(copy, network(), PLAN, {"score": float("nan")})
    assert load_model(copy, CPU).meta == META
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_the_model_card_says_what_is_known_and_what_is_not(saved: Path) -> None:
    card = (saved / "MODEL_CARD.md").read_text()
    for fact in (
        "For research only",
        "| wall | 3 |",
        "training cases: 12",
        "mean_dice: 0.8123",
        "[0.79, 0.83]",
        "fold 0 of 5, by patient",
        "slice by slice",
        "the image's own spacing x 1.5 mm x 1.5 mm",
        "steps: not recorded",
        "phantom &lt;hearts&gt;",
    ):
        assert fact in card


def test_a_model_without_a_held_out_score_says_so(tmp_path: Path) -> None:
    save_model(tmp_path / "model", network(), PLAN, {})
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "no case was held out" in card
    assert "training cases: not recorded" in card
