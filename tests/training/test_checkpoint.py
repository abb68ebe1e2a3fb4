from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from scantling.errors import IntegrityError, ResourceError
from scantling.files import read_json, sha256_file, write_json
from scantling.training import checkpoint as module
from scantling.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    optimiser_state,
    restore_optimiser,
    save_checkpoint,
)


def make(step: int) -> Checkpoint:
    return Checkpoint(step=step, tensors={"a/b": torch.full((3,), float(step))}, scalars={"list": [step, None, "ü"]})


def test_the_newest_checkpoint_comes_back_as_it_was_and_only_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, make(step))
    save_checkpoint(tmp_path, make(2), tag="best")
    loaded, complaints = load_checkpoint(tmp_path)
    assert (loaded.step, dict(loaded.scalars), complaints) == (3, {"list": [3, None, "ü"]}, [])
    assert torch.equal(loaded.tensors["a/b"], torch.full((3,), 3.0))
    assert load_checkpoint(tmp_path, tag="best")[0].step == 2
    assert names(tmp_path) == ["best-00000002", "step-00000002", "step-00000003"]
    assert [(row["tag"], row["step"]) for row in read_json(tmp_path / "index.json")] == [
        ("best", 2), ("step", 3), ("step", 2),
    ]  # fmt: skip


def names(folder: Path) -> list[str]:
    """Tag and step of every checkpoint, whose name must tell the beginning of its SHA-256."""
    found = []
    for path in folder.glob("*.safetensors"):
        parts = re.fullmatch(r"(\w+-\d{8})-([0-9a-f]{32})\.safetensors", path.name)
        assert parts is not None
        assert sha256_file(path).startswith(parts[2])
        found.append(parts[1])
    return sorted(found)


def test_any_damage_of_the_newest_is_noticed_and_the_one_before_it_is_used(tmp_path: Path) -> None:
    rng = random.Random(0)
    for trial in range(50):
        folder = tmp_path / str(trial)
        save_checkpoint(folder, make(1))
        newest = save_checkpoint(folder, make(2))
        content = bytearray(newest.read_bytes())
        if trial % 2:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        newest.write_bytes(content)
        loaded, complaints = load_checkpoint(folder)
        assert loaded.step == 1
        assert "is damaged" in complaints[0]


def test_a_damaged_checkpoint_is_never_one_of_those_that_are_kept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(1))
    newest = save_checkpoint(tmp_path, make(2))
    newest.write_bytes(newest.read_bytes()[:-1])
    load_checkpoint(tmp_path)
    assert newest.with_name(f"{newest.name}.damaged").is_file()
    save_checkpoint(tmp_path, make(3))
    assert names(tmp_path) == ["step-00000001", "step-00000003"]
    assert load_checkpoint(tmp_path)[1] == []


def test_without_a_usable_checkpoint_the_error_says_so(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    with pytest.raises(IntegrityError, match="no usable checkpoint; start the run again"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, make(1)).unlink()
    assert has_checkpoint(tmp_path)
    with pytest.raises(IntegrityError, match=r"no usable checkpoint \(.*lists step-00000001-.*which is not there"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_that_has_gone_is_missed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(1))
    save_checkpoint(tmp_path, make(2)).unlink()
    loaded, complaints = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert re.search(r"lists step-00000002-\w+\.safetensors, which is not there", complaints[0])


def test_any_damage_of_the_index_is_noticed_and_costs_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(1))
    save_checkpoint(tmp_path, make(2))
    index = tmp_path / "index.json"
    whole = index.read_bytes()
    rng = random.Random(0)
    for trial in range(60):
        content = bytearray(whole)
        if trial % 2:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        index.write_bytes(content)
        loaded, complaints = load_checkpoint(tmp_path)
        assert loaded.step == 2
        assert any("index.json" in complaint for complaint in complaints)
    save_checkpoint(tmp_path, make(3))
    assert load_checkpoint(tmp_path)[1] == []


def test_steps_that_are_done_again_take_the_place_of_those_left_behind(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save_checkpoint(tmp_path, make(step))
    save_checkpoint(tmp_path, make(10))
    assert names(tmp_path) == ["step-00000008", "step-00000010"]
    again = Checkpoint(step=10, tensors={"a/b": torch.zeros(3)}, scalars={})
    save_checkpoint(tmp_path, again)
    save_checkpoint(tmp_path, again)
    assert names(tmp_path) == ["step-00000008", "step-00000010"]
    assert torch.equal(load_checkpoint(tmp_path)[0].tensors["a/b"], torch.zeros(3))


def test_checkpoints_of_the_first_release_are_read_by_their_index(tmp_path: Path) -> None:
    table = []
    for step in (2, 1):
        path = save_checkpoint(tmp_path / str(step), make(step)).rename(tmp_path / f"step-{step:08d}.safetensors")
        table.append({"file": path.name, "tag": "step", "step": step, "sha256": sha256_file(path)})
    write_json(tmp_path / "index.json", table)
    loaded = load_checkpoint(tmp_path)
    assert (loaded[0].step, loaded[1]) == (2, [])
    newest = tmp_path / "step-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    loaded = load_checkpoint(tmp_path)
    assert (loaded[0].step, len(loaded[1])) == (1, 1)
    save_checkpoint(tmp_path, make(3))
    assert load_checkpoint(tmp_path)[0].step == 3


def test_a_file_with_the_name_of_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("weights", "text"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "file"
        save_file({"a": torch.zeros(1)}, path) if name == "weights" else path.write_text("text")
        path.rename(path.with_name(f"step-00000001-{sha256_file(path)[:32]}.safetensors"))
        with pytest.raises(IntegrityError, match="not a checkpoint"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_write_that_fails_leaves_the_old_checkpoint_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save_checkpoint(tmp_path, make(1))

    def full(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        save_checkpoint(tmp_path, make(2))
    assert load_checkpoint(tmp_path)[0].step == 1
    assert not list(tmp_path.glob(".partial*"))


def test_a_run_killed_before_the_index_is_written_goes_on_from_the_newer_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, make(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_atomic", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        save_checkpoint(tmp_path, make(2))
    assert [entry["step"] for entry in read_json(tmp_path / "index.json")] == [1]
    loaded, complaints = load_checkpoint(tmp_path)
    assert (loaded.step, complaints) == (2, [])


def test_a_checkpoint_of_a_newer_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "SCHEMA_VERSION", 99)
        save_checkpoint(tmp_path, make(1))
    with pytest.raises(IntegrityError, match="newer release"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_optimiser_takes_the_same_next_step_to_the_bit(kind: str) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        options = {
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
            "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9),
        }
        return model, options[kind](model.parameters())

    def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        model(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
        optimiser.step()

    model, optimiser = build()
    for _ in range(3):
        step(model, optimiser)
    twin, fresh = build()
    twin.load_state_dict(model.state_dict())
    restore_optimiser(fresh, *optimiser_state(optimiser))
    step(model, optimiser)
    step(twin, fresh)
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)
