from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scantling.cli import main as module
from scantling.cli import options
from scantling.cli.main import app, main
from scantling.errors import DataError

VERBS = (
    "demo",
    "doctor",
    "inspect",
    "train",
    "pretrain",
    "resume",
    "predict",
    "evaluate",
    "protocol",
    "generate",
    "figure",
    "report",
)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_lists_every_verb_and_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(verb in result.output for verb in VERBS)
    assert "Exit codes" in result.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_and_import_load_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'nibabel', 'pydantic', 'PIL', 'jaxtyping'}"
    for module_name in ("scantling", "scantling.cli.main"):
        loaded = python(f"import sys, {module_name}; print({heavy} & set(sys.modules))")
        assert loaded.strip() == "set()", f"import {module_name} loads {loaded}"


def test_the_version_is_printed() -> None:
    import scantling

    assert CliRunner().invoke(app, ["--version"]).output.strip() == scantling.__version__


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["scantling", *words])
    monkeypatch.setattr(options, "debug_wanted", False)
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_an_error_is_one_sentence_and_the_code_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "train", str(tmp_path / "absent"), "-o", str(tmp_path / "run")) == 3
    assert capsys.readouterr().err.count("\n") == 1
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    assert run_main(monkeypatch, "train", str(tmp_path), "-o", str(used)) == 2
    assert "already exists and is not empty" in capsys.readouterr().err
    assert run_main(monkeypatch, "train", str(tmp_path), "--time", "soon") == 2
    assert run_main(monkeypatch, "resume", str(tmp_path)) == 3
    assert run_main(monkeypatch, "train") == 2
    assert run_main(monkeypatch, "train", str(tmp_path), "--set", "traning.steps=3") == 2
    assert "did you mean 'training'" in capsys.readouterr().err


def test_a_bug_of_ours_says_so_and_debug_shows_the_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise KeyError("oops")

    monkeypatch.setattr(module, "app", broken)
    assert run_main(monkeypatch) == 70
    assert "This is a bug of ours" in capsys.readouterr().err
    monkeypatch.setattr(options, "debug_wanted", True)
    with pytest.raises(KeyError):
        main()

    def unreadable() -> None:
        raise DataError("x: cannot be read")

    monkeypatch.setattr(module, "app", unreadable)
    with pytest.raises(DataError):
        main()

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "app", interrupted)
    assert run_main(monkeypatch) == 5
    monkeypatch.setattr(module, "app", lambda: sys.exit(130))
    assert run_main(monkeypatch) == 5


def test_doctor_reports_json_and_is_healthy_here() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert {item["name"] for item in found["findings"]} >= {
        "versions",
        "devices",
        "memory",
        "disk",
        "spawn workers",
    }
    assert result.exit_code == (0 if found["healthy"] else 4)


def test_help_works_without_a_home_a_terminal_or_a_locale() -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "scantling", "--help"], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
