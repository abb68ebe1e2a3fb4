"""An evaluation as it is kept: every row, the summaries with their failures, and what could not be scored."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from scantling.data.manifest import Problem
from scantling.errors import IntegrityError
from scantling.evaluation.conventions import MEAN_FOREGROUND, METRICS, Post, Settings, Status
from scantling.evaluation.rows import Row
from scantling.evaluation.summary import Summary
from scantling.files import read_json, write_atomic, write_json

CSV_COLUMNS = ("case", "class", "metric", "value", "status", "post")
SCHEMA_VERSION = 1
_TEXT_METRICS = ("dice", "hd95_mm", "assd_mm", "nsd")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a folder of predictions is worth.

    Attributes:
        classes: the foreground classes that were scored.
        patients: case -> patient, for every case.
        summary: over all cases; `subgroups`: the same for each value of each attribute.
        missing: cases that could not be scored: the prediction is missing, unreadable or on another grid, or
            the reference is unreadable. Not empty means exit code 3.
        problems, notes: what went wrong, and what was assumed, in sentences.
    """

    settings: Settings
    classes: tuple[str, ...]
    patients: Mapping[str, str]
    rows: tuple[Row, ...]
    summary: tuple[Summary, ...]
    subgroups: tuple[Summary, ...] = ()
    missing: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, class_name: str = MEAN_FOREGROUND, metric: str = "dice", post: Post = "raw") -> Summary:
        """The summary of one class and metric over all cases; KeyError if it was not measured."""
        for summary in self.summary:
            if (summary.class_name, summary.metric, summary.post) == (class_name, metric, post):
                return summary
        raise KeyError((class_name, metric, post))

    def values(self, class_name: str = MEAN_FOREGROUND, metric: str = "dice", post: Post = "raw") -> dict[str, Row]:
        """The rows of one class and metric, by case."""
        return {
            row.case: row for row in self.rows if (row.class_name, row.metric, row.post) == (class_name, metric, post)
        }

    def headline(self) -> dict[str, Any]:
        """The few figures to quote: mean foreground Dice, its interval, n, failures; each class's Dice."""
        if not self.rows:
            return {"cases": 0, "not scored": len(self.missing)}
        mean = self.find()
        figures: dict[str, Any] = {
            "mean foreground Dice": finite_or_none(mean.mean),
            f"{self.settings.level * 100:g} % interval": [finite_or_none(mean.low), finite_or_none(mean.high)],
            "cases": mean.n,
            "patients": mean.patients,
            "failed": f"{mean.failed} of {mean.n}",
        }
        figures |= {f"Dice of {name}": finite_or_none(self.find(name).mean) for name in self.classes}
        return figures

    def verdict(self) -> str:
        """One or two sentences: the score, how sure it is, and what failed."""
        if not self.rows:
            return f"No case could be scored; {_listed(self.missing)} failed."
        mean = self.find()
        interval = (
            f" ({self.settings.level * 100:g} % interval {mean.low:.3f} to {mean.high:.3f})"
            if math.isfinite(mean.low)
            else ""
        )
        score = f"{mean.mean:.3f}{interval}" if mean.scored else "undefined"
        sentence = (
            f"Mean foreground Dice {score} on {_count(mean.n, 'case')} of "
            f"{_count(mean.patients, 'patient')}; "
            f"failed {mean.failed} of {mean.n}."
        )
        return f"{sentence} Could not be scored: {_listed(self.missing)}." if self.missing else sentence

    def text(self) -> str:
        """The verdict, a table of the main metrics by class, and every problem and note.

        The Dice of the largest component of each class stands beside that of the raw prediction.
        """
        columns: list[tuple[str, Post]] = [(name, "raw") for name in _TEXT_METRICS]
        columns.insert(1, ("dice", "largest_component"))
        measured = {(summary.metric, summary.post) for summary in self.summary}
        columns = [column for column in columns if column in measured]
        table = [["class", *(m if post == "raw" else f"{m}_{post}" for m, post in columns), "failed"]]
        for name in (MEAN_FOREGROUND, *self.classes) if self.summary else ():
            found = [self.find(name, metric, post) for metric, post in columns]
            table.append([name, *map(_cell, found), f"{found[0].failed} of {found[0].n}"])
        problems = [f"{problem.severity}: {problem.message}" for problem in self.problems]
        return "\n".join([self.verdict(), *aligned(table), *problems, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows, as plain values; NaN is None."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict(),
            "headline": self.headline(),
            "settings": asdict(self.settings),
            "classes": list(self.classes),
            "patients": dict(self.patients),
            "rows": len(self.rows),
            "missing": list(self.missing),
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            "summary": [_plain_summary(summary) for summary in self.summary],
            "subgroups": [_plain_summary(summary) for summary in self.subgroups],
        }

    def save(self, csv_path: Path, json_path: Path) -> None:
        """Write the rows as CSV and all else as JSON, each atomically."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for row in self.rows:
            writer.writerow([row.case, row.class_name, row.metric, repr(row.value), row.status, row.post])
        write_atomic(csv_path, text.getvalue().encode())
        write_json(json_path, self.to_json())

    @classmethod
    def load(cls, csv_path: Path, json_path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            IntegrityError: a file is missing, damaged, or of a newer version.
        """
        for path in (csv_path, json_path):
            if not path.is_file():
                raise IntegrityError(f"{path}: the file is missing; run 'scantling evaluate' again", code="E-EVL-08")
        content = read_json(json_path)
        try:
            if content["schema_version"] > SCHEMA_VERSION:
                raise IntegrityError(
                    f"{json_path}: written by a newer version (schema {content['schema_version']}, this one "
                    f"reads {SCHEMA_VERSION}); update scantling",
                    code="E-EVL-08",
                )
            return cls(
                settings=Settings(**content["settings"]),
                classes=tuple(content["classes"]),
                patients=content["patients"],
                rows=_read_rows(csv_path, content["rows"]),
                summary=tuple(map(_read_summary, content["summary"])),
                subgroups=tuple(map(_read_summary, content["subgroups"])),
                missing=tuple(content["missing"]),
                problems=tuple(Problem(**problem) for problem in content["problems"]),
                notes=tuple(content["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"{json_path}: not what 'scantling evaluate' writes ({error!r}); evaluate again",
                code="E-EVL-08",
            ) from None


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _cell(summary: Summary) -> str:
    if not summary.scored:
        return "-"
    interval = f" [{summary.low:.3f}, {summary.high:.3f}]" if math.isfinite(summary.low) else ""
    return f"{summary.mean:.3f}{interval}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _listed(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - 5} more" if len(cases) > 5 else ""
    return ", ".join(cases[:5]) + more


def finite_or_none(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return value if math.isfinite(value) else None


def _plain_summary(summary: Summary) -> dict[str, Any]:
    return {k: finite_or_none(v) if isinstance(v, float) else v for k, v in asdict(summary).items()}


def _read_summary(values: Mapping[str, Any]) -> Summary:
    known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}  # only NaN is None
    return Summary(**known)


def _read_rows(path: Path, n_rows: int) -> tuple[Row, ...]:
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        for line, entry in enumerate(csv.DictReader(stream), start=2):
            try:
                row = Row(
                    case=entry["case"], class_name=entry["class"], metric=entry["metric"],
                    value=float(entry["value"]), status=_one_of(entry["status"], get_args(Status)),
                    post=_one_of(entry["post"], get_args(Post)),
                )  # fmt: skip
                _one_of(row.metric, tuple(METRICS))
            except (KeyError, TypeError, ValueError) as error:
                raise IntegrityError(
                    f"{path}: line {line} is not a row of scores ({error!r}); evaluate again", code="E-EVL-08"
                ) from None
            rows.append(row)
    if len(rows) != n_rows:
        raise IntegrityError(f"{path}: holds {len(rows)} rows, {n_rows} were written; evaluate again", code="E-EVL-08")
    return tuple(rows)


def _one_of(value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value
