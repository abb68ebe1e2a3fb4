from __future__ import annotations

from dataclasses import replace

import pytest

from scantling.training.progress import Moment, duration
from scantling.training.terminal import Terminal


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (95, "1 min 35 s"), (3600, "1 h 0 min"), (-5, "0 s")]
)  # fmt: skip
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def moment(step: int, score: float | None = None) -> Moment:
    return Moment(progress=0.25, step=step, loss=0.5, samples_per_second=12.0, seconds_left=90, score=score)


def test_without_a_terminal_there_is_one_line_when_the_interval_has_passed(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Terminal(seconds_between_lines=1e9)
    quiet.show(moment(1))
    quiet.close()
    assert capsys.readouterr().err == ""
    eager = Terminal(seconds_between_lines=0)
    eager.show(moment(7, 0.875))
    line = capsys.readouterr().err
    assert line == " 25.0 %  step 7  loss 0.500  Dice 0.875  12.0 samples/s  1 min 30 s left\n"


def test_details_are_for_those_who_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        display = Terminal(verbose=verbose)
        display.say("sentence [1]")
        display.detail("reason")
        assert capsys.readouterr().err == "sentence [1]\n" + "reason\n" * verbose


def test_a_score_that_is_no_dice_is_not_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(seconds_between_lines=0).show(replace(moment(7, -3.25), measure="bound"))
    said = capsys.readouterr().err
    assert "bound -3.250" in said
    assert "Dice" not in said
