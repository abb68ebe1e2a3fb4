"""What a training verb returns and prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scantling.evaluation.results import Evaluation, finite_or_none
from scantling.training.initial import how_to_use
from scantling.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its status file, its held-out scores (None if nothing was held out).

    Attributes:
        first: off in all but the first of several processes of a run; those have nothing to print.
    """

    path: Path
    status: dict[str, Any]
    evaluation: Evaluation | None
    first: bool = True

    @classmethod
    def read(cls, run: RunFolder) -> RunResult:
        """The result of a run folder."""
        scored = run.evaluation.is_file()
        evaluation = Evaluation.load(run.metrics, run.evaluation) if scored else None
        return cls(run.path, run.status(), evaluation, first=run.writable)

    @property
    def report(self) -> Path:
        """The report, `RUN/report.html`."""
        return self.path / "report.html"

    @property
    def warnings(self) -> list[str]:
        """What was wrong with the contrast when training ended, a sentence each."""
        return list(self.status.get("contrast_warnings", ()))

    @property
    def _of_features(self) -> bool:
        return self.status.get("learns") == "features"

    def to_json(self) -> dict[str, Any]:
        """The same facts as `text`, for scripts."""
        return {
            "run": str(self.path),
            "status": self.status["status"],
            "warnings": self.warnings,
            "report": str(self.report) if self.report.is_file() else None,
            "added_by_unlabelled": self.status.get("baseline"),
            "held_out": None if self.evaluation is None else _held_out(self.evaluation),
            **({"health": self.status.get("health"), "use": how_to_use(self.path)} if self._of_features else {}),
        }

    def text(self) -> str:
        """The verdict, what was wrong when training ended, and where things are."""
        if self.status["status"] != "finished":
            return f"{self.status['status']}: {self.path}"
        none = self.status.get("verdict", "No case was held out, so there is no score.")
        verdict = none if self.evaluation is None else self.evaluation.verdict()
        added = f"\n{self.status['baseline']['sentence']}" if "baseline" in self.status else ""
        cautions = "".join(f"\nWarning, as training ended: {sentence}." for sentence in self.warnings)
        use = f"\nuse:    {how_to_use(self.path)}" if self._of_features else ""
        return f"{verdict}{added}{cautions}\nmodel:  {self.path / 'model'}\nreport: {self.report}{use}"


def _held_out(evaluation: Evaluation) -> dict[str, Any]:
    """Mean foreground Dice, its interval and n; each class's mean Dice; what is undefined is None."""
    if not evaluation.rows:
        return {"cases": 0, "missing": list(evaluation.missing)}
    mean = evaluation.find()
    return {
        "mean_foreground_dice": finite_or_none(mean.mean),
        "low": finite_or_none(mean.low),
        "high": finite_or_none(mean.high),
        "level": evaluation.settings.level,
        "cases": mean.n,
        "patients": mean.patients,
        "failed": mean.failed,
        "missing": list(evaluation.missing),
        "dice": {name: finite_or_none(evaluation.find(name).mean) for name in evaluation.classes},
    }
