"""Fitted maps: joint, kept to the bit, and turned so that their colours can be compared."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from scantling.errors import IntegrityError
from scantling.figures.fitted_chromap import FIT_POINTS, ChroMap, mean_hue_change, nearest_rotation


def tissue(n: int = 900, n_features: int = 16, seed: int = 0) -> np.ndarray:
    """Features `[feature, point]` of five tissues with mixtures between them, and noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, n_features)) * [[3.0], [2.4], [1.9], [1.5], [1.2]]
    shares = rng.dirichlet(np.full(5, 0.25), size=n)
    return np.ascontiguousarray((shares @ centres + 0.15 * rng.normal(size=(n, n_features))).T, dtype=np.float32)


def epoch(features: np.ndarray, seed: int, *, noise: float = 0.03) -> np.ndarray:
    """The same features in other axes, mirrored ones included, slightly perturbed, as another epoch has them."""
    rng = np.random.default_rng(seed)
    turned = ortho_group.rvs(len(features), random_state=seed) @ features
    return np.asarray(turned + noise * features.std() * rng.normal(size=features.shape), dtype=np.float32)


def test_all_sets_share_one_map_and_every_fitted_point_lies_in_the_disk() -> None:
    first, second = tissue(seed=1), tissue(seed=2)
    chromap = ChroMap.fit([first, second])
    placed = np.concatenate([first, second], axis=1)
    scores = chromap.axes.scores(placed, 2).T
    assert np.hypot(*chromap.ellipse.place(scores).T).max() <= 1 + 1e-6
    assert np.hypot(*chromap.places(placed).T).max() <= 1 + 1e-6
    alone = ChroMap.fit([first])
    assert np.abs(alone.places(second) - chromap.places(second)).max() > 0.05  # a map of its own differs


def test_points_beyond_what_was_fitted_take_the_colour_of_the_rim() -> None:
    features = tissue()
    core = ChroMap.fit([features], share=0.8)
    radii = np.hypot(*core.places(features).T)
    assert 0.1 < (radii > 1 - 1e-5).mean() < 0.25
    assert radii.max() <= 1 + 1e-6


def test_the_same_seed_gives_the_same_bits_and_a_large_set_is_fitted_on_a_sample() -> None:
    features = tissue(n=FIT_POINTS + 5000)
    one, two, other = (ChroMap.fit([features[:, :9000], features[:, 9000:]], seed=seed) for seed in (0, 0, 1))
    assert one.to_json() == two.to_json()
    assert one.to_json() != other.to_json()
    assert mean_hue_change(one.places(features), other.places(features)) < 2  # the sample is large enough
    assert np.hypot(*other.ellipse.place(other.axes.scores(features, 2).T).T).max() <= 1 + 1e-6  # all are inside


def test_a_map_comes_back_from_json_to_the_bit() -> None:
    features = tissue()
    chromap = ChroMap.fit([features], n_components=4).turned_to(np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]]))
    again = ChroMap.from_json(json.loads(json.dumps(chromap.to_json())), where="x.json")
    assert again.to_json() == chromap.to_json()
    np.testing.assert_array_equal(again.colours(features), chromap.colours(features))


def test_a_damaged_map_is_refused() -> None:
    said = ChroMap.fit([tissue(n=50)]).to_json()
    damaged: list[object] = [
        None, [], {}, {**said, "mean": said["mean"][:-1]}, {**said, "to_disk": [[1.0, 0.0]]},
        {**said, "rotation": [[math.nan, 0.0], [0.0, 1.0]]}, {**said, "scale": "no numbers"},
    ]  # fmt: skip
    for value in damaged:
        with pytest.raises(IntegrityError, match=r"x\.json: its map is damaged.*E-FIG-09"):
            ChroMap.from_json(value, where="x.json")
    with pytest.raises(IntegrityError, match="schema 99"):
        ChroMap.from_json({**said, "schema_version": 99}, where="x.json")


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_nearest_rotation_is_that_of_another_hand_and_may_mirror(mirrored: bool) -> None:
    rng = np.random.default_rng(4)
    own = rng.normal(size=(40, 2))
    angle = 2.1
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turn = turn @ np.diag([1.0, -1.0]) if mirrored else turn
    wanted = own @ turn + 0.05 * rng.normal(size=own.shape)
    found = nearest_rotation(own, wanted)
    np.testing.assert_allclose(found, orthogonal_procrustes(own, wanted)[0], atol=1e-12)
    np.testing.assert_allclose(found, turn, atol=0.05)
    assert np.linalg.det(found) == pytest.approx(-1.0 if mirrored else 1.0)
    with pytest.raises(ValueError, match="the same points"):
        nearest_rotation(own[:0], wanted[:0])


@pytest.mark.parametrize("seed", range(4))
def test_two_epochs_of_the_same_features_agree_in_hue_once_they_are_aligned(seed: int) -> None:
    features = tissue(seed=10 + seed)
    first, second = epoch(features, seed), epoch(features, seed + 100)
    reference, other = ChroMap.fit([first]), ChroMap.fit([second])
    anchors = np.random.default_rng(seed).choice(features.shape[1], 64, replace=False)
    aligned = other.align_to(reference, second[:, anchors], first[:, anchors])
    rest = np.setdiff1d(np.arange(features.shape[1]), anchors)
    wanted = reference.places(first[:, rest])
    assert mean_hue_change(aligned.places(second[:, rest]), wanted) < 15
    exact = ChroMap.fit([epoch(features, seed, noise=0.0)])
    again = exact.align_to(ChroMap.fit([features]), epoch(features, seed, noise=0.0), features)
    assert (
        mean_hue_change(again.places(epoch(features, seed, noise=0.0)), ChroMap.fit([features]).places(features)) < 0.1
    )


def test_without_alignment_the_same_features_have_other_colours() -> None:
    features = tissue()
    changes = [
        mean_hue_change(ChroMap.fit([features]).places(features), ChroMap.fit([moved]).places(moved))
        for moved in (epoch(features, seed) for seed in range(6))
    ]
    assert max(changes) > 60


def test_turning_keeps_radii_so_that_alike_pixels_stay_alike() -> None:
    features = tissue()
    chromap = ChroMap.fit([features])
    own = chromap.places(features[:, :30])
    turned = chromap.turned_to(own, np.random.default_rng(0).normal(size=own.shape))
    before, after = chromap.places(features), turned.places(features)
    np.testing.assert_allclose(np.hypot(*after.T), np.hypot(*before.T), atol=1e-6)
    np.testing.assert_allclose(before @ before.T, after @ after.T, atol=1e-5)


def test_the_change_of_hue_is_an_angle_that_greys_do_not_count_in() -> None:
    degrees = np.array([10.0, 350.0, 90.0])
    own = np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    assert mean_hue_change(own, own) == pytest.approx(0)
    assert mean_hue_change(own[:1], own[1:2]) == pytest.approx(20)
    grey = np.zeros((1, 2))
    assert mean_hue_change(np.concatenate([own[:1], grey]), np.concatenate([own[1:2], own[2:]])) == pytest.approx(20)
    assert mean_hue_change(own[:2] * [[1.0], [0.5]], own[1:] * [[1.0], [0.5]]) == pytest.approx(
        (20 + 0.25 * 100) / 1.25
    )
    assert math.isnan(mean_hue_change(grey, grey))


def test_one_feature_and_features_without_variation_have_a_map_too() -> None:
    line = ChroMap.fit([np.linspace(-1, 1, 50, dtype=np.float32)[None]], unit_length=False)
    places = line.places(np.array([[-1.0, 0.0, 1.0]], dtype=np.float32))
    np.testing.assert_allclose(np.abs(places[:, 0]), [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(places[:, 1], 0, atol=1e-6)
    still = ChroMap.fit([np.ones((4, 20), dtype=np.float32)])
    assert (still.places(np.ones((4, 3), dtype=np.float32)) == 0).all()
