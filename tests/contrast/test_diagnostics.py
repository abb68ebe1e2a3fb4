"""What the diagnostics report of a contrast, against counts by hand, and which published faults it would have shown."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.observation import Observation
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.relations import SameClass
from scantling.losses.contrastive import info_nce
from scantling.losses.pairs import PairBlock, Pairs
from scantling.shapes import IGNORE

CLASSES = ("background", "disc", "square")
N, DIM = 40, 8
SAME_CLASS = PairRule(SameClass())


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_pixels(n: int = N, *, seed: int = 0, classes: int = 3) -> Pixels:
    """Pixels of random classes, some unlabelled, some places empty."""
    return Pixels(
        embeddings=torch.randn(n, DIM, generator=draws(seed)).requires_grad_(),
        tags=Tags(
            klass=torch.randint(IGNORE, classes, (n,), generator=draws(seed + 1)),
            usable=torch.rand(n, generator=draws(seed + 2)) < 0.8,
        ),
    )


def of_class(klass: Tensor, embeddings: Tensor | None = None) -> Pixels:
    if embeddings is None:
        embeddings = torch.randn(len(klass), DIM, generator=draws(9)).requires_grad_()
    return Pixels(embeddings=embeddings, tags=Tags(klass=klass))


def seen(step: int = 0, every: int = 10) -> Diagnostics:
    diagnostics = Diagnostics(CLASSES, every=every)
    diagnostics.begin(step)
    return diagnostics


def only(observed: list[Observation]) -> Observation:
    (observation,) = observed
    return observation


def test_pixels_are_counted_as_by_hand() -> None:
    pixels, diagnostics = some_pixels(), seen()
    labels = torch.tensor([[0, 0], [IGNORE, 2]])
    diagnostics.observe("contrast", pixels, SAME_CLASS, labels=labels)
    found = only(diagnostics.collect())
    klass, usable = pixels.tags.need("klass").tolist(), pixels.tags.need("usable").tolist()
    rows = [i for i in range(N) if usable[i] and klass[i] != IGNORE]
    positives = {i: sum(klass[j] == klass[i] for j in rows if j != i) for i in rows}
    negatives = {i: sum(klass[j] != klass[i] for j in rows) for i in rows}
    assert found.step == 0
    assert found.term == "contrast"
    assert found.by_class["anchors"] == {
        name: sum(klass[i] == k and positives[i] > 0 for i in rows) for k, name in enumerate(CLASSES)
    }
    assert found.by_class["labelled"] == {"background": 1, "disc": 0, "square": 1}
    assert found.figures["anchors_in_all"] == sum(p > 0 for p in positives.values())
    assert found.figures["positives"] == pytest.approx(np.mean(list(positives.values())), rel=1e-5)
    assert found.figures["negatives"] == pytest.approx(np.mean(list(negatives.values())), rel=1e-5)
    assert found.figures["fewest_positives"] == min(positives.values())
    assert found.figures["fewest_negatives"] == min(negatives.values())
    assert found.figures["groups"] == pytest.approx(3)
    unit = F.normalize(pixels.embeddings.detach(), dim=1).double().numpy()[rows]
    assert found.figures["feature_std"] == pytest.approx(unit.std(axis=0).mean() * math.sqrt(DIM), rel=1e-4)
    share = np.linalg.svd(unit, compute_uv=False)
    share /= share.sum()
    assert found.figures["effective_rank"] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)
    distances = [((unit[a] - unit[b]) ** 2).sum() for a in range(len(rows)) for b in range(len(rows)) if a != b]
    assert found.figures["uniformity"] == pytest.approx(math.log(np.mean(np.exp(-2 * np.array(distances)))), rel=1e-4)
    of_positives = [
        ((unit[a] - unit[b]) ** 2).sum()
        for a, i in enumerate(rows)
        for b, j in enumerate(rows)
        if a != b and klass[i] == klass[j]
    ]
    assert found.figures["alignment"] == pytest.approx(np.mean(of_positives), rel=1e-4)


def test_an_anchor_is_one_that_has_a_positive_and_is_trusted() -> None:
    klass = torch.tensor([0, 0, 0, 1, 2, 2])
    tags = Tags(klass=klass, trust=torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0, 1.0]))
    pixels, diagnostics = Pixels(embeddings=torch.randn(6, DIM, generator=draws()), tags=tags), seen()
    diagnostics.observe("contrast", pixels, PairRule(SameClass(), trust=True))
    assert only(diagnostics.collect()).by_class["anchors"] == {"background": 2, "disc": 0, "square": 2}


def test_the_share_of_the_gradient_is_that_of_its_lengths_at_the_pixels() -> None:
    pixels, diagnostics = some_pixels(), seen()
    diagnostics.observe("contrast", pixels, SAME_CLASS)
    pairs = SAME_CLASS.pairs(pixels.tags)
    (1000 * info_nce(pixels.embeddings, None, pairs, temperature=0.2)).backward()
    found = only(diagnostics.collect())
    assert pixels.embeddings.grad is not None
    lengths, klass = pixels.embeddings.grad.norm(dim=1).tolist(), pixels.tags.need("klass").tolist()
    total = sum(length for length, k in zip(lengths, klass, strict=True) if k >= 0)
    for k, name in enumerate(CLASSES):
        own = sum(length for length, own in zip(lengths, klass, strict=True) if own == k)
        assert found.by_class["gradient_share"][name] == pytest.approx(own / total, rel=1e-4)
    assert sum(found.by_class["gradient_share"].values()) == pytest.approx(1)


def test_looking_changes_neither_the_gradient_nor_any_generator() -> None:
    gradients = []
    for measured in (True, False):
        pixels, diagnostics = some_pixels(5_000), seen(0 if measured else 3)
        before = torch.random.get_rng_state()
        diagnostics.observe("contrast", pixels, SAME_CLASS, labels=pixels.tags.need("klass"))
        info_nce(pixels.embeddings, None, SAME_CLASS.pairs(pixels.tags), temperature=0.2).backward()
        assert bool(diagnostics.collect()) is measured
        assert torch.equal(before, torch.random.get_rng_state())
        gradients.append(pixels.embeddings.grad)
    assert torch.equal(*gradients)


def test_between_the_measured_steps_nothing_is_asked() -> None:
    def forbidden(anchors: slice, keys: slice) -> PairBlock:
        raise AssertionError("a pair was asked for")

    pairs = Pairs(n_anchors=N, n_keys=N, block=forbidden, own=0)
    diagnostics = Diagnostics(CLASSES, every=10)
    diagnostics.observe("contrast", some_pixels(), pairs)  # before the first step
    for step in (1, 9, 11):
        diagnostics.begin(step)
        diagnostics.observe("contrast", some_pixels(), pairs)
        diagnostics.observe_prediction(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
        assert diagnostics.collect() == []
    diagnostics.begin(20)
    with pytest.raises(AssertionError, match="a pair was asked for"):
        diagnostics.observe("contrast", some_pixels(), pairs)


def test_parts_of_a_step_count_as_one() -> None:
    first, second = (some_pixels(seed=seed) for seed in (0, 30))
    diagnostics, singles = seen(), []
    for part in (first, second):
        diagnostics.observe("contrast", part, SAME_CLASS, labels=part.tags.need("klass"))
        part.embeddings.square().sum().backward()
    for part in (first, second):
        alone = seen()
        alone.observe("contrast", part, SAME_CLASS)
        singles.append(only(alone.collect()))
    found = only(diagnostics.collect())
    for name in CLASSES:
        assert found.by_class["anchors"][name] == sum(each.by_class["anchors"][name] for each in singles)
    assert found.figures["positives"] == pytest.approx(np.mean([each.figures["positives"] for each in singles]))
    assert found.figures["fewest_positives"] == min(each.figures["fewest_positives"] for each in singles)
    both = torch.cat([first.embeddings.grad, second.embeddings.grad])  # type: ignore[list-item]
    klass = torch.cat([first.tags.need("klass"), second.tags.need("klass")])
    lengths = torch.stack([both.norm(dim=1)[klass == k].sum() for k in range(3)])
    assert found.by_class["gradient_share"]["disc"] == pytest.approx(float(lengths[1] / lengths.sum()), rel=1e-5)


def test_several_steps_and_terms_are_kept_apart_until_they_are_collected() -> None:
    diagnostics = Diagnostics(CLASSES, every=1)
    for step in (0, 1):
        diagnostics.begin(step)
        diagnostics.observe("a", some_pixels(), SAME_CLASS)
        diagnostics.observe("b", some_pixels(), SAME_CLASS)
    assert [(each.step, each.term) for each in diagnostics.collect()] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert diagnostics.collect() == []


def test_a_step_that_is_undone_was_not_seen_and_its_hooks_are_gone() -> None:
    pixels, diagnostics = some_pixels(), seen()
    diagnostics.observe("contrast", pixels, SAME_CLASS)
    diagnostics.drop()
    assert not pixels.embeddings._backward_hooks
    assert diagnostics.collect() == []
    diagnostics.observe("contrast", pixels, SAME_CLASS)  # its step is over
    assert diagnostics.collect() == []


def test_a_copy_of_a_recipe_may_hold_diagnostics_that_have_seen_something() -> None:
    diagnostics, twin_pixels = seen(), some_pixels()
    diagnostics.observe("contrast", some_pixels(), SAME_CLASS)
    twin = copy.deepcopy(diagnostics)
    twin.drop()
    twin.observe("contrast", twin_pixels, SAME_CLASS)
    assert len(diagnostics.collect()) == 1


@pytest.mark.parametrize("n", [0, 1, 5])
def test_no_pixel_and_nobody_usable_give_counts_of_zero_and_no_figure_that_is_not_a_number(n: int) -> None:
    tags = Tags(klass=torch.zeros(n, dtype=torch.int64), usable=torch.zeros(n, dtype=torch.bool))
    pixels, diagnostics = Pixels(embeddings=torch.randn(n, DIM).requires_grad_(), tags=tags), seen()
    diagnostics.observe("contrast", pixels, SAME_CLASS)
    (pixels.embeddings.sum() * 0).backward()
    found = only(diagnostics.collect())
    assert found.by_class["anchors"] == dict.fromkeys(CLASSES, 0)
    assert found.figures["anchors_in_all"] == 0
    assert "gradient_share" not in found.by_class
    assert all(math.isfinite(value) for value in found.figures.values())


def test_half_precision_under_autocast_is_measured_like_single_precision() -> None:
    pixels = some_pixels(300)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        diagnostics, part = seen(), Pixels(embeddings=pixels.embeddings.detach().to(dtype), tags=pixels.tags)
        with torch.autocast("cpu", torch.bfloat16):
            diagnostics.observe("contrast", part, SAME_CLASS)
        found.append(only(diagnostics.collect()).figures)
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=0.01), name


def test_pairs_of_other_pixels_and_an_impossible_rhythm_are_refused() -> None:
    with pytest.raises(ValueError, match="got 40 anchors and 40 keys, but pairs of 20 and 20"):
        seen().observe("contrast", some_pixels(), SAME_CLASS.pairs(some_pixels(20).tags))
    with pytest.raises(ValueError, match="every must be at least 1"):
        Diagnostics(CLASSES, every=0)


def test_a_prediction_is_measured_by_its_foreground() -> None:
    logits = torch.zeros(1, 3, 2, 4)
    logits[0, 2, 0, :3] = 1
    labels = torch.tensor([[[0, 1, IGNORE, IGNORE], [0, 2, 0, 0]]])
    diagnostics = seen()
    diagnostics.observe_prediction(logits, labels)
    found = only(diagnostics.collect())
    assert found.figures == pytest.approx({"foreground_predicted": 3 / 8, "foreground_labelled": 2 / 6})


# Published faults, each put into a few lines.


def test_anchors_of_background_alone_show_as_classes_without_anchors() -> None:
    """A class must have more pixels in a view than foreground ever has, so background alone is drawn from."""
    labels = torch.zeros(28, 28, dtype=torch.int64)
    labels[3:9, 3:12] = 1  # 54 pixels, and eligible are more than 100
    labels[20:25, 20:26] = 2
    counts = torch.stack([(labels == k).sum() for k in range(3)])
    drawn = torch.cat([torch.full((85,), k) for k in range(3) if counts[k] > 100])
    pixels, diagnostics = of_class(drawn), seen()
    diagnostics.observe("contrast", pixels, SAME_CLASS, labels=labels)
    found = only(diagnostics.collect())
    assert found.by_class["anchors"] == {"background": 85, "disc": 0, "square": 0}
    assert found.by_class["labelled"] == dict.fromkeys(CLASSES, 1)


def test_rows_of_zeros_in_a_memory_show_as_places_that_hold_nothing() -> None:
    """A memory made for all classes of which background is never written: rows of zeros with a label."""
    klass = torch.arange(3).repeat_interleave(10)
    rows = torch.where(klass[:, None] == 0, 0.0, torch.randn(30, DIM, generator=draws()))
    bank = Pixels(embeddings=rows, tags=Tags(klass=klass, usable=torch.ones(30, dtype=torch.bool)))
    anchors, diagnostics = of_class(torch.zeros(12, dtype=torch.int64)), seen()
    diagnostics.observe("contrast", anchors, SAME_CLASS.pairs(anchors.tags, bank.tags), bank)
    found = only(diagnostics.collect())
    assert found.figures["bank_filled"] == pytest.approx(2 / 3)
    assert found.by_class["bank"] == pytest.approx({"background": 0, "disc": 1 / 3, "square": 1 / 3})
    assert found.figures["positives"] == 10
    assert found.figures["alignment"] == pytest.approx(2)  # nothing is near a zero


def test_a_sum_that_is_divided_in_its_own_loop_shows_as_gradient_of_the_last_class_alone() -> None:
    """The running sum is divided at every pair, so the first pair weighs 1/18^3 and the last 1/18."""
    pixels, diagnostics = of_class(torch.arange(3).repeat_interleave(8)), seen()
    diagnostics.observe("contrast", pixels, SAME_CLASS)
    klass = pixels.tags.need("klass")
    loss = pixels.embeddings.new_zeros(())
    for k in range(3):
        others = Pixels(embeddings=pixels.embeddings[klass == k], tags=pixels.tags.pick(klass == k))
        loss = (loss + others.embeddings.square().sum()) / 18
    loss.backward()
    found = only(diagnostics.collect())
    assert found.by_class["anchors"] == dict.fromkeys(CLASSES, 8)
    assert found.by_class["gradient_share"]["square"] == pytest.approx(0.945, abs=0.03)
    assert found.by_class["gradient_share"]["background"] < 0.005
    assert found.figures["gradient_spread"] == pytest.approx(0.33, abs=0.08)
