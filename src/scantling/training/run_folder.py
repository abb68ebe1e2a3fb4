"""The run folder: what a run writes, under which names, each file whole at any moment.

What decides a run is written twice. `run.json` ends in the checksum of its own text and lists that of `config.toml`,
`plan.json`, `splits.json` and `data.lock.json`; `copies/` holds a copy of each. So one damaged file loses no run, and
a changed one is noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from scantling.contrast.observation import FEATURES as OF_FEATURES
from scantling.errors import DataError, IntegrityError
from scantling.files import disk_errors, new_folder, sha256_bytes, sha256_file, write_atomic
from scantling.training.run_lock import refuse_if_training

SCHEMA_VERSION: Final = 1
STATUS: Final = "run.json"
ROAD, FEATURES, CONTROL = "road.json", "features", "labels-only"
"""Beside the files of a run that is the last of several: what they are, and the folders of the others."""
TOO_SHORT: Final = "too short"
"""The status of a run whose time allows fewer steps than it is to have at least; nothing was trained."""
DECIDING: Final = ("config.toml", "plan.json", "splits.json", "data.lock.json")
"""Files that a run depends on to the end and that nobody may change under it."""
_LOGGED_AGAIN: Final = ("epoch", "health", "contrast_warning", "contrast_recovered")
"""Events that count the steps taken, and that a run which is done again from a checkpoint logs again."""
_SEAL: Final = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n\Z')


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its status file.

    Attributes:
        writable: off in all but the first of several processes; `update` and `append_log` then do nothing.
    """

    path: Path
    writable: bool = True

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False, around: Collection[str] = ()) -> RunFolder:
        """A new, empty run folder.

        Args:
            around: names that may be there already, and stay.

        Raises:
            ConfigError: the folder has content and `overwrite` is off, or a process trains in it.
        """
        refuse_if_training(path)
        if around and path.is_dir() and {found.name for found in path.iterdir()} <= {*around}:
            return cls(path)
        return cls(new_folder(path, overwrite=overwrite))

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            DataError: the path is not a run folder.
            IntegrityError: `run.json` and its copy are damaged, or a newer release wrote them.
        """
        if not (path / STATUS).is_file() and not (path / "copies" / STATUS).is_file():
            raise DataError(
                f"{path}: not a run folder (no run.json); wanted the folder given to 'train -o'",
                code="E-RUN-01",
            )
        run = cls(path)
        if run.status().get("schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
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
    copies = property(lambda self: self.path / "copies")
    checkpoints = property(lambda self: self.path / "checkpoints")
    model = property(lambda self: self.path / "model")

    @property
    def how_to_resume(self) -> str:
        """The command; of the whole road, where the run is a part of one."""
        whole = self.path.parent if (self.path.parent / ROAD).is_file() else self.path
        return f"continue with: scantling resume {shlex.quote(str(whole))}"

    def status(self) -> dict[str, Any]:
        """The content of `run.json`, or of its copy where that is damaged.

        Raises:
            IntegrityError: both are.
        """
        found = self._own_status()
        if found is None:
            found = _unsealed(self.copies / STATUS)
        if found is None:
            raise IntegrityError(
                f"{self.path / STATUS}: the file is damaged, and there is no whole copy of it; bring it back from a "
                "backup, or start the run again with 'train'",
                code="E-CHK-06",
            )
        return found

    def update(self, **facts: Any) -> None:
        """Lay facts over `run.json`, and seal the deciding files that are there for the first time."""
        if not self.writable:
            return
        known: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        if (self.path / STATUS).is_file() or (self.copies / STATUS).is_file():
            known = self.status()
        files = dict(known.get("files", {}))
        files |= {name: self._copied(name) for name in DECIDING if name not in files and (self.path / name).is_file()}
        self._write_status({**known, **facts, **({"files": files} if files else {})})

    def rewrite(self, name: str, content: bytes) -> None:
        """Change a deciding file; wherever that is broken off, the run knows the file, old or new, as its own."""
        if self.writable:
            self._write_status({**self.status(), "rewriting": {name: sha256_bytes(content)}})
            write_atomic(self.path / name, content)
            self._write_status(self._rewritten(self.status()))

    def _rewritten(self, status: dict[str, Any]) -> dict[str, Any]:
        """The status after a rewriting that was carried through, or was broken off before the file was new."""
        wanted = status.pop("rewriting", {})
        new = {name: self._copied(name) for name, checksum in wanted.items() if _is_whole(self.path / name, checksum)}
        return {**status, "files": {**status.get("files", {}), **new}}

    def verify(self) -> list[str]:
        """One sentence for each damage that a copy has mended, after removing what a killed process left half written.

        To be called with the run's lock held, before a run goes on. Runs of older releases hold no checksums.

        Raises:
            IntegrityError: a file that decides the run is missing, damaged, or edited by hand.
        """
        sentences = []
        status = self.status()
        if self._own_status() is None:
            sentences.append(f"{STATUS}: damaged, or edited by hand; its copy in {self.copies.name}/ is used instead.")
        if self.writable and "rewriting" in status:
            status = self._rewritten(status)
            self._write_status(status)
        files = status.get("files", {})
        for name, checksum in files.items():
            self._require(name, checksum)
        broken = [name for name, checksum in files.items() if not _is_whole(self.copies / name, checksum)]
        if (self.path / STATUS).is_file() and files and _unsealed(self.copies / STATUS) is None:
            broken.append(STATUS)
        sentences += [f"{self.copies.name}/{name}: damaged or missing; it is written again." for name in broken]
        if self.writable:
            for name in broken:
                if name != STATUS:
                    self._copied(name)
            if sentences:
                self._write_status(status)
            self._sweep()
        return sentences

    def append_log(self, event: str, **facts: Any) -> None:
        """Add one line to `log.jsonl`; a line cut by a crash is skipped by readers.

        Raises:
            ResourceError: the disk is full.
        """
        if not self.writable:
            return
        line = json.dumps({"event": event, "time": now(), **facts}, allow_nan=False, ensure_ascii=False)
        with disk_errors(self.log), self.log.open("a+b", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 1, 0))
            cut = size > 0 and stream.read(1) != b"\n"
            rest = b"\n" * cut + line.encode() + b"\n"
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError:
                stream.truncate(size)
                raise

    def read_log(self) -> Iterator[dict[str, Any]]:
        """Every whole line of `log.jsonl`, but for epochs and warnings of steps that were done again.

        A killed run goes on from its last checkpoint: what it had logged past that is logged anew.
        """
        events: list[dict[str, Any]] = []
        resumed_at = None
        for event in self._log_lines():
            if event.get("event") == "resumed":
                resumed_at = event.get("step")
                events = [earlier for earlier in events if not _is_done_again(earlier, resumed_at)]
            elif event.get("event") in ("epoch", "health") and event.get("step") == resumed_at:
                # the checkpoint is of this very step, but from before the validation and the epoch's line
                events = [earlier for earlier in events if not _is_of_epoch(earlier, event)]
            events.append(event)
        return iter(events)

    def _log_lines(self) -> Iterator[dict[str, Any]]:
        if not self.log.is_file():
            return
        with self.log.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(ValueError, RecursionError):
                    if isinstance(event := json.loads(line), dict):
                        yield event

    def _own_status(self) -> dict[str, Any] | None:
        """The content of `run.json`; None where it is damaged. Without a seal it is whole only if it has no copy."""
        found = _unsealed(self.path / STATUS)
        if found is None and not (self.copies / STATUS).is_file():
            found = _json_object(_content(self.path / STATUS))  # an older release wrote it
        return found

    def _write_status(self, facts: Mapping[str, Any]) -> None:
        """The copy first: where the disk is full in between, `run.json` still says what it said."""
        content = _sealed(facts)
        write_atomic(self.copies / STATUS, content)
        write_atomic(self.path / STATUS, content)

    def _copied(self, name: str) -> str:
        """Copy a file into `copies/`; its SHA-256."""
        content = (self.path / name).read_bytes()
        write_atomic(self.copies / name, content)
        return sha256_bytes(content)

    def _require(self, name: str, checksum: str) -> None:
        path, copy = self.path / name, self.copies / name
        if _is_whole(path, checksum):
            return
        what = "is not what this run was started with (damaged, or edited by hand)" if path.exists() else "is missing"
        whole = _is_whole(copy, checksum)
        fix = f"to go on, copy {copy} to its place" if whole else "bring it back from a backup to go on"
        raise IntegrityError(
            f"{path}: {what}; {fix}; edits go through a new run ('train --config FILE' or 'train --plan FILE')",
            code="E-CHK-06",
        )

    def _sweep(self) -> None:
        """Remove what a killed process was writing."""
        for pattern in (".partial-*", ".old-model-*", "*/.partial-*"):
            for left in self.path.glob(pattern):
                if left.parent.name != "cache":  # other runs may be writing there
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _is_done_again(event: Mapping[str, Any], resumed_at: object) -> bool:
    """Whether an event is of a step past the one from which the run went on."""
    step = event.get("step")
    if not (isinstance(step, int) and isinstance(resumed_at, int)):
        return False
    return event.get("event") in _LOGGED_AGAIN and step > resumed_at


def _is_of_epoch(event: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Whether an event of the same step is what the new one stands for: the same, or warnings of a validation."""
    kinds = {"epoch": ("epoch",), "health": ("health", "contrast_warning", "contrast_recovered")}[again["event"]]
    if event.get("event") not in kinds or event.get("step") != again.get("step"):
        return False
    return event.get("event") == again["event"] or event.get("term") == OF_FEATURES


def _sealed(facts: Mapping[str, Any]) -> bytes:
    """Indented JSON of an object, with the SHA-256 of its text as the last field."""
    bare = {name: value for name, value in facts.items() if name != "sha256"}
    text = (json.dumps(bare, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    return text.removesuffix(b"\n}\n") + f',\n  "sha256": "{sha256_bytes(text)}"\n}}\n'.encode()


def _unsealed(path: Path) -> dict[str, Any] | None:
    """The object that `_sealed` wrote, without the seal; None where that is not what the file holds."""
    content = _content(path)
    if (seal := _SEAL.search(content)) is None:
        return None
    text = content[: seal.start()] + b"\n}\n"
    return _json_object(text) if sha256_bytes(text).encode() == seal[1] else None


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _content(path: Path) -> bytes:
    """What a file holds; nothing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_whole(path: Path, checksum: str) -> bool:
    try:
        return sha256_file(path) == checksum
    except OSError:
        return False


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
