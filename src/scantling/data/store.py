"""Prepared cases on disk, each under a key made from everything that went into it.

`entries/<key>/` holds image, label map and points of each class, and `meta.json` with the SHA-256 of each. Image
and label map are `.npy` files that are memory-mapped when read, or compressed ones for a set that is too large to
stay in memory: the values are the same, and an entry is used in the form in which it is there. The key is the
SHA-256 of the preparation's version, the plan's fields that matter, the content of the files and the annotation's
settings: whatever changes, the key changes; what is unchanged is never made again. An entry appears by one rename,
so two processes may prepare the same case at once. An image generated from a real case has an entry of its own,
whose key holds the files of the real one too, because it is normalised like that.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import psutil

import scantling
from scantling.data import compact
from scantling.data.alternatives import alternatives_by_case
from scantling.data.case import Annotation, Case
from scantling.data.image_io import read_geometry
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.prepare import PREPARATION_VERSION, annotated_classes, prepared_grid
from scantling.data.store_entry import (
    Form,
    PreparedAlternative,
    PreparedCase,
    RealImage,
    open_entry,
    read_real_image,
    write_entry,
)
from scantling.errors import DataError, IntegrityError, ResourceError, ScantlingError
from scantling.files import lack_of_space, one_at_a_time, sha256_bytes, sha256_file, write_errors

__all__ = [
    "PreparedAlternative",
    "PreparedCase",
    "PreparedSet",
    "Store",
    "chosen_annotation",
    "chosen_form",
    "entry_key",
    "mapped_bytes",
]

_STALE_SECONDS: Final = 86_400.0
_ATTEMPTS: Final = 4
"""Builds of one entry before the disk is blamed; another process may discard a damaged one meanwhile."""
_COMFORTABLE: Final = 0.5
"""Share of the free memory that a memory-mapped set may take: then its pages stay cached beside the training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSet:
    """Prepared cases in the order they were asked for, and what happened on the way.

    Attributes:
        built, reused: how many entries were made now, and how many were there, those of alternatives included.
        notes: one sentence for each damaged entry that was made again, and one on a set too large for memory.
    """

    cases: tuple[PreparedCase, ...]
    built: int
    reused: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def nbytes(self) -> int:
        """Size of all entries on disk."""
        folders = {case.folder for case in self.cases} | {
            one.folder for case in self.cases for one in case.alternatives
        }
        return sum(path.stat().st_size for folder in folders for path in folder.iterdir())

    @property
    def n_alternatives(self) -> int:
        """How many other images of their anatomies the cases have."""
        return sum(len(case.alternatives) for case in self.cases)

    def select(self, case_ids: Iterable[str]) -> PreparedSet:
        """Only the named cases, in the order named; KeyError for one that is not here."""
        by_id = {case.case_id: case for case in self.cases}
        return replace(self, cases=tuple(by_id[case_id] for case_id in case_ids))

    def labelled(self) -> PreparedSet:
        """Only the cases with a label."""
        return replace(self, cases=tuple(case for case in self.cases if case.label_kind is not None))


class Store:
    """A cache folder of prepared cases. Any number of plans and data sets may share one.

    Args:
        form: of entries made now: "map" is fastest to read while all of it fits into memory, "compact" takes less
            than half the bytes (extra `compact`), "auto" is compact for a set that fits badly (`chosen_form`).
        memory_bytes: what a set may count on; by default what is free now.
    """

    def __init__(
        self, folder: Path, *, form: Literal["auto", "map", "compact"] = "auto", memory_bytes: int | None = None
    ) -> None:
        self.folder = folder
        self.entries = folder / "entries"
        self.form = form
        self.memory_bytes = memory_bytes

    def prepare(
        self,
        cases: Sequence[Case],
        manifest: Manifest,
        plan: Plan,
        progress: Callable[[int, int], object] | None = None,
        *,
        workers: int = 1,
        alternatives: bool = False,
    ) -> PreparedSet:
        """Every case prepared under the plan, from the cache where it is whole, made now where it is not.

        Args:
            cases: real ones.
            manifest: its class table must be the plan's; alternatives are looked for among its cases.
            progress: called with (done, total) after each case with its alternatives.
            workers: threads; results do not depend on their number.
            alternatives: also prepare the sound images that were generated from each case; off, none is read.

        Raises:
            DataError: a file is unreadable, misfits the plan, its label or its real image; the message names the
                case. Or a case is itself a generated image.
            ResourceError: the disk is full.
            ConfigError: the compact form is wanted, or is there, and its package is missing.
        """
        if manifest.classes.names != plan.classes.names:
            raise DataError(
                f"data set {manifest.name}: its classes are {', '.join(manifest.classes.names)} but the "
                f"plan's are {', '.join(plan.classes.names)}; choose the plan's classes, or make a new plan",
                code="E-PLN-03",
            )
        _refuse_generated(cases)
        others = alternatives_by_case(manifest.cases) if alternatives else {}
        with write_errors(self.folder):
            self.entries.mkdir(parents=True, exist_ok=True)
        self._sweep()
        prepared: list[PreparedCase] = []
        form, note = self._form([*cases, *(other for case in cases for other in others.get(case.case_id, ()))], plan)
        made = _Made(notes=[note] if note else [])
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            for case, new in pool.map(lambda case: self._with_others(case, others, plan, form), cases):
                prepared.append(case)
                made.add(new)
                if progress is not None:
                    progress(len(prepared), len(cases))
        return PreparedSet(cases=tuple(prepared), built=made.built, reused=made.reused, notes=tuple(made.notes))

    def _form(self, cases: Sequence[Case], plan: Plan) -> tuple[Form, str]:
        if self.form != "auto":
            return self.form, ""
        memory_bytes = int(psutil.virtual_memory().available) if self.memory_bytes is None else self.memory_bytes
        return chosen_form(mapped_bytes(cases, plan), memory_bytes, can_compress=compact.is_available())

    def _with_others(
        self, case: Case, others: Mapping[str, Sequence[Case]], plan: Plan, form: Form
    ) -> tuple[PreparedCase, _Made]:
        """A case, and the other images of its anatomy."""
        made = _Made()
        prepared = self._one(case, plan, form, made)
        mine = others.get(case.case_id, ())
        if not mine:
            return prepared, made

        @functools.cache
        def real() -> RealImage:
            return read_real_image(case, plan)

        of = [sha256_file(path) for path in case.images]
        ready = [self._one(other, plan, form, made, real=real, of=of) for other in mine]
        alternatives = tuple(
            PreparedAlternative(
                case_id=one.case_id, folder=one.folder, form=one.form, scale=one.scale, offset=one.offset
            )
            for one in ready
        )
        return replace(prepared, alternatives=alternatives), made

    def _one(
        self,
        case: Case,
        plan: Plan,
        form: Form,
        made: _Made,
        *,
        real: Callable[[], RealImage] | None = None,
        of: Sequence[str] | None = None,
    ) -> PreparedCase:
        try:
            annotation = chosen_annotation(case, plan)
            folder = self.entries / entry_key(case, annotation, plan, of=of)
            note, built = "", False
            for _ in range(_ATTEMPTS):
                if folder.exists():
                    try:
                        prepared = open_entry(folder, case, annotation, plan)
                    except IntegrityError as error:
                        note = f"case {case.case_id}: its cached preparation was made again ({error.message})"
                        self._discard(folder, case, annotation, plan)
                    else:
                        made.built += built
                        made.reused += not built
                        made.notes += [note] if note else []
                        return prepared
                self._build(folder, case, annotation, plan, form, None if real is None else real())
                built = True
            raise IntegrityError(
                f"{folder}: what is written there does not come back unchanged; check the disk, or choose "
                "another cache folder",
                code="E-CHK-03",
            )
        except OSError as error:
            if reason := lack_of_space(error):
                raise ResourceError(
                    f"{self.folder}: {reason}; free some space, or choose another cache folder", code="E-RES-01"
                ) from error
            raise DataError(f"case {case.case_id}: cannot be read ({error})", code="E-DAT-01") from error
        except ScantlingError as error:
            if error.message.startswith(f"case {case.case_id}"):
                raise
            raise type(error)(f"case {case.case_id}: {error.message}", code=error.code) from error

    def _build(
        self, folder: Path, case: Case, annotation: Annotation | None, plan: Plan, form: Form, real: RealImage | None
    ) -> None:
        temporary = self.folder / f".partial-{uuid.uuid4().hex}"
        temporary.mkdir()  # with the rights the umask gives, so that other users may share the cache, or may not
        try:
            write_entry(temporary, case, annotation, plan, key=folder.name, form=form, real=real)
            try:
                with one_at_a_time(self.entries):  # not between the last look at a damaged entry and its removal
                    os.rename(temporary, folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # otherwise another process was first, with the same content
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed processes left behind, once nobody can be writing there any more."""
        for left in [*self.folder.glob(".partial-*"), *self.folder.glob(".damaged-*")]:
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left)

    def _discard(self, folder: Path, case: Case, annotation: Annotation | None, plan: Plan) -> None:
        """Remove a damaged entry, unless another process has put a whole one in its place meanwhile."""
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=self.folder))
        try:
            with one_at_a_time(self.entries):
                try:
                    open_entry(folder, case, annotation, plan)
                except IntegrityError:
                    with contextlib.suppress(FileNotFoundError):  # another process has discarded it
                        os.rename(folder, aside / folder.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@dataclass(kw_only=True)
class _Made:
    """Entries counted, and what was said of them."""

    built: int = 0
    reused: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: _Made) -> None:
        self.built += other.built
        self.reused += other.reused
        self.notes += other.notes


def _refuse_generated(cases: Sequence[Case]) -> None:
    for case in cases:
        if case.counterfactual_of is not None:
            raise DataError(
                f"case {case.case_id}: was generated from {case.counterfactual_of}, so it is no case of its own; "
                "prepare its real case with alternatives",
                code="E-ALT-05",
            )


def chosen_annotation(case: Case, plan: Plan) -> Annotation | None:
    """The annotation of a case that the plan trains on; None where it has none of the plan's kinds."""
    annotation = case.annotation(plan.label_kinds)
    return None if annotation is None or annotation.kind == "none" else annotation


def chosen_form(wanted_bytes: int, memory_bytes: int, *, can_compress: bool) -> tuple[Form, str]:
    """The form for a set of prepared cases by its size, and a sentence where the size decides or should have.

    Memory-mapped where all of it takes at most half of the memory, else compact where that can be had.

    Args:
        wanted_bytes: of the set when memory-mapped.
        can_compress: whether the package for the compact form is installed.
    """
    if wanted_bytes <= _COMFORTABLE * memory_bytes:
        return "map", ""
    size = f"the prepared cases take {wanted_bytes / 2**30:.1f} GiB, memory has {memory_bytes / 2**30:.1f} GiB free"
    if can_compress:
        return "compact", f"{size}: they are kept compressed"
    return (
        "map",
        f"{size}: reading them may wait for the disk; pip install 'scantling[compact]' to keep them compressed",
    )


def mapped_bytes(cases: Sequence[Case], plan: Plan) -> int:
    """At most this many bytes hold the images (16 bits) and label maps (8 bits) of these cases, by their headers.

    A file that cannot be read counts nothing here: preparing it says what is wrong.
    """
    total = 0
    for case in cases:
        with contextlib.suppress(ScantlingError, OSError):
            voxels = math.prod(prepared_grid(read_geometry(case.images[0]), plan).shape)
            total += voxels * (2 * len(plan.intensities) + (chosen_annotation(case, plan) is not None))
    return total


def entry_key(case: Case, annotation: Annotation | None, plan: Plan, *, of: Sequence[str] | None = None) -> str:
    """SHA-256 over everything that decides what is stored for a case.

    Args:
        of: SHA-256 of the real image's files, for an image that is normalised like it.
    """
    ingredients: dict[str, Any] = {
        "versions": [PREPARATION_VERSION, scantling.__version__],
        "plan": plan.model_dump(
            mode="json", include={"image_axes", "axis_order", "spacing_mm", "intensities", "channels"}
        ),
        "images": [sha256_file(path) for path in case.images],
    }
    if of is not None:
        ingredients["of"] = list(of)
    if annotation is not None:
        ingredients["classes"] = plan.classes.model_dump(mode="json")
        ingredients["label"] = sha256_file(annotation.path)
        ingredients["annotation"] = {
            "kind": annotation.kind,
            "ignore": sorted(annotation.ignore),
            "annotated": annotated_classes(annotation, plan),
        }
    return sha256_bytes(json.dumps(ingredients, sort_keys=True).encode())
