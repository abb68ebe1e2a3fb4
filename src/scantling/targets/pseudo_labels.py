"""The store of pseudo-labels on disk: rounds of label maps that training reads like any other annotation.

    FOLDER/rounds.json                    every round, and which of them count; the only file that decides anything
    FOLDER/round-001/labels/CASE.nii.gz   stored values, on the image's own grid (.png, .tiff for pictures)
    FOLDER/round-001/confidence/CASE...   0 to 255 for a confidence of 0 to 1
    FOLDER/round-001/cases.json           provenance and checksums; while a round is open entries/CASE.json instead

A file is written whole or not at all, those of a case before its entry, the table of cases before `rounds.json` says
that the round is finished. So a killed process leaves a round that is open, and every case whose entry is there is
whole. One process begins and finishes rounds; several may add cases. Nothing is deleted but by `remove_files`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float, Int

from scantling.data.case import Annotation, ClassTable
from scantling.data.image_io import ImageGeometry
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError, ScantlingError
from scantling.files import one_at_a_time, require_sha256, sha256_file, write_errors
from scantling.targets import pseudo_label_files as files
from scantling.targets.pseudo_label_records import (
    PseudoLabel,
    Round,
    VolumeFilter,
    read_labels,
    read_rounds,
    summed_up,
    write_labels,
    write_rounds,
)

ROUNDS: Final = "rounds.json"
CASES: Final = "cases.json"


@final
class PseudoLabelStore:
    """Pseudo-labels of one data set, by round and case.

    Methods raise ConfigError where a round they are asked for is not there or not in the state they need,
    IntegrityError where what is on the disk is damaged, ResourceError where the disk is full.
    """

    def __init__(self, folder: Path, classes: ClassTable) -> None:
        self.folder = folder
        self.classes = classes
        if (folder / ROUNDS).is_file():
            self._refuse_other(read_rounds(folder / ROUNDS)[0], "the store")

    def history(self) -> tuple[Round, ...]:
        """Every round there ever was, oldest first."""
        return read_rounds(self.folder / ROUNDS)[1] if (self.folder / ROUNDS).is_file() else ()

    def current(self) -> Round | None:
        """The newest round that is finished and stands; None where annotations are all there is."""
        return next((entry for entry in reversed(self.history()) if entry.status == "finished"), None)

    def unfinished(self) -> Round | None:
        """The round that was begun and neither finished nor discarded, if there is one."""
        return next((entry for entry in self.history() if entry.status == "open"), None)

    def begin_round(
        self,
        *,
        model_sha256: str,
        teacher: str,
        thresholds: Mapping[str, float] | None = None,
        source_round: int | None = None,
    ) -> Round:
        """Open the next round; what is given says where its labels come from, as in `Round`.

        Raises:
            ConfigError: another round is open, or the source round does not stand.
        """
        with self._changing():
            self._refuse_open()
            if source_round is not None:
                self._standing(source_round)
            rounds = self.history()
            entry = Round(
                number=len(rounds) + 1, model_sha256=model_sha256, teacher=teacher, thresholds=dict(thresholds or {}),
                source_round=source_round, begun=files.now(),
            )  # fmt: skip
            self._write([*rounds, entry])
        return entry

    def resume_round(self, *, model_sha256: str) -> tuple[Round, tuple[str, ...]]:
        """The open round and its cases that are whole, after removing what a killed process left half written.

        Raises:
            ConfigError: no round is open, or it was begun with another model.
        """
        entry = self._open_round()
        if entry.model_sha256 != model_sha256:
            raise ConfigError(
                f"{self.folder}: round {entry.number} was begun with the model {entry.model_sha256[:12]}..., this is "
                f"{model_sha256[:12]}...; discard it with discard_round and begin a new one",
                code="E-TGT-11",
            )
        files.sweep(self._folder(entry))
        return entry, tuple(self._cases(entry))

    def discard_round(self, reason: str) -> Round:
        """Give up the open round; its files stay where they are."""
        with self._changing():
            entry = replace(self._open_round(), status="discarded", reason=reason, ended=files.now())
            self._update([entry])
        return entry

    def add(
        self,
        case_id: str,
        label_map: Int[np.ndarray, "*spatial"],
        confidence: Float[np.ndarray, "*spatial"] | float,
        geometry: ImageGeometry,
        *,
        scores: Mapping[str, float] | None = None,
    ) -> PseudoLabel:
        """Write the label of a case into the open round; an earlier one of the same round is replaced.

        Args:
            label_map: class index on the image's own grid, IGNORE where the prediction is not sure enough.
            confidence: of each pixel, or one for all, in [0, 1].
            scores: what was measured of the whole case, as `VolumeFilter` reads it.

        Raises:
            DataError: the case's id cannot be a file name, the label map has another size than the image, or holds
                an index that is no class.
            ValueError: a confidence outside [0, 1].
        """
        folder = self._folder(self._open_round())
        return files.write_case(folder, self.classes, case_id, label_map, confidence, geometry, scores or {})

    def finish_round(self, *, keep: VolumeFilter | None = None) -> Round:
        """Close the open round: from now on its labels are the current ones, except for those the filter drops.

        Cases without a single labelled pixel are always dropped. Files of dropped cases stay, and the reason is
        written down.
        """
        rule = keep or VolumeFilter()
        with self._changing():
            entry = self._open_round()
            folder = self._folder(entry)
            records = {name: replace(one, dropped=rule.reason(one)) for name, one in self._cases(entry).items()}
            if not records:
                raise ConfigError(
                    f"{self.folder}: round {entry.number} has no case; add some, or give it up with discard_round",
                    code="E-TGT-12",
                )
            write_labels(folder / CASES, records)
            checksum = sha256_file(folder / CASES)
            closed = replace(summed_up(entry, records), status="finished", ended=files.now(), cases_sha256=checksum)
            self._update([closed])
        shutil.rmtree(folder / files.ENTRIES, ignore_errors=True)
        return closed

    def rollback(self, to_round: int, *, reason: str) -> tuple[Round, ...]:
        """Mark every finished round after `to_round` as rolled back, and return them; no file is touched.

        Args:
            to_round: a round that stands, or 0 for annotations alone.
        """
        with self._changing():
            self._refuse_open()
            if to_round != 0:
                self._standing(to_round)
            after = [one for one in self.history() if one.status == "finished" and one.number > to_round]
            marked = [replace(one, status="rolled back", reason=reason) for one in after]
            self._update(marked)
        return tuple(marked)

    def remove_files(self, number: int) -> None:
        """Delete the files of a round that was rolled back or discarded; that it was stays in the history."""
        with self._changing():
            entry = self._round(number)
            if entry.status not in ("rolled back", "discarded"):
                raise ConfigError(
                    f"{self.folder}: round {number} is {entry.status}; only rounds that were rolled back or discarded "
                    "can be removed",
                    code="E-TGT-14",
                )
            self._update([replace(entry, removed=True)])
            with write_errors(self._folder(entry)):
                if self._folder(entry).is_dir():
                    shutil.rmtree(self._folder(entry))

    def labels(self, number: int | None = None) -> dict[str, PseudoLabel]:
        """What is known of each case of a round, the dropped ones too; by default of the current round, if any."""
        entry = self.current() if number is None else self._round(number)
        return {} if entry is None else self._cases(entry)

    def read(self, case_id: str, number: int | None = None) -> files.StoredLabel:
        """The label of a case, after checking that it is what was written; by default that of the current round.

        Raises:
            DataError: the round has no label of this case.
        """
        entry = self.current() if number is None else self._round(number)
        record = None if entry is None else self._cases(entry).get(case_id)
        if entry is None or record is None:
            where = "no round stands" if entry is None else f"round {entry.number} has none"
            raise DataError(f"{self.folder}: no pseudo-label of case {case_id!r} ({where})", code="E-TGT-15")
        return files.read_case(self._folder(entry), self.classes, record)

    def rows(self, number: int | None = None) -> dict[str, Annotation]:
        """The annotation of kind "pseudo" of each case that is to be used, as a manifest holds it; files are checked.

        Args:
            number: a round that stands; by default the current one, and no rows where there is none.
        """
        entry = self.current() if number is None else self._standing(number)
        if entry is None:
            return {}
        folder, rows = self._folder(entry), {}
        for case_id, record in self._cases(entry).items():
            if not record.dropped:
                files.require_whole(folder, record)
                rows[case_id] = Annotation(
                    path=folder / record.label,
                    kind="pseudo",
                    ignore=(files.unknown_value(self.classes),),
                    round=entry.number,
                    confidence=record.mean_confidence,
                )
        return rows

    def in_manifest(self, manifest: Manifest, number: int | None = None) -> Manifest:
        """The manifest with the pseudo-labels of a round in place of any it had; other annotations stay.

        Cases of the store that the manifest does not have are left out.
        """
        self._refuse_other(manifest.classes, f"the data set {manifest.name!r}")
        rows = self.rows(number)
        cases = []
        for case in manifest.cases:
            others = tuple(one for one in case.annotations if one.kind != "pseudo")
            added = (rows[case.case_id],) if case.case_id in rows else ()
            cases.append(replace(case, annotations=(*others, *added)))
        return replace(manifest, cases=tuple(cases))

    def damage(self, number: int) -> tuple[str, ...]:
        """One sentence for each file of a round that is missing or not what was written."""
        entry = self._round(number)
        sentences = []
        try:
            records = self._cases(entry)
        except ScantlingError as error:
            return (error.message,)
        for record in records.values():
            try:
                files.require_whole(self._folder(entry), record)
            except ScantlingError as error:
                sentences.append(error.message)
        return tuple(sentences)

    def _folder(self, entry: Round) -> Path:
        return self.folder / f"round-{entry.number:03d}"

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.folder):
            yield

    def _cases(self, entry: Round) -> dict[str, PseudoLabel]:
        folder = self._folder(entry)
        if entry.removed:
            raise ConfigError(f"{self.folder}: the files of round {entry.number} were removed", code="E-TGT-14")
        if not entry.cases_sha256:
            return files.read_entries(folder)
        require_sha256(folder / CASES, entry.cases_sha256)
        return read_labels(folder / CASES)

    def _round(self, number: int) -> Round:
        rounds = self.history()
        for entry in rounds:
            if entry.number == number:
                return entry
        there = ", ".join(str(entry.number) for entry in rounds) or "none"
        raise ConfigError(f"{self.folder}: there is no round {number}; there are: {there}", code="E-TGT-16")

    def _standing(self, number: int) -> Round:
        entry = self._round(number)
        if entry.status != "finished":
            because = f" ({entry.reason})" if entry.reason else ""
            raise ConfigError(
                f"{self.folder}: round {number} is {entry.status}{because}; wanted one that is finished and stands",
                code="E-TGT-16",
            )
        return entry

    def _open_round(self) -> Round:
        entry = self.unfinished()
        if entry is None:
            raise ConfigError(f"{self.folder}: no round is open; begin one with begin_round", code="E-TGT-12")
        return entry

    def _refuse_open(self) -> None:
        entry = self.unfinished()
        if entry is not None:
            raise ConfigError(
                f"{self.folder}: round {entry.number} was begun at {entry.begun} and is not finished; go on with "
                "resume_round, or give it up with discard_round",
                code="E-TGT-11",
            )

    def _refuse_other(self, classes: ClassTable, owner: str) -> None:
        if classes != self.classes:
            raise ConfigError(
                f"{self.folder}: {owner} has the classes {_listed(classes)}, wanted {_listed(self.classes)}; choose "
                "another folder",
                code="E-TGT-10",
            )

    def _update(self, changed: list[Round]) -> None:
        by_number = {entry.number: entry for entry in changed}
        self._write([by_number.get(entry.number, entry) for entry in self.history()])

    def _write(self, rounds: list[Round]) -> None:
        write_rounds(self.folder / ROUNDS, self.classes, tuple(rounds))


def _listed(classes: ClassTable) -> str:
    pairs = zip(classes.names, classes.stored, strict=True)
    return ", ".join(f"{name} = {'/'.join(map(str, values))}" for name, values in pairs)
