"""What was generated so far: a line of JSON for each counterfactual, written after its images are on the disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from scantling.counterfactuals.soundness import Soundness
from scantling.counterfactuals.table import Row
from scantling.files import sha256_file, write_errors

RECORDS: Final = "records.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One counterfactual on disk.

    Attributes:
        name: its case id.
        counterfactual_of, patient_id: of the real case it was made of.
        intervention: what was set, such as `scanner=B`.
        before, after: the attributes of the real case and of the counterfactual.
        images: the files, relative to the folder; `checksums` their SHA-256.
        sources: SHA-256 of the real case's images.
    """

    name: str
    counterfactual_of: str
    patient_id: str
    intervention: str
    before: Row
    after: Row
    images: tuple[str, ...]
    checksums: tuple[str, ...]
    sources: tuple[str, ...]
    soundness: Soundness

    def says(self, *, before: Row, after: Row, sources: Sequence[str]) -> bool:
        """Whether it is what would be generated now from these attributes and files."""
        return dict(self.before) == dict(before) and dict(self.after) == dict(after) and self.sources == tuple(sources)

    def is_whole(self, folder: Path) -> bool:
        """Whether its images lie there as they were written."""
        pairs = zip(self.images, self.checksums, strict=True)
        return all((folder / n).is_file() and sha256_file(folder / n) == checksum for n, checksum in pairs)

    def line(self) -> str:
        """The record as one line of JSON; what is not known is null."""
        values = {**asdict(self), "soundness": _without_nan(asdict(self.soundness))}
        return json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"


class RecordLog:
    """The records of a folder, to which more can be added; of one name the last counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS
        self._records = {record.name: record for record in _read(self.path)}

    @property
    def records(self) -> Mapping[str, Record]:
        """By name, in the order of their first writing."""
        return self._records

    def add(self, records: Sequence[Record]) -> None:
        """Append records, safely on the disk when this returns.

        Raises:
            ResourceError: the disk is full, or the file cannot be written.
        """
        with write_errors(self.path), self.path.open("ab") as stream:
            stream.write("".join(record.line() for record in records).encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._records.update({record.name: record for record in records})


def _read(path: Path) -> Iterator[Record]:
    """Whole lines only; the rest of one that a stopped process left is cut off."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with write_errors(path):
            os.truncate(path, len(whole))
    for line in whole.splitlines():
        record = _parsed(line)
        if record is not None:
            yield record


def _parsed(line: bytes) -> Record | None:
    """A record, or None of a line that says none: what it stood for is generated again."""
    try:
        values: Any = json.loads(line)
        measured = {f.name: values["soundness"][f.name] for f in fields(Soundness)}
        soundness = Soundness(**{n: math.nan if v is None else float(v) for n, v in measured.items()})
        return Record(
            name=str(values["name"]),
            counterfactual_of=str(values["counterfactual_of"]),
            patient_id=str(values["patient_id"]),
            intervention=str(values["intervention"]),
            before={str(k): str(v) for k, v in values["before"].items()},
            after={str(k): str(v) for k, v in values["after"].items()},
            images=tuple(map(str, values["images"])),
            checksums=tuple(map(str, values["checksums"])),
            sources=tuple(map(str, values["sources"])),
            soundness=soundness,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
