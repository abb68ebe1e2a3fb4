"""`scantling doctor`: what this machine has, and what would fail later."""

from __future__ import annotations

import json

from typer import Exit

from scantling.cli.options import Debug, Json


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Check versions, devices, memory, disk, processes and write rights; exit 4 if something would fail later."""
    from scantling.workflows.doctor import doctor as examine

    findings = examine()
    print(json.dumps(findings.to_json()) if as_json else findings.text())
    if not findings.healthy:
        raise Exit(4)
