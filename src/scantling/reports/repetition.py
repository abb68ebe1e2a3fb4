"""The report's section on repeating a run: command, seed, machine, versions, hashes, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import tomli_w

from scantling.reports.facts import RunFacts
from scantling.reports.html import Child, Markup, definitions, element, section, table
from scantling.reports.wording import NOTHING, counted, duration, moment, size

_AGAIN: Final = "scantling train DATA -o NEW_RUN --config config.toml --plan plan.json"


def repeat_section(facts: RunFacts) -> Markup:
    """Command, seed, hardware, versions, hashes and settings."""
    status = facts.status
    environment = status.get("environment", {})
    machine = [
        ("seed", status.get("seed", NOTHING)),
        ("recipe", status.get("recipe", NOTHING)),
        *([("started from", status["started_from"])] if status.get("started_from") else []),
        ("started", moment(status.get("started", NOTHING))),
        ("finished", moment(status.get("finished", NOTHING))),
        ("whole run", duration(status.get("seconds"))),
        ("training", f"{duration(status.get('training_seconds'))}, {status.get('steps', NOTHING)} steps"),
        ("device", _joined([status.get("device"), _precision(status), _threads(status)])),
        ("machine", _joined([environment.get("platform"), _cores(environment), _memory(environment)])),
        ("python", environment.get("python", NOTHING)),
    ]
    versions = environment.get("versions", {})
    parts: list[Child] = []
    if status.get("command"):
        parts.append(element("pre", str(status["command"])))
    if facts.config:
        parts += [element("p", _again(facts)), element("pre", _AGAIN)]
    parts.append(definitions([(name, str(value)) for name, value in machine]))
    if versions:
        parts.append(table(("package", "version"), sorted(versions.items()), text_columns=(0, 1)))
    if facts.hashes:
        rows = [(name, element("code", value)) for name, value in facts.hashes.items()]
        parts.append(table(("file in the run folder", "SHA-256"), rows, text_columns=(0, 1)))
    if facts.config:
        settings = element("pre", tomli_w.dumps(dict(facts.config)).strip())
        parts.append(element("details", element("summary", "Resolved settings (config.toml)"), settings))
    return section("How to repeat this", *parts)


def _again(facts: RunFacts) -> str:
    """How far the same settings give the same model."""
    if facts.config.get("training", {}).get("steps") is not None:
        return (
            "From the files of the run folder; on this machine, with these versions and as many threads "
            "(OMP_NUM_THREADS), it gives the same bits:"
        )
    return (
        "From the files of the run folder. This run ended by the clock, so another one takes more or fewer steps and "
        "gives a similar model, not the same bits; a run with --steps gives the same bits."
    )


def _joined(parts: Sequence[Any]) -> str:
    return ", ".join(str(part) for part in parts if part) or NOTHING


def _precision(status: Mapping[str, Any]) -> str:
    return str(status.get("precision") or "").removeprefix("torch.")


def _threads(status: Mapping[str, Any]) -> str:
    return counted(int(status["threads"]), "thread") if status.get("threads") else ""


def _cores(environment: Mapping[str, Any]) -> str:
    return counted(int(environment["cores"]), "core") if environment.get("cores") else ""


def _memory(environment: Mapping[str, Any]) -> str:
    return f"{size(float(environment['memory_gib']) * 2**30)} memory" if environment.get("memory_gib") else ""
