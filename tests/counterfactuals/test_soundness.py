"""The filter by hand-worked values: what it rejects, in which words, and how it adds up."""

from __future__ import annotations

import math

import pytest

from scantling.counterfactuals.soundness import (
    AT_LEAST,
    AT_MOST,
    Soundness,
    SoundnessLimits,
    broken_limits,
    summarise,
    verdict,
)
from scantling.errors import ConfigError

LIMITS = SoundnessLimits()
GOOD = Soundness(
    composition=0.0, reversibility=0.05, effectiveness=0.9, kept=0.95, identity_dice=0.97, structure=0.8, change=0.1
)


def changed(**values: float) -> Soundness:
    return Soundness(**{**vars(GOOD), **values})


def test_what_keeps_to_every_limit_is_sound_even_exactly_at_it() -> None:
    at_limits = changed(composition=0.02, reversibility=0.10, effectiveness=0.5, kept=0.3, identity_dice=0.90)
    assert verdict(GOOD, LIMITS) == ()
    assert verdict(at_limits, LIMITS) == ()


def test_each_reason_names_its_measure_value_and_limit() -> None:
    bad = changed(composition=0.031, reversibility=0.2, effectiveness=0.31, kept=0.1, identity_dice=0.5)
    assert verdict(bad, LIMITS) == (
        "it changes where nothing is asked to change: composition is 0.03, wanted at most 0.02",
        "the way back does not lead back: reversibility is 0.20, wanted at most 0.10",
        "the judge does not see what was asked for: effectiveness is 0.31, wanted at least 0.50",
        "the judge no longer sees what was to stay: kept is 0.10, wanted at least 0.30",
        "its anatomy is another: identity_dice is 0.50, wanted at least 0.90",
    )


def test_a_value_just_beyond_its_limit_is_written_so_that_it_shows() -> None:
    (reason,) = verdict(changed(identity_dice=0.89996), LIMITS)
    assert reason.endswith("identity_dice is 0.89996, wanted at least 0.90000")
    (closest,) = verdict(changed(effectiveness=math.nextafter(0.5, 0)), LIMITS)
    assert "effectiveness is 0.4999999999999999, wanted at least 0.5" in closest


def test_limits_that_are_off_by_default_reject_once_they_are_set() -> None:
    assert verdict(changed(structure=-1.0, change=9.0), LIMITS) == ()
    strict = SoundnessLimits(structure=0.9, change=0.05)
    assert broken_limits(GOOD, strict) == ("change", "structure")


@pytest.mark.parametrize("measure", [*AT_MOST, *AT_LEAST])
def test_a_limit_of_none_lets_everything_pass(measure: str) -> None:
    awful = changed(**dict.fromkeys(AT_MOST, 9.0), **dict.fromkeys(AT_LEAST, -1.0))
    limits = SoundnessLimits(structure=0.9, change=0.05)
    assert broken_limits(awful, limits) == (*AT_MOST, *AT_LEAST)
    assert measure not in broken_limits(awful, limits.model_copy(update={measure: None}))


def test_what_is_not_known_rejects_nothing_and_infinity_does() -> None:
    assert verdict(Soundness(), LIMITS) == ()
    assert broken_limits(changed(composition=math.inf, effectiveness=-math.inf), LIMITS) == (
        "composition",
        "effectiveness",
    )


def test_limits_out_of_their_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--limit: effectiveness = 1.5"):
        SoundnessLimits.parse({"effectiveness": 1.5}, where="--limit")
    with pytest.raises(ConfigError, match="unknown setting 'effectivness'; did you mean 'effectiveness'"):
        SoundnessLimits.parse({"effectivness": 0.5}, where="--limit")


def test_every_measure_has_a_limit_and_a_reason() -> None:
    assert {*AT_MOST, *AT_LEAST} == set(SoundnessLimits.model_fields) == set(vars(GOOD))


def test_a_summary_counts_the_rejected_the_reasons_and_the_unknown_of_each_intervention() -> None:
    records = [
        ("scanner=B", GOOD),
        ("finding=none", changed(identity_dice=math.nan, change=0.3)),
        ("scanner=B", changed(effectiveness=0.1, identity_dice=0.8)),
        ("scanner=B", changed(effectiveness=0.2, kept=math.nan, structure=math.nan)),
        ("finding=none", changed(identity_dice=math.nan, change=0.1)),
    ]
    scanner, finding = summarise(records, LIMITS)
    assert (scanner.intervention, scanner.count, scanner.rejected) == ("scanner=B", 3, 2)
    assert scanner.reasons == {"effectiveness": 2, "identity_dice": 1}
    assert scanner.unknown == {"kept": 1}  # structure has no limit
    assert scanner.means["effectiveness"] == pytest.approx(0.4)
    assert scanner.means["kept"] == pytest.approx(0.95)
    assert scanner.sentence == (
        "scanner=B: 2 of 3 rejected (2 for effectiveness, 1 for identity_dice); not known: kept of 1"
    )
    assert finding.sentence == "finding=none: 0 of 2 rejected; not known: identity_dice of all"
    assert math.isnan(finding.means["identity_dice"])
    assert finding.means["change"] == pytest.approx(0.2)
    assert summarise([("x", GOOD)], LIMITS)[0].sentence == "x: 0 of 1 rejected"
    assert summarise([], LIMITS) == ()
