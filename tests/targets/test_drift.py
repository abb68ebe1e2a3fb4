from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from scantling.targets.drift import decide


def of(values: np.ndarray) -> dict[str, float]:
    return {f"case{i}": float(v) for i, v in enumerate(values)}


def test_the_band_is_made_of_the_standard_error_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.4, 0.95, 12)  # cases differ by far more than the rounds do
    after = before + rng.normal(-0.001, 0.004, 12)
    decision = decide({0: of(before), 1: of(after)})
    error = scipy.stats.sem(after - before)
    assert decision.change == pytest.approx((after - before).mean())
    assert decision.standard_error == pytest.approx(error)
    assert decision.band == pytest.approx(2 * error)
    assert decision.verdict == "keep"
    assert decision.to_round == 1
    assert decide({0: of(before), 1: of(after)}, factor=0.0).verdict == "roll back"


def test_a_score_that_falls_out_of_the_noise_goes_back_to_the_best_round_and_not_to_the_last() -> None:
    base = np.full(6, 0.8)
    wobble = np.array([1, -1, 2, -2, 1, -1]) * 1e-3
    decision = decide({0: of(base), 1: of(base + 0.03 + wobble), 2: of(base + 0.025), 3: of(base + 0.01 + wobble)})
    assert (decision.verdict, decision.to_round) == ("roll back", 1)
    assert "round 3" in decision.sentence
    assert "back to round 1" in decision.sentence
    assert "worse than noise explains" in decision.sentence


def test_a_fall_step_by_step_within_the_noise_is_noticed_because_the_best_is_what_counts() -> None:
    rng = np.random.default_rng(1)
    scores = {0: of(np.full(20, 0.8))}
    for number in range(1, 6):
        scores[number] = of(0.8 - 0.003 * number + rng.normal(0, 0.005, 20))
        decision = decide(scores)
        if decision.verdict == "roll back":
            break
    assert number < 4
    assert decision.to_round == 0


def test_few_cases_are_noisy_but_the_band_is_never_wider_than_allowed() -> None:
    noisy = decide({0: of(np.array([0.9, 0.5])), 1: of(np.array([0.95, 0.42]))})
    assert noisy.standard_error > 0.05
    assert noisy.band == 0.01
    assert noisy.verdict == "roll back"
    alone = decide({0: {"a": 0.8}, 1: {"a": 0.795}})
    assert math.isnan(alone.standard_error)
    assert (alone.band, alone.verdict) == (0.01, "keep")
    assert decide({0: {"a": 0.8}, 1: {"a": 0.78}}).verdict == "roll back"


def test_cases_of_one_patient_count_as_one() -> None:
    before = {"a1": 0.8, "a2": 0.9, "b1": 0.7, "c1": 0.6}
    after = {"a1": 0.81, "a2": 0.93, "b1": 0.70, "c1": 0.61}
    decision = decide({0: before, 1: after}, patients={"a1": "a", "a2": "a", "b1": "b", "c1": "c"})
    assert decision.change == pytest.approx((0.02 + 0.0 + 0.01) / 3)
    assert decision.standard_error == pytest.approx(scipy.stats.sem([0.02, 0.0, 0.01]))
    assert "3 patients" in decision.sentence


def test_undefined_scores_take_no_part_and_rounds_that_share_no_case_cannot_be_compared() -> None:
    decision = decide({0: {"a": 0.8, "b": 0.5}, 1: {"a": 0.81, "b": math.nan}})
    assert decision.change == pytest.approx(0.01)
    with pytest.raises(ValueError, match="no held-out case has a score in every round"):
        decide({0: {"a": 0.8}, 1: {"b": 0.8}})
    with pytest.raises(ValueError, match="no round"):
        decide({})


def test_the_first_round_and_an_unchanged_one_are_kept() -> None:
    first = decide({0: {"a": 0.3}})
    assert (first.verdict, first.to_round) == ("keep", 0)
    assert decide({0: {"a": 0.3, "b": 0.4}, 1: {"a": 0.3, "b": 0.4}}).to_round == 1


@pytest.mark.parametrize("seed", range(20))
def test_whatever_rounds_do_what_stands_at_last_is_at_most_one_point_below_annotations_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    standing = {0: of(rng.uniform(0.5, 0.9, n))}
    for number in range(1, 9):
        last = np.array(list(standing[max(standing)].values()))
        standing[number] = of(last + rng.normal(-0.01, 0.02) + rng.normal(0, rng.choice([0.001, 0.05]), n))
        decision = decide(standing)
        standing = {k: v for k, v in standing.items() if k <= decision.to_round}
    end = np.mean(list(standing[max(standing)].values()))
    assert end >= np.mean(list(standing[0].values())) - 0.01 - 1e-12


def nearest_mean_dice(
    train_x: np.ndarray, train_y: np.ndarray, test: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Held-out Dice of a classifier that knows one mean a class."""
    low, high = train_x[train_y == 0].mean(), train_x[train_y == 1].mean()
    scores = []
    for x, y in test:
        predicted = np.abs(x - high) < np.abs(x - low)
        scores.append(2 * (predicted & (y == 1)).sum() / (predicted.sum() + (y == 1).sum()))
    return np.array(scores)


def test_with_40_per_cent_poisoned_labels_learning_ends_at_most_one_point_below_annotations_alone() -> None:
    rng = np.random.default_rng(0)

    def image() -> tuple[np.ndarray, np.ndarray]:
        y = (rng.random(400) < 0.3).astype(int)
        return rng.normal(2.0 * y, 1.0), y

    held_out, (own_x, own_y) = [image() for _ in range(6)], image()
    alone = nearest_mean_dice(own_x, own_y, held_out)
    standing = {0: of(alone)}
    fallen = 0
    for number in range(1, 5):
        parts = [image() for _ in range(5)]
        x, y = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        poisoned = rng.permutation(len(y))[: int(0.4 * len(y))]
        y[poisoned] = 0  # 40 % of the pixels are called background, whatever they are
        x[poisoned] += 3  # and look like foreground
        scores = nearest_mean_dice(np.concatenate([own_x, x]), np.concatenate([own_y, y]), held_out)
        decision = decide({**standing, number: of(scores)})
        if decision.verdict == "keep":
            standing[number] = of(scores)
        else:
            fallen += 1
            assert scores.mean() < alone.mean()
    assert fallen == 4
    assert np.mean(list(standing[max(standing)].values())) >= alone.mean() - 0.01
