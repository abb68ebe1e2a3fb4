"""What a verb says while it goes from case to case."""

from __future__ import annotations

import pytest

from scantling.workflows.case_progress import case_progress


def test_without_a_terminal_a_line_is_written_only_after_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with case_progress(False) as tell:
        assert tell is not None
        tell("predicting a (1 of 2)")
    assert capsys.readouterr().err == ""
    with case_progress(False, seconds_between_lines=0) as tell:
        assert tell is not None
        tell("predicting b (2 of 2)")
    assert capsys.readouterr() == ("", "predicting b (2 of 2)\n")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with case_progress(True, seconds_between_lines=0) as tell:
        assert tell is None
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_names_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with case_progress(False) as tell:
        assert tell is not None
        tell("predicting [bold]x[/nonsense] (1 of 1)")
    out, err = capsys.readouterr()
    assert out == ""
    assert "[bold]x[/nonsense]" in err
