"""What a folder of counterfactuals holds, and what the verb says of it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scantling.counterfactuals.soundness import InterventionSummary, SoundnessLimits, verdict
from scantling.inference.generation_records import Record
from scantling.inference.generation_tables import MEASURES, summaries, without_nan


@dataclass(frozen=True, kw_only=True)
class GenerationRun:
    """A folder of counterfactuals.

    Attributes:
        records: every counterfactual in it; `kept` of them were there already.
        skipped: (intervention, reason) -> how many cases: nothing would change, or the value is unknown.
        failures: case -> one sentence.
        report: the page, where one was written.
    """

    folder: Path
    records: tuple[Record, ...]
    limits: SoundnessLimits
    kept: int
    skipped: Mapping[tuple[str, str], int]
    failures: Mapping[str, str]
    report: Path | None = None

    @property
    def sound(self) -> tuple[Record, ...]:
        """Those that keep to the limits."""
        return tuple(record for record in self.records if not verdict(record.soundness, self.limits))

    @property
    def summaries(self) -> tuple[InterventionSummary, ...]:
        """How many of each intervention were rejected and why."""
        return summaries(self.records, self.limits)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Measures that have a limit, and are not known of any counterfactual."""
        everywhere = [{n for n, k in s.unknown.items() if k == s.count} for s in self.summaries]
        return tuple(name for name in MEASURES if everywhere and all(name in names for names in everywhere))

    def text(self) -> str:
        """How many were written, how many rejected and why, what was left out, and where things are."""
        n, n_sound = len(self.records), len(self.sound)
        n_cases = len({record.counterfactual_of for record in self.records})
        lines = [
            f"{counted(n, 'counterfactual')} of {counted(n_cases, 'case')}: {n_sound} sound, {n - n_sound} rejected."
        ]
        if self.kept:
            lines[0] += f" {'All' if self.kept == n else self.kept} of them were there already."
        lines += [f"  {_sentence(summary)}" for summary in self.summaries]
        lines += [f"  {name}: {counted(k, 'case')} left out ({reason})" for (name, reason), k in self.skipped.items()]
        lines += [] if not self.unchecked else [f"not checked: {', '.join(self.unchecked)}"]
        lines.append(f"data set: {self.folder}")
        lines += [] if self.report is None else [f"report:   {self.report}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same facts as `text`, for scripts."""
        interventions = [
            {
                "intervention": s.intervention, "count": s.count, "rejected": s.rejected,
                "reasons": dict(s.reasons), "unknown": dict(s.unknown), "means": dict(s.means),
            }
            for s in self.summaries
        ]  # fmt: skip
        values: dict[str, Any] = {
            "folder": str(self.folder),
            "counterfactuals": len(self.records),
            "sound": len(self.sound),
            "kept": self.kept,
            "interventions": interventions,
            "skipped": [{"intervention": i, "reason": r, "count": k} for (i, r), k in self.skipped.items()],
            "failures": dict(self.failures),
            "report": None if self.report is None else str(self.report),
        }
        plain: dict[str, Any] = without_nan(values)
        return plain


def _sentence(summary: InterventionSummary) -> str:
    why = ", ".join(f"{k} for {measure}" for measure, k in summary.reasons.items())
    return f"{summary.intervention}: {summary.rejected} of {summary.count} rejected{f' ({why})' if why else ''}"


def counted(n: int, noun: str) -> str:
    """`1 case`, `3 cases`."""
    return f"{n} {noun if n == 1 else noun + 's'}"
