"""Checkpoints: everything a run needs to go on as if nothing had happened, whole or not there.

One checkpoint is one safetensors file whose header carries the scalars as JSON; `index.json` names the good
ones, newest first, with the SHA-256 of each. A checkpoint counts from the moment the index names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scantling.errors import IntegrityError
from scantling.files import atomic_path, read_json, require_sha256, sha256_file, write_json

SCHEMA_VERSION = 1
KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by name and scalars (anything JSON holds) of one moment of a run."""

    step: int
    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, tag: str = "step") -> Path:
    """Write a checkpoint, then the index, then drop what is older than the last two of the same tag.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are intact.
    """
    path = folder / f"{tag}-{checkpoint.step:08d}.safetensors"
    header = {
        "scantling": json.dumps(
            {"schema_version": SCHEMA_VERSION, "step": checkpoint.step, "scalars": dict(checkpoint.scalars)},
            allow_nan=False,
        )
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    entry = {"file": path.name, "tag": tag, "step": checkpoint.step, "sha256": sha256_file(path)}
    entries = [entry, *(old for old in _index(folder) if old["file"] != path.name)]
    kept = [e for e in entries if [o["file"] for o in entries if o["tag"] == e["tag"]].index(e["file"]) < KEPT]
    write_json(folder / "index.json", kept)
    for old in entries:
        if old not in kept:
            (folder / old["file"]).unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path, *, tag: str = "step") -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that is whole, and one sentence for each newer one that was not.

    Raises:
        IntegrityError: there is none.
    """
    complaints: list[str] = []
    for entry in _index(folder):
        if entry["tag"] != tag:
            continue
        path = folder / entry["file"]
        try:
            require_sha256(path, entry["sha256"])
        except IntegrityError as error:
            complaints.append(f"{error.message}; going back to the checkpoint before it")
            continue
        return _read(path), complaints
    detail = f" ({complaints[0]})" if complaints else ""
    raise IntegrityError(
        f"{folder}: holds no usable checkpoint{detail}; start the run again with 'train'", code="E-CHK-03"
    )


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as stream:
        header = json.loads(stream.metadata()["scantling"])
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
    if header["schema_version"] > SCHEMA_VERSION:
        raise IntegrityError(
            f"{path}: written by a newer release (schema {header['schema_version']}); update scantling",
            code="E-CHK-04",
        )
    return Checkpoint(step=header["step"], tensors=tensors, scalars=header["scalars"])


def _index(folder: Path) -> list[dict[str, Any]]:
    path = folder / "index.json"
    return list(read_json(path)) if path.is_file() else []


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors and JSON scalars."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, scalars


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    """Put back what `optimiser_state` gave; the groups (learning rate, decay) stay those of the configuration."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *scalars.items()]:
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
