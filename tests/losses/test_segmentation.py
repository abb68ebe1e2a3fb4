"""Cross-entropy and Dice against the definitions written as loops, and where labels are odd or absent."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scantling.losses.segmentation import (
    cross_entropy,
    deep_supervision,
    dice_and_cross_entropy,
    dice_loss,
    nearest,
    weight_sum,
)
from scantling.shapes import IGNORE

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def make_batch(
    seed: int = 0,
    *,
    batch: int = 3,
    klass: int = 4,
    size: tuple[int, ...] = (3, 4),
    partial: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(scale=2, size=(batch, klass, *size))).to(dtype)
    label_maps = torch.from_numpy(rng.integers(IGNORE, klass, size=(batch, *size)).astype(np.int8))
    weights = torch.from_numpy(rng.choice([0, 0.5, 1, 2], size=(batch, *size))).to(dtype)
    annotated = torch.ones(batch, klass, dtype=torch.bool)
    if partial:
        annotated[0, 1] = annotated[-1, 2] = annotated[-1, 3] = False
    return logits, label_maps, weights, annotated


def pixels(batch: Batch) -> list[tuple[int, list[float], int, float, list[bool]]]:
    """(sample, probabilities, label, weight, annotated) of every pixel that counts."""
    logits, label_maps, weights, annotated = (
        part.tolist() for part in (t.flatten(2) if t.ndim > 2 and i == 0 else t.flatten(1) for i, t in enumerate(batch))
    )
    found = []
    for b, labels in enumerate(label_maps):
        for i, label in enumerate(labels):
            if label == IGNORE or not annotated[b][label]:
                continue
            powers = [math.exp(klass[i]) for klass in logits[b]]
            probs = [power / sum(powers) for power in powers]
            found.append((b, probs, label, weights[b][i], annotated[b]))
    return found


def cross_entropy_by_loops(batch: Batch) -> float:
    total = count = 0.0
    for _, probs, label, weight, annotated in pixels(batch):
        prob = probs[label]
        if label == 0:
            prob += sum(p for p, known in zip(probs[1:], annotated[1:], strict=True) if not known)
        total -= weight * math.log(prob)
        count += weight
    return total / count


def dice_by_loops(batch: Batch, *, per_sample: bool) -> float:
    sums: dict[tuple[int, int], list[float]] = {}
    for b, probs, label, weight, annotated in pixels(batch):
        for klass in range(1, len(probs)):
            if annotated[klass]:
                entry = sums.setdefault((b if per_sample else 0, klass), [0.0, 0.0, 0.0])
                entry[0] += weight * probs[klass] * (label == klass)
                entry[1] += weight * probs[klass]
                entry[2] += weight * (label == klass)
    losses = [1 - (2 * o + 1e-5) / (p + g + 1e-5) for o, p, g in sums.values() if g > 0]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("partial", [False, True])
def test_cross_entropy_equals_its_definition(seed: int, partial: bool) -> None:
    batch = make_batch(seed, partial=partial)
    assert cross_entropy(*batch).item() == pytest.approx(cross_entropy_by_loops(batch), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_dice_equals_its_definition(seed: int, partial: bool, per_sample: bool) -> None:
    batch = make_batch(seed, partial=partial)
    expected = dice_by_loops(batch, per_sample=per_sample)
    assert dice_loss(*batch, per_sample=per_sample).item() == pytest.approx(expected, rel=1e-12)


def test_both_losses_take_volumes() -> None:
    batch = make_batch(size=(2, 3, 2))
    assert cross_entropy(*batch).item() == pytest.approx(cross_entropy_by_loops(batch), rel=1e-12)
    assert dice_loss(*batch).item() == pytest.approx(dice_by_loops(batch, per_sample=False), rel=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_shared_softmax_gives_both_losses_and_their_gradients_to_the_bit(per_sample: bool) -> None:
    logits, *rest = make_batch(1)
    logits.requires_grad_()
    both = dice_and_cross_entropy(logits, *rest, per_sample=per_sample)
    apart = dice_loss(logits, *rest, per_sample=per_sample), cross_entropy(logits, *rest)
    for together, alone in zip(both, apart, strict=True):
        assert together.item() == alone.item()
        (first,) = torch.autograd.grad(together, logits, retain_graph=True)
        (second,) = torch.autograd.grad(alone, logits, retain_graph=True)
        assert torch.equal(first, second)


@pytest.mark.parametrize("partial", [False, True])
def test_gradients_equal_finite_differences(partial: bool) -> None:
    logits, *rest = make_batch(2, batch=2, klass=4, size=(3,), partial=partial)
    logits.requires_grad_()
    losses: list[Callable[[Tensor], Tensor]] = [
        lambda x: cross_entropy(x, *rest),
        lambda x: cross_entropy(x, *rest, normaliser=3.0),
        lambda x: dice_loss(x, *rest),
        lambda x: dice_loss(x, *rest, per_sample=True, smoothing=1.0),
    ]
    for loss in losses:
        assert torch.autograd.gradcheck(loss, logits)


def test_a_pixel_of_unknown_label_or_of_weight_zero_gives_exactly_no_gradient() -> None:
    logits, label_maps, weights, annotated = make_batch(3, dtype=torch.float32)
    silent = (label_maps == IGNORE) | (weights == 0)
    silent |= ~torch.stack([annotated[b][label_maps[b].long().clamp(min=0)] for b in range(len(annotated))])
    assert silent.any()
    assert not silent.all()
    for loss in (dice_loss, cross_entropy):
        x = logits.clone().requires_grad_()
        loss(x, label_maps, weights, annotated).backward()
        norms = x.grad.norm(dim=1)
        assert (norms[silent] == 0).all()
        assert (norms[~silent] > 0).any()


def test_unknown_pixels_do_not_change_the_value() -> None:
    logits, label_maps, weights, annotated = make_batch(4)
    other = logits.clone()
    other.movedim(1, -1)[label_maps == IGNORE] += 5 * torch.randn(4, generator=torch.Generator().manual_seed(0))
    for loss in (dice_loss, cross_entropy):
        assert loss(other, label_maps, weights, annotated).item() == loss(logits, label_maps, weights, annotated).item()


def test_background_stands_for_the_classes_nobody_looked_for() -> None:
    # probabilities 1/8, 2/8, 5/8; only background and class 1 were looked for
    logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(1, 1, 3).movedim(-1, 1).contiguous()
    annotated = torch.tensor([[True, True, False]])
    expected = {0: -math.log(6 / 8), 1: -math.log(2 / 8), 2: 0.0}
    for label, value in expected.items():
        loss = cross_entropy(logits, torch.tensor([[label]]), torch.ones(1, 1), annotated)
        assert loss.item() == pytest.approx(value, abs=1e-6)


def test_a_merged_background_pulls_no_probability_from_the_classes_it_may_be() -> None:
    logits = torch.zeros(1, 3, 1, requires_grad=True)
    cross_entropy(logits, torch.tensor([[0]]), torch.ones(1, 1), torch.tensor([[True, True, False]])).backward()
    # d(-log(p0 + p2)): p1 is pushed down by 1/3, the other two share the gain equally
    assert logits.grad.flatten().tolist() == pytest.approx([-1 / 6, 1 / 3, -1 / 6])


def test_a_background_that_may_be_any_class_costs_nothing() -> None:
    logits, label_maps, weights, annotated = make_batch(16, size=(32, 32), dtype=torch.float32)
    annotated[:, 1:] = False
    for pixel in range(32):  # one at a time, so that no pixel's rounding hides another's
        alone = torch.full_like(label_maps, IGNORE)
        alone[:, pixel, pixel] = 0
        assert 0 <= cross_entropy(logits, alone, torch.ones_like(weights), annotated).item() < 1e-6


def test_dice_leaves_a_class_out_of_the_samples_in_which_it_was_not_looked_for() -> None:
    # one pixel a sample, p = (1/2, 1/4, 1/4); class 2 is unknown in the first sample
    logits = torch.tensor([2.0, 1.0, 1.0]).log().reshape(1, 3, 1).repeat(2, 1, 1)
    label_maps, annotated = torch.tensor([[1], [2]]), torch.tensor([[True, True, False], [True, True, True]])
    # class 1: overlap 1/4, predicted 1/4 + 1/4, labelled 1; class 2: overlap 1/4, predicted 1/4, labelled 1
    expected = ((1 - 0.5 / 1.5) + (1 - 0.5 / 1.25)) / 2
    loss = dice_loss(logits, label_maps, torch.ones(2, 1), annotated)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_without_a_foreground_pixel_dice_is_exactly_zero_with_zero_gradient(per_sample: bool) -> None:
    logits, label_maps, weights, annotated = make_batch(5, dtype=torch.float32)
    logits.requires_grad_()
    loss = dice_loss(logits, torch.zeros_like(label_maps), weights, annotated, per_sample=per_sample)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", ["all unknown", "all weights zero", "nothing looked for"])
def test_without_a_labelled_pixel_both_losses_are_exactly_zero_with_zero_gradient(kind: str) -> None:
    logits, label_maps, weights, annotated = make_batch(6, dtype=torch.float32)
    logits.requires_grad_()
    if kind == "all unknown":
        label_maps = torch.full_like(label_maps, IGNORE)
    elif kind == "all weights zero":
        weights = torch.zeros_like(weights)
    else:
        annotated = torch.zeros_like(annotated)
    for loss in (
        *dice_and_cross_entropy(logits, label_maps, weights, annotated),
        dice_loss(logits, label_maps, weights, annotated, per_sample=True),
        cross_entropy(logits, label_maps, weights, annotated, normaliser=torch.zeros(())),
    ):
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert loss.item() == 0
        assert (gradient == 0).all()


def test_a_single_labelled_pixel_is_enough() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    label_maps = torch.full((1, 4, 4), IGNORE)
    label_maps[0, 2, 1] = 1
    dice, entropy = dice_and_cross_entropy(logits, label_maps, torch.ones(1, 4, 4), torch.ones(1, 2, dtype=torch.bool))
    assert entropy.item() == pytest.approx(math.log(2))
    assert dice.item() == pytest.approx(1 - 1 / 1.5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("partial", [False, True])
def test_logits_up_to_ten_thousand_give_finite_losses_and_gradients(dtype: torch.dtype, partial: bool) -> None:
    logits, label_maps, weights, annotated = make_batch(7, partial=partial, dtype=torch.float32)
    extreme = (logits.sign() * 1e4).to(dtype).requires_grad_()
    dice, entropy = dice_and_cross_entropy(extreme, label_maps, weights, annotated)
    assert dice.dtype == entropy.dtype == torch.float32
    assert 0 <= dice.item() <= 1
    assert 0 <= entropy.item() <= 2.1e4
    (dice + entropy).backward()
    assert extreme.grad.isfinite().all()


def test_autocast_does_not_coarsen_the_sums() -> None:
    batch = make_batch(8, size=(64, 64), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dice_and_cross_entropy(*batch)
    outside = dice_and_cross_entropy(*batch)
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype == torch.float32
        assert a.item() == pytest.approx(b.item(), rel=1e-6)


def test_a_million_pixels_are_summed_without_losing_any() -> None:
    logits, label_maps, weights, annotated = make_batch(
        9, batch=1, size=(1024, 1024), partial=False, dtype=torch.float32
    )
    single = dice_and_cross_entropy(logits, label_maps, weights, annotated)
    double = dice_and_cross_entropy(logits.double(), label_maps, weights.double(), annotated)
    for a, b in zip(single, double, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=2e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpu_gives_the_losses_and_gradients_of_the_cpu(dtype: torch.dtype) -> None:
    logits, *labelled = make_batch(17, size=(32, 32), dtype=torch.float32)
    logits = logits.to(dtype)
    found = []
    for device in ("cpu", "cuda"):
        x = logits.to(device, copy=True).requires_grad_()
        dice, entropy = dice_and_cross_entropy(x, *(part.to(device) for part in labelled))
        (dice + entropy).backward()
        found.append((dice.cpu(), entropy.cpu(), x.grad.cpu()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3 if dtype == torch.float16 else 1e-5, atol=1e-7)


def test_every_integer_type_of_label_gives_the_same_loss() -> None:
    logits, label_maps, weights, annotated = make_batch(10)
    values = {
        dice_and_cross_entropy(logits, label_maps.to(dtype), weights, annotated)
        for dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
    }
    assert len({(dice.item(), entropy.item()) for dice, entropy in values}) == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50), factor=st.floats(0.1, 10))
def test_neither_a_shift_of_all_logits_nor_a_factor_on_all_weights_changes_a_loss(
    seed: int, shift: float, factor: float
) -> None:
    logits, label_maps, weights, annotated = make_batch(seed)
    before = dice_and_cross_entropy(logits, label_maps, weights, annotated, smoothing=0.0)
    after = dice_and_cross_entropy(logits + shift, label_maps, weights * factor, annotated, smoothing=0.0)
    for a, b in zip(before, after, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-9, abs=1e-12)


def test_the_normaliser_replaces_the_sum_of_the_weights_that_count() -> None:
    batch = make_batch(11)
    own = weight_sum(*batch[1:])
    assert own.item() == pytest.approx(sum(weight for _, _, _, weight, _ in pixels(batch)))
    total = cross_entropy(*batch).item() * own.item()
    assert cross_entropy(*batch, normaliser=own).item() == pytest.approx(cross_entropy(*batch).item())
    assert cross_entropy(*batch, normaliser=7.0).item() == pytest.approx(total / 7)


@pytest.mark.parametrize(("old", "new"), [(8, 4), (8, 2), (9, 3), (12, 1), (5, 2), (7, 4), (6, 6)])
def test_coarser_labels_are_those_of_the_nearest_pixel_centre(old: int, new: int) -> None:
    maps = torch.arange(old).reshape(1, old, 1).repeat(2, 1, 3)
    expected = []
    for j in range(new):
        centre = (j + 0.5) * old / new - 0.5
        expected.append(min(range(old), key=lambda i, centre=centre: (round(abs(i - centre), 9), i)))
    assert nearest(maps, (new, 3))[1, :, 2].tolist() == expected


def test_deep_supervision_halves_the_weight_with_each_resolution() -> None:
    logits, label_maps, weights, annotated = make_batch(12, size=(8, 8))
    coarser = [make_batch(seed, size=(size, size))[0] for seed, size in ((13, 4), (14, 2))]
    terms = deep_supervision(dice_and_cross_entropy, [logits, *coarser], label_maps, weights, annotated)
    # of two pixels equally near the coarse centre the lower one: 0, 2, 4, 6 and 1, 5
    levels = [
        (logits, label_maps, weights),
        (coarser[0], label_maps[:, ::2, ::2], weights[:, ::2, ::2]),
        (coarser[1], label_maps[:, 1::4, 1::4], weights[:, 1::4, 1::4]),
    ]
    alone = [dice_and_cross_entropy(*level, annotated) for level in levels]
    for i, term in enumerate(terms):
        expected = (4 * alone[0][i] + 2 * alone[1][i] + alone[2][i]) / 7
        assert term.item() == pytest.approx(expected.item(), rel=1e-12)


def test_deep_supervision_of_one_resolution_is_the_loss_itself() -> None:
    logits, *rest = make_batch(15)
    plain = dice_and_cross_entropy(logits, *rest)
    for given_logits in (logits, [logits]):
        terms = deep_supervision(dice_and_cross_entropy, given_logits, *rest)
        assert [term.item() for term in terms] == [term.item() for term in plain]
