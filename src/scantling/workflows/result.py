"""What a training verb returns and prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scantling.evaluation.evaluate import Evaluation
from scantling.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its status file, its held-out scores (None if nothing was held out)."""

    path: Path
    status: dict[str, Any]
    evaluation: Evaluation | None

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """The result of a run folder."""
        run = RunFolder.open(path)
        scored = run.evaluation.is_file()
        return cls(path, run.status(), Evaluation.load(run.metrics, run.evaluation) if scored else None)

    @property
    def report(self) -> Path:
        """The report, `RUN/report.html`."""
        return self.path / "report.html"

    def to_json(self) -> dict[str, Any]:
        """The same facts as `text`, for scripts."""
        return {
            "run": str(self.path),
            "status": self.status["status"],
            "report": str(self.report) if self.report.is_file() else None,
            "held_out": None if self.evaluation is None else self.evaluation.headline(),
        }

    def text(self) -> str:
        """The verdict, and where things are."""
        if self.status["status"] != "finished":
            return f"{self.status['status']}: {self.path}"
        verdict = (
            "No case was held out, so there is no score." if self.evaluation is None else self.evaluation.verdict()
        )
        return f"{verdict}\nmodel:  {self.path / 'model'}\nreport: {self.report}"
