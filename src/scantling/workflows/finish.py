"""What every run ends with, once it is trained and scored."""

from __future__ import annotations

from scantling.reports.pictures import draw_worst_cases
from scantling.reports.report import write_report
from scantling.training.run_folder import RunFolder
from scantling.workflows.result import RunResult


def finish(run: RunFolder) -> RunResult:
    """Draw and report a finished run; its result, as it stands."""
    result = RunResult.read(run)
    if run.writable and result.status["status"] == "finished":
        draw_worst_cases(run.path)
        write_report(run.path)
    return result
