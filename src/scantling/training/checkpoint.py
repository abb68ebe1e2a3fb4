"""Checkpoints: everything a run needs to go on as if nothing had happened, whole or not there.

One checkpoint is one safetensors file whose header carries the scalars as JSON. Its name says its step and the first
digits of its SHA-256, so it appears, whole, by one rename, and any later damage is noticed without another file that
could be damaged itself. `index.json` lists the checkpoints for people, and tells when one has gone.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scantling.errors import IntegrityError, ScantlingError
from scantling.files import read_json, settle, sha256_file, temporary_file, write_atomic

SCHEMA_VERSION: Final = 1
KEPT: Final = 2
INDEX: Final = "index.json"
_DIGITS: Final = 32
_NAME: Final = re.compile(rf"([a-z]+)-(\d{{8,}})-([0-9a-f]{{{_DIGITS}}})\.safetensors")
_OLD_NAME: Final = re.compile(r"([a-z]+)-(\d{8,})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by name and scalars (anything JSON holds) of one moment of a run."""

    step: int
    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any]


@dataclass(frozen=True)
class _Entry:
    """A checkpoint on disk by its name; `digest` is the beginning of its SHA-256, or all of it."""

    path: Path
    tag: str
    step: int
    digest: str


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, tag: str = "step") -> Path:
    """Write a checkpoint, then the index, then drop those older than the last two of the same tag.

    Those of a later step are dropped too: the run has gone back and does these steps again.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are intact.
    """
    header = {
        "scantling": json.dumps(
            {"schema_version": SCHEMA_VERSION, "step": checkpoint.step, "scalars": dict(checkpoint.scalars)},
            allow_nan=False,
        )
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    before = _entries(folder)
    with temporary_file(folder / f"{tag}.safetensors") as temporary:
        save_file(tensors, temporary, metadata=header)
        digest = sha256_file(temporary)
        path = folder / f"{tag}-{checkpoint.step:08d}-{digest[:_DIGITS]}.safetensors"
        settle(temporary, path)
    others = [entry for entry in before if entry.tag != tag]
    earlier = [entry for entry in before if entry.tag == tag and entry.step < checkpoint.step]
    kept = [_Entry(path, tag, checkpoint.step, digest[:_DIGITS]), *earlier[: KEPT - 1], *others]
    write_atomic(folder / INDEX, _index_text(map(_row, kept)))
    for entry in before:
        if entry.path not in {one.path for one in kept}:
            entry.path.unlink(missing_ok=True)
    return path


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has come as far as its first checkpoint, be it whole or damaged."""
    return (folder / INDEX).is_file() or bool(_entries(folder))


def load_checkpoint(folder: Path, *, tag: str = "step") -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that is whole, and one sentence for each newer one that was not.

    Raises:
        IntegrityError: there is none.
    """
    complaints = _index_complaints(folder)
    for entry in _entries(folder):
        if entry.tag != tag:
            continue
        try:
            if sha256_file(entry.path).startswith(entry.digest):
                return _read(entry.path), complaints
            reason = "its SHA-256 is not the one in its name"
            _set_aside(entry.path)
        except OSError as error:
            reason = error.strerror or str(error)
        complaints.append(f"{entry.path}: the file is damaged ({reason}); going back to the checkpoint before it")
    detail = f" ({complaints[0]})" if complaints else ""
    raise IntegrityError(
        f"{folder}: holds no usable checkpoint{detail}; start the run again with 'train'", code="E-CHK-03"
    )


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it never counts as one of those to keep."""
    with contextlib.suppress(OSError):  # a folder that cannot be written, or another process of the run was first
        path.rename(path.with_name(f"{path.name}.damaged"))


def _read(path: Path) -> Checkpoint:
    """A file that is what was written; if it is no checkpoint all the same, somebody gave it such a name."""
    try:
        with safe_open(path, framework="pt") as stream:
            header = json.loads(stream.metadata()["scantling"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
        if header["schema_version"] <= SCHEMA_VERSION:
            return Checkpoint(step=header["step"], tensors=tensors, scalars=header["scalars"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: not a checkpoint ({error})", code="E-CHK-02") from None
    raise IntegrityError(
        f"{path}: written by a newer release (schema {header['schema_version']}); update scantling", code="E-CHK-04"
    )


def _entries(folder: Path) -> list[_Entry]:
    """Every checkpoint in a folder, newest first."""
    listed = _listed(folder)
    found = []
    for path in folder.glob("*.safetensors"):
        if name := _NAME.fullmatch(path.name):
            found.append(_Entry(path, name[1], int(name[2]), name[3]))
        elif (name := _OLD_NAME.fullmatch(path.name)) and path.name in listed:
            found.append(_Entry(path, name[1], int(name[2]), listed[path.name]))
    return sorted(found, key=lambda entry: (entry.step, _written(entry.path), entry.path.name), reverse=True)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _row(entry: _Entry) -> dict[str, Any]:
    return {"file": entry.path.name, "tag": entry.tag, "step": entry.step, "sha256": entry.digest}


def _index_text(rows: Iterable[dict[str, Any]]) -> bytes:
    return (json.dumps(list(rows), indent=2) + "\n").encode()


def _rows(folder: Path) -> list[dict[str, Any]] | None:
    """The content of `index.json`: none where there is no such file, None where it is damaged."""
    if not (folder / INDEX).is_file():
        return []
    try:
        rows = read_json(folder / INDEX)
        return [{name: row[name] for name in ("file", "tag", "step", "sha256")} for row in rows]
    except (ScantlingError, KeyError, TypeError):
        return None


def _listed(folder: Path) -> dict[str, str]:
    """File -> SHA-256; the first release's checkpoints have it in the index only."""
    return {str(row["file"]): str(row["sha256"]) for row in _rows(folder) or ()}


def _index_complaints(folder: Path) -> list[str]:
    """What does not fit between the index and the files; a checkpoint it does not list yet is no damage."""
    rows, entries = _rows(folder), {entry.path.name: entry for entry in _entries(folder)}
    if rows == [] and not (folder / INDEX).is_file():
        return []
    gone = [str(row["file"]) for row in rows or () if row["file"] not in entries]
    wrong = [row for row in rows or () if row["file"] in entries and row != _row(entries[str(row["file"])])]
    complaints = [f"{folder / INDEX}: lists {name}, which is not there" for name in gone]
    if rows is None or wrong or (folder / INDEX).read_bytes() != _index_text(rows):
        complaints.append(f"{folder / INDEX}: the file is damaged; it is made again from the names of the checkpoints")
    return complaints


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
