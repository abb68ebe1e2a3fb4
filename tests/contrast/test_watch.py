"""A warning comes when something has been wrong for long enough, once, and goes when it is right again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import pytest
import torch
import torch.nn.functional as F

from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.observation import FEATURES, Observation
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.relations import SameClass, SamePoint
from scantling.contrast.watch import Notice, Watch
from scantling.shapes import IGNORE

CLASSES = ("background", "heart")


def observed(step: int, figures: Mapping[str, float] | None = None, **by_class: Iterable[float]) -> Observation:
    return Observation(
        step=step,
        term="contrast",
        figures=figures or {},
        by_class={name: dict(zip(CLASSES, values, strict=True)) for name, values in by_class.items()},
    )


def notices(watch: Watch, observations: Iterable[Observation]) -> list[tuple[int, str, str | None, bool]]:
    return [(n.step, n.kind, n.klass, n.active) for seen in observations for n in watch.see(seen)]


def test_a_class_without_anchors_for_fifty_steps_is_warned_of_once_and_again_after_it_recovered() -> None:
    watch = Watch()
    hearts = {step: 0.0 if step < 70 or step > 90 else 3.0 for step in range(0, 200, 10)}
    seen = [observed(step, anchors=(9, n), labelled=(1, 1)) for step, n in hearts.items()]
    assert notices(watch, seen) == [
        (50, "no_anchors", "heart", True),
        (70, "no_anchors", "heart", False),
        (150, "no_anchors", "heart", True),
    ]
    assert watch.active == [
        "since step 101 no pixel of heart has been an anchor of contrast with a positive, although heart occurs in "
        "the labels: the contrast does not train this class"
    ]


def test_a_class_that_the_labels_do_not_have_needs_no_anchors() -> None:
    watch = Watch()
    assert notices(watch, (observed(step, anchors=(9, 0), labelled=(1, 0)) for step in range(0, 500, 10))) == []
    assert notices(watch, (observed(step, anchors=(9, 0)) for step in range(500, 900, 10))) == []


def test_a_rare_class_is_warned_of_once_it_was_passed_over_for_long_enough() -> None:
    seen = [observed(step, anchors=(9, 0), labelled=(1, step % 40 == 0)) for step in range(0, 200, 10)]
    assert notices(Watch(), seen) == [(80, "no_anchors", "heart", True)]
    now_and_then = [
        observed(step, anchors=(9, 2 * (step % 80 == 40)), labelled=(1, step % 40 == 0)) for step in range(0, 900, 10)
    ]
    assert notices(Watch(), now_and_then) == []


def test_anchors_without_gradient_are_warned_of() -> None:
    fed = [observed(step, anchors=(90, 10), gradient_share=(0.999, 0.001)) for step in range(0, 200, 10)]
    assert notices(Watch(), fed) == []
    starved = [observed(step, anchors=(90, 10), gradient_share=(0.99995, 0.00005)) for step in range(0, 200, 10)]
    assert notices(Watch(), starved) == [(50, "no_gradient", "heart", True)]


def test_a_memory_that_stays_empty_is_warned_of_and_one_that_fills_is_not() -> None:
    filling = [observed(step, {"bank_filled": step / 200}, bank=(step / 200, 0)) for step in range(0, 200, 10)]
    assert notices(Watch(), filling) == []
    dead = [observed(step, {"bank_filled": 0.0}, bank=(0, 0), labelled=(1, 1)) for step in range(0, 200, 10)]
    assert notices(Watch(), dead) == [(50, "empty_bank", None, True)]
    half = [observed(step, {"bank_filled": 0.5}, bank=(0.5, 0), labelled=(1, 1)) for step in range(0, 200, 10)]
    assert notices(Watch(), half) == [(50, "empty_bank", "heart", True)]


@pytest.mark.parametrize("onset", [0, 300, 303])
def test_collapse_is_said_within_200_steps_of_its_onset(onset: int) -> None:
    def at(step: int) -> Observation:
        bad = step >= onset
        figures = {"feature_std": 0.05 if bad else 0.6, "effective_rank": 1.2 if bad else 9.0, "groups": 50.0}
        figures |= {"foreground_predicted": 0.0 if bad else 0.1, "foreground_labelled": 0.1}
        return observed(step, figures)

    found = notices(Watch(), map(at, range(0, 900, 10)))
    assert sorted(kind for _, kind, _, _ in found) == ["background_only", "few_directions", "one_point"]
    assert all(100 <= step - onset <= 200 and active for step, _, _, active in found)


def test_a_start_from_collapsed_features_is_no_alarm_if_training_mends_it() -> None:
    def at(step: int) -> Observation:
        learnt = min(step / 150, 1.0)
        predicted = 0.1 if step > 160 else 0.0
        figures = {"feature_std": 0.02 + 0.8 * learnt, "effective_rank": 1 + 6 * learnt, "groups": 3.0}
        return observed(step, {**figures, "foreground_predicted": predicted, "foreground_labelled": 0.1})

    assert notices(Watch(), map(at, range(0, 500, 10))) == []


def test_between_the_two_thresholds_nothing_changes() -> None:
    def stds(values: Iterable[float]) -> list[Observation]:
        return [observed(1000 + 10 * k, {"feature_std": value}) for k, value in enumerate(values)]

    swaying = [0.09, 0.15] * 10
    watch = Watch()
    assert notices(watch, stds([0.5, *swaying])) == [(1110, "one_point", None, True)]
    assert notices(watch, stds([0.15, 0.19, 0.21, 0.15, 0.09])) == [(1020, "one_point", None, False)]
    assert watch.active == []


@pytest.mark.parametrize(("groups", "rank", "alarm"), [(2.0, 1.05, False), (3.0, 1.9, False), (3.0, 1.4, True)])
def test_few_groups_need_few_directions(groups: float, rank: float, alarm: bool) -> None:
    seen = [observed(step, {"effective_rank": rank, "groups": groups}) for step in range(0, 300, 10)]
    assert bool(notices(Watch(), seen)) is alarm


def features(step: int, spread: float, rank: float, purity: float | None = 0.5, dimensions: float = 16) -> Observation:
    figures = {"feature_spread": spread, "effective_rank": rank, "dimensions": dimensions}
    figures |= {} if purity is None else {"kmeans_purity": purity}
    return Observation(step=step, term=FEATURES, figures=figures, by_class={})


def test_features_that_a_validation_finds_collapsed_are_warned_of_at_once_and_once() -> None:
    watch = Watch()
    seen = [features(step, *at) for step, at in ((99, (0.7, 9)), (199, (0.05, 9)), (299, (0.05, 2.5)))]
    assert notices(watch, seen) == [(199, "one_point", None, True), (299, "few_directions", None, True)]
    assert watch.active == [
        "since step 200 the network's features of all pixels have been nearly one point: they have collapsed, and say "
        "nothing of the image",
        "since step 300 the network's features have filled no more than 3 of 16 dimensions, and their clusters are not "
        "the classes, so nearly all that they could say is lost: they have collapsed",
    ]
    assert notices(watch, [features(399, 0.15, 3.5)]) == []  # neither bad nor good
    over = notices(watch, [features(499, 0.3, 5)])
    assert over == [(499, "one_point", None, False), (499, "few_directions", None, False)]
    assert watch.active == []


@pytest.mark.parametrize(
    ("rank", "purity", "dimensions", "alarm"),
    [
        (2.9, 0.6, 16, True),
        (3.1, 0.6, 16, False),
        (2.0, 0.95, 16, False),  # all about the classes
        (2.0, None, 16, True),
        (2.5, None, 8, False),  # there are not many
        (1.9, None, 8, True),
        (3.1, None, 512, False),
    ],
)
def test_few_directions_are_a_collapse_only_where_they_are_not_the_classes(
    rank: float, purity: float | None, dimensions: float, alarm: bool
) -> None:
    watch = Watch()
    assert bool(notices(watch, [features(99, 0.6, rank, purity, dimensions)])) is alarm
    assert all(("clusters" in sentence) == (purity is not None) for sentence in watch.active)


@pytest.mark.parametrize(
    ("rank", "spread", "purity", "dimensions"),
    [
        (14.2, 0.78, 0.33, 16),  # random weights
        (13.7, 0.80, 0.63, 16),  # dual views after 200 steps, phantom radiographs
        (7.55, 0.69, 0.98, 16),  # supervised: radiographs, 1,711 steps
        (8.15, 0.70, 0.96, 16),  # hearts, 1,935 steps
        (6.54, 0.66, 0.98, 12),  # hippocampi in 3D, 2,882 steps
        (8.05, 0.65, 0.88, 12),  # after 20 steps
    ],
)
def test_features_as_healthy_networks_had_them_are_never_warned_of(
    rank: float, spread: float, purity: float, dimensions: float
) -> None:
    assert notices(Watch(), (features(step, spread, rank, purity, dimensions) for step in range(99, 999, 100))) == []


def test_what_is_watched_survives_json_and_goes_on_where_it_was() -> None:
    seen = [observed(step, anchors=(9, 0), labelled=(1, 1)) for step in range(0, 100, 10)]
    whole, part = Watch(), Watch()
    expected = notices(whole, seen)
    found = notices(part, seen[:3])
    resumed = Watch(json.loads(json.dumps(part.state)))
    found += notices(resumed, seen[3:])
    assert found == expected == [(50, "no_anchors", "heart", True)]
    assert notices(Watch(json.loads(json.dumps(resumed.state))), seen[-1:]) == []


# Contrasts that really train.


def trained(steps: int, *, collapse_from: int = 10_000) -> list[Notice]:
    """Free embeddings of points seen twice, under a contrast, or pulled to one point from a step on."""
    generator = torch.Generator().manual_seed(0)
    points = torch.arange(64).repeat(2)
    tags = Tags(point=points, klass=points % 2)
    embeddings = torch.randn(128, 16, generator=generator).requires_grad_()
    diagnostics, watch, found = Diagnostics(CLASSES), Watch(), list[Notice]()
    goal = torch.randn(16, generator=generator)
    for step in range(steps):
        diagnostics.begin(step)
        pixels = Pixels(embeddings=embeddings * 1.0, tags=tags)
        diagnostics.observe("contrast", pixels, PairRule(SamePoint()), labels=tags.need("klass"))
        unit = F.normalize(pixels.embeddings, dim=1)
        logits = (unit @ unit.T / 0.1).masked_fill(torch.eye(128, dtype=torch.bool), float("-inf"))
        loss = F.cross_entropy(logits, torch.arange(128).roll(64))
        if step >= collapse_from:
            loss = (pixels.embeddings - goal).square().sum()
        (gradient,) = torch.autograd.grad(loss, embeddings)
        with torch.no_grad():
            embeddings -= (0.05 if step >= collapse_from else 5.0) * gradient
        for seen in diagnostics.collect():
            found += watch.see(seen)
    return found


def test_a_contrast_that_trains_well_is_never_warned_of() -> None:
    assert trained(300) == []


def test_embeddings_that_shrink_to_a_constant_are_said_within_200_steps() -> None:
    found = trained(300, collapse_from=80)
    assert {notice.kind for notice in found} >= {"one_point", "few_directions"}
    assert all(80 < notice.step <= 280 for notice in found)


def test_pixels_the_contrast_is_not_about_may_be_hidden_from_the_watch() -> None:
    tags = Tags(klass=torch.ones(20, dtype=torch.int64))
    pixels = Pixels(embeddings=torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), tags=tags)
    found: dict[bool, list[Notice]] = {}
    for hidden in (False, True):
        diagnostics, watch, found[hidden] = Diagnostics(CLASSES), Watch(), []
        labels = torch.tensor([IGNORE if hidden else 0, 1])
        for step in range(0, 70, 10):
            diagnostics.begin(step)
            diagnostics.observe("contrast", pixels, PairRule(SameClass()), labels=labels)
            for seen in diagnostics.collect():
                found[hidden] += watch.see(seen)
    assert [(n.kind, n.klass) for n in found[False]] == [("no_anchors", "background")]
    assert found[True] == []
