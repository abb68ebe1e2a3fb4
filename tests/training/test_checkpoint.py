from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from scantling.errors import IntegrityError, ResourceError
from scantling.files import read_json
from scantling.training import checkpoint as module
from scantling.training.checkpoint import (
    Checkpoint,
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
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "best-00000002.safetensors", "step-00000002.safetensors", "step-00000003.safetensors",
    ]  # fmt: skip


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


def test_without_a_usable_checkpoint_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no usable checkpoint"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, make(1)).unlink()
    with pytest.raises(IntegrityError, match=r"no usable checkpoint \(.*is missing"):
        load_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_the_old_checkpoint_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, make(1))

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(ResourceError):
        save_checkpoint(tmp_path, make(2))
    assert load_checkpoint(tmp_path)[0].step == 1
    assert not list(tmp_path.glob(".partial*"))


def test_a_checkpoint_counts_only_once_the_index_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, make(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        save_checkpoint(tmp_path, make(2))
    assert [entry["step"] for entry in read_json(tmp_path / "index.json")] == [1]
    assert load_checkpoint(tmp_path)[0].step == 1


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
