"""The run folder: what a run writes, under which names, each file whole at any moment."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from scantling.errors import DataError, IntegrityError
from scantling.files import new_folder, read_json, write_json

SCHEMA_VERSION: Final = 1
_PACKAGES = (
    "scantling",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "pillow",
    "tifffile",
    "safetensors",
    "pydantic",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its status file."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> RunFolder:
        """A new, empty run folder.

        Raises:
            ConfigError: the folder has content and `overwrite` is off.
        """
        return cls(new_folder(path, overwrite=overwrite))

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            DataError: the path is not a run folder.
        """
        if not (path / "run.json").is_file():
            raise DataError(
                f"{path}: not a run folder (no run.json); wanted the folder given to 'train -o'",
                code="E-RUN-01",
            )
        run = cls(path)
        if run.status()["schema_version"] > SCHEMA_VERSION:
            raise IntegrityError(f"{path}: written by a newer release; update scantling to read it", code="E-CHK-04")
        return run

    config = property(lambda self: self.path / "config.toml")
    plan = property(lambda self: self.path / "plan.json")
    split = property(lambda self: self.path / "splits.json")
    lock = property(lambda self: self.path / "data.lock.json")
    data_sheet = property(lambda self: self.path / "data_sheet.json")
    log = property(lambda self: self.path / "log.jsonl")
    metrics = property(lambda self: self.path / "metrics.csv")
    evaluation = property(lambda self: self.path / "evaluation.json")
    predictions = property(lambda self: self.path / "predictions")
    checkpoints = property(lambda self: self.path / "checkpoints")
    model = property(lambda self: self.path / "model")

    def status(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return dict(read_json(self.path / "run.json"))

    def update(self, **facts: Any) -> None:
        """Lay facts over `run.json`."""
        path = self.path / "run.json"
        known = self.status() if path.is_file() else {"schema_version": SCHEMA_VERSION}
        write_json(path, {**known, **facts})

    def append_log(self, event: str, **facts: Any) -> None:
        """Add one line to `log.jsonl`; a line cut by a crash is skipped by readers."""
        line = json.dumps({"event": event, "time": now(), **facts}, allow_nan=False, ensure_ascii=False)
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()

    def read_log(self) -> Iterator[dict[str, Any]]:
        """Every whole line of `log.jsonl`."""
        if not self.log.is_file():
            return
        with self.log.open(encoding="utf-8") as stream:
            for line in stream:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """What a rerun would need to know of this machine and its software; no host or user names."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": versions,
    }


def command_line() -> str:
    """The command as typed, with the program's name alone in front and no folder of this machine."""
    return " ".join([Path(sys.argv[0]).name, *(Path(a).name if os.path.isabs(a) else a for a in sys.argv[1:])])
