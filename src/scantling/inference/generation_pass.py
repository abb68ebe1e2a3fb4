"""One pass over the cases of a data set: what is not on disk yet is generated, measured, written and recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, final

import numpy as np
from jaxtyping import Num

from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.soundness import Soundness
from scantling.counterfactuals.source_image import SourceImage, read_source
from scantling.counterfactuals.table import Row, row_of
from scantling.data.case import Case
from scantling.data.image_writing import image_file_name, write_image
from scantling.errors import ConfigError, DataError, IntegrityError, ScantlingError
from scantling.files import sha256_file
from scantling.inference.generation_records import Record, RecordLog
from scantling.inference.interventions import Intervention, counterfactual_name, written
from scantling.inference.soundness_check import SoundnessCheck
from scantling.seeding import torch_generator

IMAGES: Final = "images"
ALREADY_SO: Final = "already so"
UNKNOWN: Final = "its own value is unknown"

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A counterfactual that is to be made of a case."""

    name: str
    intervention: str
    after: Row


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A case with its image and the checksums of its files."""

    case: Case
    image: SourceImage
    checksums: tuple[str, ...]


_Job: TypeAlias = tuple[_Source, _Wanted]


@final
@dataclass(kw_only=True)
class GenerationPass:
    """Makes what is asked for, a batch at a time; memory holds one batch.

    A failure of one case or counterfactual is recorded, and the others go on.

    Attributes:
        order: names of all counterfactuals that are asked for, case by case.
        present: of those that are on disk now; `kept` of them were there before.
        skipped: (intervention, reason) -> how many cases have no such counterfactual.
        failures: case or counterfactual -> one sentence.
    """

    generator: CounterfactualGenerator
    check: SoundnessCheck
    out: Path
    log: RecordLog
    batch_size: int
    order: list[str] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    kept: int = 0
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def run(
        self, cases: Sequence[Case], asked: Sequence[Intervention], taken: set[str], progress: Progress | None
    ) -> None:
        """Go through the cases once.

        Args:
            taken: names that no counterfactual may have.

        Raises:
            ConfigError: a counterfactual would have such a name.
            ResourceError: the disk is full, or memory does not suffice.
        """
        batch: list[_Job] = []
        for number, case in enumerate(cases, start=1):
            if progress is not None:
                progress(f"generating from {case.case_id} ({number} of {len(cases)} cases)")
            try:
                batch += self._lacking(case, asked, taken)
            except (DataError, IntegrityError) as error:
                self._fail(case.case_id, error)
            while len(batch) >= self.batch_size:
                self._make(batch[: self.batch_size])
                batch = batch[self.batch_size :]
        if batch:
            self._make(batch)

    @property
    def records(self) -> tuple[Record, ...]:
        """Of the counterfactuals that are on disk and were asked for, in an order that no interruption changes."""
        return tuple(self.log.records[name] for name in self.order if name in self.present)

    def _lacking(self, case: Case, asked: Sequence[Intervention], taken: set[str]) -> list[_Job]:
        """What is still to be made of a case."""
        wanted = self._wanted(case, asked, taken)
        self.order += [one.name for one in wanted]
        if not wanted:
            return []
        checksums = tuple(_checksum(path) for path in case.images)
        missing = [one for one in wanted if not self._is_here(case, one, checksums)]
        if not missing:
            return []
        image = read_source(case, len(self.generator.plan.channels))
        source = _Source(case=case, image=image, checksums=checksums)
        return [(source, one) for one in missing]

    def _wanted(self, case: Case, asked: Sequence[Intervention], taken: set[str]) -> list[_Wanted]:
        found: dict[str, _Wanted] = {}
        graph, seed, before = self.generator.graph, self.generator.seed, row_of(case)
        for intervention in asked:
            do = intervention.of(before, graph)
            if do is None:
                self.skipped[intervention.text, UNKNOWN] += 1
                continue
            after = graph.intervene(before, do, generator=torch_generator(seed, "abduct", case.case_id))
            name = counterfactual_name(case.case_id, do)
            if after == before:
                self.skipped[intervention.text, ALREADY_SO] += 1
            elif name in taken:
                raise ConfigError(
                    f"case {name!r}: the counterfactual of {case.case_id} would have this name; rename the case",
                    code="E-GEN-03",
                )
            else:  # `scanner=other` may say the same as `scanner=B`, and is then made once
                found[name] = _Wanted(name=name, intervention=written(do), after=after)
        return list(found.values())

    def _is_here(self, case: Case, wanted: _Wanted, checksums: tuple[str, ...]) -> bool:
        record = self.log.records.get(wanted.name)
        if record is None or not record.says(before=row_of(case), after=wanted.after, sources=checksums):
            return False
        if not record.is_whole(self.out):
            return False
        self.present.add(wanted.name)
        self.kept += 1
        return True

    def _make(self, jobs: Sequence[_Job]) -> None:
        """All at once; one after another where that fails, so that the failure has a name."""
        try:
            self._write(jobs)
        except (DataError, IntegrityError) as error:
            if len(jobs) == 1:
                self._fail(jobs[0][1].name, error)
                return
            for job in jobs:
                self._make([job])

    def _write(self, jobs: Sequence[_Job]) -> None:
        """Generate and measure; images are on disk before the records say so."""
        images = [source.image for source, _ in jobs]
        made = self.generator.source(images, [wanted.after for _, wanted in jobs])
        measured = self.check(images, made)
        self.log.add(
            [
                self._written(source, wanted, image, soundness)
                for (source, wanted), image, soundness in zip(jobs, made, measured, strict=True)
            ]
        )
        self.present.update(wanted.name for _, wanted in jobs)

    def _written(self, source: _Source, wanted: _Wanted, image: SourceImage, soundness: Soundness) -> Record:
        names = []
        for stem, channels in _files(wanted.name, source.case, image):
            name = f"{IMAGES}/{image_file_name(stem, channels, image.geometry)}"
            write_image(self.out / name, channels, image.geometry)
            names.append(name)
        return Record(
            name=wanted.name,
            counterfactual_of=source.case.case_id,
            patient_id=source.case.patient_id,
            intervention=wanted.intervention,
            before=row_of(source.case),
            after=wanted.after,
            images=tuple(names),
            checksums=tuple(sha256_file(self.out / name) for name in names),
            sources=source.checksums,
            soundness=soundness,
        )

    def _fail(self, name: str, error: ScantlingError) -> None:
        self.failures[name] = str(error) if name in error.message else f"case {name}: {error}"


def _files(name: str, case: Case, image: SourceImage) -> list[tuple[str, tuple[Num[np.ndarray, "..."], ...]]]:
    """As many files as the real case has: one with every channel, or one a channel."""
    if len(case.images) == 1:
        return [(name, image.channels)]
    return [(f"{name}__{index:04d}", (channel,)) for index, channel in enumerate(image.channels)]


def _checksum(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", code="E-DAT-01") from None
