"""Prepared cases on disk, each under a key made from everything that went into it.

`entries/<key>/` holds `image.npy`, `label.npy` and `points.npy` (memory-mapped when read) and `meta.json`
with the SHA-256 of each. The key is the SHA-256 of the preparation's version, the plan's fields that matter,
the content of the files and the annotation's settings: whatever changes, the key changes; what is unchanged
is never made again. An entry appears by one rename, so two processes may prepare the same case at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import scantling
from scantling.data.case import Annotation, Case
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.prepare import PREPARATION_VERSION, annotated_classes
from scantling.data.store_entry import PreparedCase, open_entry, write_entry
from scantling.errors import DataError, IntegrityError, ResourceError, ScantlingError
from scantling.files import sha256_bytes, sha256_file

__all__ = ["PreparedCase", "PreparedSet", "Store", "chosen_annotation", "entry_key"]

_STALE_SECONDS: Final = 86_400.0
_ATTEMPTS: Final = 4
"""Builds of one entry before the disk is blamed; another process may discard a damaged one meanwhile."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSet:
    """Prepared cases in the order they were asked for, and what happened on the way.

    Attributes:
        built, reused: how many entries were made now, and how many were there.
        notes: one sentence for each damaged entry that was made again.
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
        folders = {case.folder for case in self.cases}
        return sum(path.stat().st_size for folder in folders for path in folder.iterdir())

    def select(self, case_ids: Iterable[str]) -> PreparedSet:
        """Only the named cases, in the order named; KeyError for one that is not here."""
        by_id = {case.case_id: case for case in self.cases}
        return replace(self, cases=tuple(by_id[case_id] for case_id in case_ids))

    def labelled(self) -> PreparedSet:
        """Only the cases with a label."""
        return replace(self, cases=tuple(case for case in self.cases if case.label_kind is not None))


class Store:
    """A cache folder of prepared cases. Any number of plans and data sets may share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = folder / "entries"

    def prepare(
        self,
        cases: Sequence[Case],
        manifest: Manifest,
        plan: Plan,
        progress: Callable[[int, int], object] | None = None,
        *,
        workers: int = 1,
    ) -> PreparedSet:
        """Every case prepared under the plan, from the cache where it is whole, made now where it is not.

        Args:
            manifest: only its class table is looked at: it must be the plan's.
            progress: called with (done, total) after each case.
            workers: threads; results do not depend on their number.

        Raises:
            DataError: a file is unreadable, misfits the plan or its label; the message names the case.
            ResourceError: the disk is full.
        """
        if manifest.classes.names != plan.classes.names:
            raise DataError(
                f"data set {manifest.name}: its classes are {', '.join(manifest.classes.names)} but the "
                f"plan's are {', '.join(plan.classes.names)}; choose the plan's classes, or make a new plan",
                code="E-PLN-03",
            )
        self.entries.mkdir(parents=True, exist_ok=True)
        self._sweep()
        prepared: list[PreparedCase] = []
        notes: list[str] = []
        built = 0
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            for case, new, note in pool.map(lambda case: self._one(case, plan), cases):
                prepared.append(case)
                built += new
                notes += [note] if note else []
                if progress is not None:
                    progress(len(prepared), len(cases))
        return PreparedSet(cases=tuple(prepared), built=built, reused=len(prepared) - built, notes=tuple(notes))

    def _one(self, case: Case, plan: Plan) -> tuple[PreparedCase, bool, str]:
        try:
            annotation = chosen_annotation(case, plan)
            folder = self.entries / entry_key(case, annotation, plan)
            note, built = "", False
            for _ in range(_ATTEMPTS):
                if folder.exists():
                    try:
                        return open_entry(folder, case, annotation, plan), built, note
                    except IntegrityError as error:
                        note = f"case {case.case_id}: its cached preparation was made again ({error.message})"
                        self._discard(folder)
                self._build(folder, case, annotation, plan)
                built = True
            raise IntegrityError(
                f"{folder}: what is written there does not come back unchanged; check the disk, or choose "
                "another cache folder",
                code="E-CHK-03",
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceError(
                    f"{self.folder}: the disk is full; free some space, or choose another cache folder",
                    code="E-RES-01",
                ) from error
            raise DataError(f"case {case.case_id}: cannot be read ({error})", code="E-DAT-01") from error
        except ScantlingError as error:
            if error.message.startswith(f"case {case.case_id}"):
                raise
            raise type(error)(f"case {case.case_id}: {error.message}", code=error.code) from error

    def _build(self, folder: Path, case: Case, annotation: Annotation | None, plan: Plan) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        temporary.chmod(0o755)  # other users may share the cache
        try:
            write_entry(temporary, case, annotation, plan, key=folder.name)
            try:
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

    def _discard(self, folder: Path) -> None:
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=self.folder))
        try:
            os.rename(folder, aside / folder.name)
        except FileNotFoundError:
            pass  # another process has discarded it
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def chosen_annotation(case: Case, plan: Plan) -> Annotation | None:
    """The annotation of a case that the plan trains on; None where it has none of the plan's kinds."""
    annotation = case.annotation(plan.label_kinds)
    return None if annotation is None or annotation.kind == "none" else annotation


def entry_key(case: Case, annotation: Annotation | None, plan: Plan) -> str:
    """SHA-256 over everything that decides what is stored for a case."""
    ingredients: dict[str, Any] = {
        "versions": [PREPARATION_VERSION, scantling.__version__],
        "plan": plan.model_dump(
            mode="json", include={"image_axes", "axis_order", "spacing_mm", "intensities", "channels"}
        ),
        "images": [sha256_file(path) for path in case.images],
    }
    if annotation is not None:
        ingredients["classes"] = plan.classes.model_dump(mode="json")
        ingredients["label"] = sha256_file(annotation.path)
        ingredients["annotation"] = {
            "kind": annotation.kind,
            "ignore": sorted(annotation.ignore),
            "annotated": annotated_classes(annotation, plan),
        }
    return sha256_bytes(json.dumps(ingredients, sort_keys=True).encode())
