"""Oracles: the formulas of the paper, one pair of pixels at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scantling.losses.propagation import near_consistency, near_contrast, propagated

BATCH, FIRST, SECOND, WIDTH = 3, 5, 6, 4


def maps(seed: int, n: int, *, width: int = WIDTH) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(BATCH, n, width)))


def near_pairs() -> torch.Tensor:
    """Some pairs; none of image 1, and pixel 0 of image 0 has none."""
    near = torch.from_numpy(np.random.default_rng(7).random((BATCH, FIRST, SECOND)) < 0.3)
    near[1] = False
    near[0, 0] = False
    near[0, 1, 2] = near[2, 0, 0] = True
    return near


def cosine(u, v) -> float:
    return float(u @ v / math.sqrt(float(u @ u) * float(v @ v)))


@pytest.mark.parametrize("sharpness", [1.0, 2.0, 3.5])
def test_propagation_is_the_sum_over_all_pixels_weighed_by_positive_cosines(sharpness):
    features, values = maps(0, FIRST), maps(1, FIRST, width=3)
    usable = torch.tensor([[True, True, False, True, True]] * BATCH)
    actual = propagated(features, values, usable=usable, sharpness=sharpness)
    everyone = propagated(features, values, sharpness=sharpness)
    for b in range(BATCH):
        for i in range(FIRST):
            weights = [max(cosine(features[b, i], features[b, j]), 0.0) ** sharpness for j in range(FIRST)]
            expected = sum(w * values[b, j] for j, w in enumerate(weights) if j != 2)
            torch.testing.assert_close(actual[b, i], expected)
            torch.testing.assert_close(everyone[b, i], expected + weights[2] * values[b, 2])


def consistency_by_loops(first, second, near) -> float:
    images = []
    for b in range(BATCH):
        pairs = [(i, j) for i in range(FIRST) for j in range(SECOND) if near[b, i, j]]
        if pairs:
            images.append(sum(1 - cosine(first[b, i], second[b, j]) for i, j in pairs) / len(pairs))
    return sum(images) / len(images)


def contrast_by_loops(first, second, near, usable, temperature) -> float:
    images = []
    for b in range(BATCH):
        anchors = []
        for i in range(FIRST):
            scores = {
                j: math.exp(cosine(first[b, i], second[b, j]) / temperature) for j in range(SECOND) if usable[b, j]
            }
            positives = [score for j, score in scores.items() if near[b, i, j]]
            if positives:
                anchors.append(-math.log(sum(positives) / sum(scores.values())))
        if anchors:
            images.append(sum(anchors) / len(anchors))
    return sum(images) / len(images)


def test_consistency_is_the_mean_over_the_near_pairs_of_each_image_then_over_images():
    first, second, near = maps(0, FIRST), maps(1, SECOND), near_pairs()
    expected = consistency_by_loops(first, second, near)
    assert near_consistency(first, second, near).item() == pytest.approx(expected, rel=1e-12)


def test_near_contrast_puts_all_near_pixels_of_an_anchor_into_one_logarithm():
    first, second, near = maps(0, FIRST), maps(1, SECOND), near_pairs()
    usable = torch.ones(BATCH, SECOND, dtype=torch.bool)
    usable[:, 3] = False
    for mask, given in ((usable, usable), (torch.ones_like(usable), None)):
        actual = near_contrast(first, second, near, usable=given, temperature=0.3)
        assert actual.item() == pytest.approx(contrast_by_loops(first, second, near, mask, 0.3), rel=1e-12)


def test_gradients_of_both_equal_finite_differences():
    first, second, near = maps(0, FIRST).requires_grad_(), maps(1, SECOND).requires_grad_(), near_pairs()
    usable = torch.ones(BATCH, SECOND, dtype=torch.bool)
    usable[2, 4:] = False
    assert torch.autograd.gradcheck(lambda a, b: near_consistency(a, b, near), (first, second))
    assert torch.autograd.gradcheck(
        lambda a, b: near_contrast(a, b, near, usable=usable, temperature=0.3), (first, second)
    )


def test_without_any_near_pair_both_are_zero_with_zero_gradients():
    first, second = maps(0, FIRST).requires_grad_(), maps(1, SECOND).requires_grad_()
    none = torch.zeros(BATCH, FIRST, SECOND, dtype=torch.bool)
    unusable = torch.zeros(BATCH, SECOND, dtype=torch.bool)
    for loss in (
        near_consistency(first, second, none),
        near_contrast(first, second, none, temperature=0.3),
        near_contrast(first, second, near_pairs(), usable=unusable, temperature=0.3),
    ):
        assert loss.item() == 0
        for gradient in torch.autograd.grad(loss, (first, second)):
            assert not gradient.any()


def test_two_shares_of_a_batch_sum_to_the_loss_of_the_whole():
    first, second, near = maps(0, FIRST), maps(1, SECOND), near_pairs()

    def half(rows: slice, loss):
        """The sums that one process gives, and the loss as it sees it when the other's are added."""
        seen = []
        loss(first[rows], second[rows], near[rows], sum_over_processes=lambda x: seen.append(x) or x)
        return seen[0]

    def contrast(*given, **options):
        return near_contrast(*given, temperature=0.3, **options)

    for loss in (near_consistency, contrast):
        total, count = half(slice(0, 1), loss) + half(slice(1, 3), loss)
        torch.testing.assert_close(total / count, loss(first, second, near))


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        near_contrast(maps(0, FIRST), maps(1, SECOND), near_pairs(), temperature=0.0)
