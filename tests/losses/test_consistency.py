"""Agreement between predictions against its definitions written as loops, and where there is nothing to agree on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scantling.losses.consistency import (
    hard_cross_entropy,
    hard_targets,
    kl_divergence,
    logit_mse,
    prediction_entropy,
    probability_mse,
    soft_cross_entropy,
)
from scantling.shapes import IGNORE

SOFT: dict[str, Callable[..., Tensor]] = {
    "soft cross-entropy": soft_cross_entropy,
    "KL": kl_divergence,
    "probabilities": probability_mse,
    "logits": logit_mse,
    "entropy": lambda logits, _, *rest, **more: prediction_entropy(logits, *rest, **more),
}
SHAPES = [(3, 4), (2, 3, 2)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(
    seed: int = 0, *, shape: tuple[int, ...] = (3, 4), batch: int = 2, classes: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, the logits of a teacher, weights and label maps."""
    generator = seeded(seed)
    logits, other = (
        2 * torch.randn((batch, classes, *shape), generator=generator, dtype=torch.float64) for _ in range(2)
    )
    weights = torch.randint(0, 4, (batch, *shape), generator=generator).double() / 2
    label_maps = torch.randint(IGNORE, classes, (batch, *shape), generator=generator)
    return logits, other, weights, label_maps


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def term(name: str, logits: list[float], other: list[float]) -> float:
    """The definition at one pixel; `other` are the teacher's logits."""
    p, t = softmax(logits), softmax(other)
    match name:
        case "soft cross-entropy":
            return -sum(b * math.log(a) for a, b in zip(p, t, strict=True))
        case "KL":
            return sum(b * math.log(b / a) for a, b in zip(p, t, strict=True))
        case "probabilities":
            return sum((a - b) ** 2 for a, b in zip(p, t, strict=True)) / len(p)
        case "logits":
            return sum((a - b) ** 2 for a, b in zip(logits, other, strict=True)) / len(p)
        case "entropy":
            return -sum(a * math.log(a) for a in p)
    raise AssertionError(name)


def targets(name: str, other: Tensor) -> Tensor:
    return other if name == "logits" else other.softmax(dim=1)


def by_loops(name: str, logits: Tensor, other: Tensor, weights: Tensor, label_maps: Tensor | None) -> float:
    total = count = 0.0
    for b in range(len(logits)):
        x, y, w = logits[b].flatten(1).T.tolist(), other[b].flatten(1).T.tolist(), weights[b].flatten().tolist()
        labels = [0] * len(w) if label_maps is None else label_maps[b].flatten().tolist()
        for i, weight in enumerate(w):
            if labels[i] != IGNORE:
                total += weight * term(name, x[i], y[i])
                count += weight
    return total / count


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_each_loss_equals_its_definition(name: str, shape: tuple[int, ...], masked: bool) -> None:
    logits, other, weights, label_maps = make(1, shape=shape)
    more: dict[str, Any] = {"label_maps": label_maps} if masked else {}
    expected = by_loops(name, logits, other, weights, label_maps if masked else None)
    assert SOFT[name](logits, targets(name, other), weights, **more).item() == pytest.approx(expected, rel=1e-10)
    expected = by_loops(name, logits, other, torch.ones_like(weights), None)
    assert SOFT[name](logits, targets(name, other)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_with_hard_targets_equals_its_definition(shape: tuple[int, ...]) -> None:
    logits, other, weights, label_maps = make(2, shape=shape)
    total = count = 0.0
    for b in range(2):
        x, labels = logits[b].flatten(1).T.tolist(), label_maps[b].flatten().tolist()
        for i, weight in enumerate(weights[b].flatten().tolist()):
            if labels[i] != IGNORE:
                total -= weight * math.log(softmax(x[i])[labels[i]])
                count += weight
    assert hard_cross_entropy(logits, label_maps, weights).item() == pytest.approx(total / count, rel=1e-10)
    # with certain targets the soft one is the same
    labels = other.argmax(dim=1)
    certain = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    hard = hard_cross_entropy(logits, labels, weights)
    assert hard.item() == pytest.approx(soft_cross_entropy(logits, certain, weights).item(), rel=1e-12)
    assert hard.item() == pytest.approx(kl_divergence(logits, certain, weights).item(), rel=1e-12)


def test_hard_targets_are_the_most_probable_class_where_it_is_probable_enough() -> None:
    probs = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.95, 0.05], [0.9, 0.1], [math.nan, math.nan]]).T[None]
    assert hard_targets(probs).tolist() == [[1, 0, 0, 0, IGNORE]]
    assert hard_targets(probs, threshold=0.9).tolist() == [[IGNORE, IGNORE, 0, 0, IGNORE]]
    assert not hard_targets(probs.requires_grad_()).requires_grad


def losses() -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Every loss as a function of the logits and of the teacher's logits."""
    soft = [
        lambda x, t, name=name, loss=loss: loss(x, targets(name, t), *make(3)[2:3], label_maps=make(3)[3])
        for name, loss in SOFT.items()
    ]
    return [*soft, lambda x, t: hard_cross_entropy(x, hard_targets(t.softmax(dim=1), threshold=0.5), make(3)[2])]


@pytest.mark.parametrize("number", range(len(SOFT) + 1))
def test_gradients_equal_finite_differences_and_none_reaches_the_targets(number: int) -> None:
    loss = losses()[number]
    logits, other, *_ = make(3)
    logits.requires_grad_()
    other.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, other.detach()), logits)
    value = loss(logits, other)
    found = torch.autograd.grad(value, (logits, other), allow_unused=True)
    assert found[0].abs().max() > 1e-4
    assert found[1] is None


@pytest.mark.parametrize("number", range(len(SOFT) + 1))
def test_pixels_that_do_not_count_may_hold_anything_and_get_no_gradient(number: int) -> None:
    loss = losses()[number]
    logits, other, weights, label_maps = make(3)
    silent = (weights == 0) | (label_maps == IGNORE) if number < len(SOFT) else weights == 0
    assert silent.any()
    results = []
    for value in (0.0, math.nan, math.inf):
        x = torch.where(silent.unsqueeze(1), value, logits).requires_grad_()
        t = torch.where(silent.unsqueeze(1), value, other)
        result = loss(x, t)
        result.backward()
        assert x.grad is not None
        assert (x.grad.movedim(1, -1)[silent] == 0).all()
        results.append((result.item(), x.grad))
    for result, gradient in results[1:]:
        assert result == results[0][0]
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("number", range(len(SOFT) + 1))
def test_where_nothing_counts_the_loss_is_zero_with_a_gradient_of_zero(number: int) -> None:
    logits, other, weights, label_maps = make(3)
    logits.requires_grad_()
    nowhere = torch.zeros_like(weights)
    unknown = torch.full_like(label_maps, IGNORE)
    if number < len(SOFT):
        name = list(SOFT)[number]
        values = [
            SOFT[name](logits, targets(name, other), nowhere),
            SOFT[name](logits, targets(name, other), label_maps=unknown),
        ]
    else:
        values = [hard_cross_entropy(logits, label_maps, nowhere), hard_cross_entropy(logits, unknown)]
    for value in values:
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, logits)
        assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", range(len(SOFT) + 1))
def test_half_precision_logits_of_ten_thousand_give_what_double_precision_gives(
    number: int, dtype: torch.dtype
) -> None:
    logits, other, _, label_maps = make(4, shape=(20, 20))
    logits, other = (logits * 2e3).to(dtype), (other * 2e3).to(dtype)
    assert logits.abs().max() > 1e4
    logits.requires_grad_()
    name = list(SOFT)[number] if number < len(SOFT) else ""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if name:
            actual = SOFT[name](logits, targets(name, other))
            expected = SOFT[name](logits.detach().double(), targets(name, other.double()))
        else:
            actual = hard_cross_entropy(logits, label_maps)
            expected = hard_cross_entropy(logits.detach().double(), label_maps)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=1e-2 if name else 1e-5, abs=1e-6)
    (gradient,) = torch.autograd.grad(actual, logits)
    assert gradient.isfinite().all()


def test_sums_are_made_in_single_precision() -> None:
    """2^12 pixels of 1/3 each: half precision stops counting long before."""
    logits = torch.zeros(1, 3, 64, 64, dtype=torch.float16)
    target = torch.zeros(1, 3, 64, 64, dtype=torch.float16)
    target[:, 0] = 1
    weights = torch.ones(1, 64, 64, dtype=torch.float16)
    assert soft_cross_entropy(logits, target, weights).item() == pytest.approx(math.log(3), rel=1e-6)
    assert prediction_entropy(logits, weights).item() == pytest.approx(math.log(3), rel=1e-6)
    assert probability_mse(logits, target, weights).item() == pytest.approx((4 / 9 + 2 / 9) / 3, rel=1e-6)


def test_agreement_is_zero_where_predictions_agree_and_entropy_where_they_are_sure() -> None:
    logits, *_ = make(5)
    for loss in (kl_divergence, probability_mse):
        assert loss(logits, logits.softmax(dim=1)).item() == pytest.approx(0, abs=1e-14)
    assert logit_mse(logits, logits).item() == 0
    assert probability_mse(logits + 3, logits.softmax(dim=1)).item() == pytest.approx(0, abs=1e-14)
    assert logit_mse(logits + 3, logits).item() == pytest.approx(9)
    assert prediction_entropy(1e4 * logits).item() == pytest.approx(0, abs=1e-6)
    assert soft_cross_entropy(logits, logits.softmax(dim=1)).item() == pytest.approx(prediction_entropy(logits).item())


def test_a_normalised_entropy_is_one_where_all_classes_are_as_likely() -> None:
    logits = torch.zeros(1, 5, 3, 3)
    assert prediction_entropy(logits).item() == pytest.approx(math.log(5))
    assert prediction_entropy(logits, normalised=True).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="needs two classes or more"):
        prediction_entropy(logits[:, :1], normalised=True)


def test_cross_entropy_and_divergence_have_the_same_gradient() -> None:
    logits, other, weights, _ = make(6)
    logits.requires_grad_()
    probs = other.softmax(dim=1)
    (one,) = torch.autograd.grad(soft_cross_entropy(logits, probs, weights), logits)
    (two,) = torch.autograd.grad(kl_divergence(logits, probs, weights), logits)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["probabilities", "logits"])
def test_both_ways_round_a_squared_difference_has_the_gradient_of_not_detaching(name: str) -> None:
    first, second, *_ = make(7)
    first.requires_grad_()
    second.requires_grad_()
    loss = SOFT[name]
    both = loss(first, targets(name, second)) + loss(second, targets(name, first))
    plain = (targets(name, first) - targets(name, second)).square().mean()
    assert both.item() == pytest.approx(2 * plain.item(), rel=1e-12)
    for one, other in zip(*(torch.autograd.grad(x, (first, second)) for x in (both, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_scaling_all_weights_changes_nothing_and_doubling_one_counts_it_twice() -> None:
    logits, other, _, _ = make(8, shape=(3,), batch=1)
    probs = other.softmax(dim=1)
    weights = torch.tensor([[1.0, 2.0, 1.0]], dtype=torch.float64)
    plain = soft_cross_entropy(logits, probs, weights)
    assert soft_cross_entropy(logits, probs, 7 * weights).item() == pytest.approx(plain.item(), rel=1e-12)
    twice = [0, 1, 1, 2]
    assert soft_cross_entropy(logits[..., twice], probs[..., twice]).item() == pytest.approx(plain.item(), rel=1e-12)
