"""Pixels against class means: the formulas, one pixel and one class at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from scantling.losses.prototypes import gaussian_prototype_cross_entropy, local_contrast, prototype_cross_entropy

K, D = 4, 3


def setting(seed: int = 0, n: int = 9) -> dict[str, Tensor]:
    """Pixels of known and unknown class, usable and not; the third class has no mean."""
    g = torch.Generator().manual_seed(seed)
    return {
        "anchors": torch.randn(n, D, generator=g, dtype=torch.float64),
        "klass": torch.randint(-1, K, (n,), generator=g),
        "means": torch.randn(K, D, generator=g, dtype=torch.float64),
        "variances": torch.rand(K, D, generator=g, dtype=torch.float64),
        "anchors_usable": torch.rand(n, generator=g) < 0.8,
        "classes_usable": torch.tensor([True, True, False, True]),
        "trust": torch.rand(n, generator=g, dtype=torch.float64),
    }


def unit(vector: Any) -> list[float]:
    values = [float(x) for x in vector]
    length = math.sqrt(sum(x * x for x in values))
    return [x / length for x in values]


def dot(left: Any, right: Any) -> float:
    return sum(float(a) * float(b) for a, b in zip(left, right, strict=True))


def by_loops(s: dict[str, Tensor], temperature: float, *, gaussian: bool, normalise: bool) -> float:
    total = weight = 0.0
    for i in range(len(s["klass"])):
        y = int(s["klass"][i])
        if y < 0 or not s["anchors_usable"][i] or not s["classes_usable"][y]:
            continue
        f = unit(s["anchors"][i]) if normalise else s["anchors"][i].tolist()
        exponents = {}
        for c in range(K):
            if s["classes_usable"][c]:
                mean = unit(s["means"][c]) if normalise and not gaussian else s["means"][c]
                exponents[c] = dot(f, mean) / temperature
        own = exponents[y]
        if gaussian:
            for c in exponents:
                exponents[c] += dot([x * x for x in f], s["variances"][c]) / (2 * temperature**2)
        term = math.log(sum(math.exp(x) for x in exponents.values())) - own
        total += float(s["trust"][i]) * term
        weight += float(s["trust"][i])
    return total / weight


def loss_of(s: dict[str, Tensor], *, gaussian: bool, temperature: float, normalise: bool = True) -> Tensor:
    statistics = (s["means"], s["variances"]) if gaussian else (s["means"],)
    loss = gaussian_prototype_cross_entropy if gaussian else prototype_cross_entropy
    return loss(
        s["anchors"], s["klass"], *statistics, temperature=temperature, normalise=normalise,
        anchors_usable=s["anchors_usable"], classes_usable=s["classes_usable"], trust=s["trust"],
    )  # fmt: skip


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_losses_equal_their_definitions(gaussian: bool, normalise: bool, temperature: float) -> None:
    s = setting()
    found = loss_of(s, gaussian=gaussian, temperature=temperature, normalise=normalise)
    wanted = by_loops(s, temperature, gaussian=gaussian, normalise=normalise)
    assert found.item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("gaussian", [True, False])
def test_their_gradients_are_right_and_zero_where_nothing_counts(gaussian: bool) -> None:
    s = setting(1, n=6)
    names = ["anchors", "means"] + ["variances"] * gaussian
    inputs = tuple(s[name].requires_grad_() for name in names)

    def loss(*tensors: Tensor) -> Tensor:
        return loss_of({**s, **dict(zip(names, tensors, strict=True))}, gaussian=gaussian, temperature=0.4)

    assert torch.autograd.gradcheck(loss, inputs)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    counted = s["anchors_usable"] & (s["klass"] >= 0) & s["classes_usable"][s["klass"].clamp(min=0)]
    assert 0 < counted.sum() < 6
    assert not gradients[0][~counted].any()
    assert gradients[0][counted].any(dim=1).all()
    assert not gradients[1][2].any()


def test_with_one_key_of_each_class_and_no_variance_the_gaussian_form_is_the_softmax_of_prototypes() -> None:
    s = setting(2)
    s["means"] = torch.nn.functional.normalize(s["means"], dim=1)
    s["variances"] = torch.zeros_like(s["variances"])
    gaussian = loss_of(s, gaussian=True, temperature=0.1)
    assert gaussian.item() == pytest.approx(loss_of(s, gaussian=False, temperature=0.1).item(), rel=1e-12)


def test_the_gaussian_form_is_the_expectation_over_many_drawn_keys() -> None:
    s = setting(3)
    temperature, n_draws = 1.5, 400_000
    g = torch.Generator().manual_seed(4)
    keys = s["means"] + s["variances"].sqrt() * torch.randn(n_draws, K, D, generator=g, dtype=torch.float64)
    logits = torch.einsum("nd,mkd->mnk", torch.nn.functional.normalize(s["anchors"], dim=1), keys) / temperature
    denominators = logits.exp().mean(dim=0)[:, s["classes_usable"]].sum(dim=1).log()
    terms = denominators - logits.mean(dim=0).gather(1, s["klass"].clamp(min=0)[:, None]).squeeze(1)
    counted = s["anchors_usable"] & (s["klass"] >= 0) & s["classes_usable"][s["klass"].clamp(min=0)]
    weights = s["trust"] * counted
    wanted = ((terms * weights).sum() / weights.sum()).item()
    found = loss_of(s, gaussian=True, temperature=temperature).item()
    assert found == pytest.approx(wanted, abs=2e-3)
    s["variances"] = torch.zeros_like(s["variances"])
    assert abs(loss_of(s, gaussian=True, temperature=temperature).item() - wanted) > 2e-2


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("nothing", ["klass", "anchors_usable", "classes_usable", "trust"])
def test_where_nothing_counts_the_loss_is_zero_with_a_graph(nothing: str, gaussian: bool) -> None:
    s = setting()
    s[nothing] = torch.full_like(s[nothing], -1 if nothing == "klass" else 0)
    inputs = [s["anchors"].requires_grad_(), s["means"].requires_grad_()]
    loss = loss_of(s, gaussian=gaussian, temperature=0.1)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, inputs):
        assert not gradient.any()


@pytest.mark.parametrize("gaussian", [True, False])
def test_what_an_empty_place_holds_does_not_matter(gaussian: bool) -> None:
    s = setting()
    wanted = loss_of(s, gaussian=gaussian, temperature=0.1)
    s["means"][2], s["variances"][2] = float("nan"), float("inf")
    s["anchors"][~s["anchors_usable"]] = float("nan")
    s["anchors"].requires_grad_()
    found = loss_of(s, gaussian=gaussian, temperature=0.1)
    (gradient,) = torch.autograd.grad(found, s["anchors"])
    assert found.item() == wanted.item()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("gaussian", [True, False])
def test_half_precision_is_summed_in_single_and_stays_finite(gaussian: bool) -> None:
    s = setting()
    wanted = loss_of(s, gaussian=gaussian, temperature=1e-3)
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(half, gaussian=gaussian, temperature=1e-3)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=2e-2)


# Local contrast: pixels against the class means of their own image and of its partner.


def images(seed: int = 0) -> dict[str, Tensor]:
    """Pixels of three images and three classes, one class lacking in one image; a fourth image without pixels."""
    g = torch.Generator().manual_seed(seed)
    usable = torch.ones(4, 3, dtype=torch.bool)
    usable[1, 2] = False
    return {
        "anchors": torch.randn(14, D, generator=g, dtype=torch.float64),
        "rows": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, -1, 0]),
        "klass": torch.tensor([0, 1, 2, 2, 0, 1, 1, 2, 0, 1, 2, -1, 0, 1]),
        "means": torch.randn(4, 3, D, generator=g, dtype=torch.float64),
        "anchors_usable": torch.tensor([True] * 13 + [False]),
        "means_usable": usable,
    }


def local_by_loops(s: dict[str, Tensor], temperature: float, pairs: list[tuple[int, int]] | None) -> float:
    """The published sums; a class that an image lacks is left out."""

    def logit(i: int, row: int, klass: int) -> float:
        return dot(unit(s["anchors"][i]), unit(s["means"][row, klass])) / temperature

    def share(i: int, among: list[int], row: int) -> float | None:
        klass = int(s["klass"][i])
        if klass < 0 or not s["anchors_usable"][i] or not s["means_usable"][row, klass]:
            return None
        total = sum(math.exp(logit(i, r, k)) for r in among for k in range(3) if s["means_usable"][r, k])
        return -math.log(math.exp(logit(i, row, klass)) / total)

    losses = []
    for pair in pairs if pairs is not None else [(row,) for row in range(4)]:
        terms = []
        for side, row in enumerate(pair):
            for i in range(len(s["rows"])):
                if s["rows"][i] != row:
                    continue
                among = list(pair)
                own = share(i, among, row)
                other = share(i, among, pair[1 - side]) if len(pair) == 2 else None
                if own is not None or other is not None:
                    terms.append((own or 0.0) + (other or 0.0))
        if terms:
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("pairs", [None, [(0, 1)], [(0, 1), (2, 0), (3, 3), (1, 1), (1, 2)]])
def test_local_contrast_equals_its_definition(pairs: list[tuple[int, int]] | None) -> None:
    s = images()
    chosen = None if pairs is None else torch.tensor(pairs)
    assert local_contrast(**s, temperature=0.2, pairs=chosen).item() == pytest.approx(
        local_by_loops(s, 0.2, pairs), rel=1e-10
    )


@pytest.mark.parametrize("pairs", [None, [(0, 1), (2, 0), (1, 1)]])
def test_local_contrast_has_the_right_gradient(pairs: list[tuple[int, int]] | None) -> None:
    s = images(1)
    chosen = None if pairs is None else torch.tensor(pairs)

    def loss(anchors: Tensor, means: Tensor) -> Tensor:
        return local_contrast(**{**s, "anchors": anchors, "means": means}, temperature=0.5, pairs=chosen)

    inputs = s["anchors"].requires_grad_(), s["means"].requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def separated(temperature: float, *, pairs: Tensor | None) -> float:
    """Two identical images whose three class means are perpendicular and whose pixels lie on them."""
    means = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    klass = torch.arange(3).repeat(2)
    return local_contrast(
        torch.eye(3, dtype=torch.float64).repeat(2, 1), torch.arange(2).repeat_interleave(3), klass, means,
        temperature=temperature, pairs=pairs,
    ).item()  # fmt: skip


def test_identical_images_with_separated_classes_cost_two_log_two_across_images_and_nothing_within() -> None:
    pairs = torch.tensor([[0, 1]])
    across = [separated(t, pairs=pairs) for t in (1.0, 0.2, 0.05, 0.01)]
    assert across == sorted(across, reverse=True)
    assert across[-1] == pytest.approx(2 * math.log(2), abs=1e-12)
    assert separated(0.01, pairs=None) == pytest.approx(0, abs=1e-12)


def test_the_order_of_pairs_and_of_the_two_in_a_pair_does_not_matter() -> None:
    s = images(2)
    pairs = torch.tensor([[0, 1], [2, 0], [1, 1], [1, 2]])
    loss = local_contrast(**s, temperature=0.1, pairs=pairs).item()
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        assert local_contrast(**s, temperature=0.1, pairs=pairs[order]).item() == pytest.approx(loss, rel=1e-12)
    assert local_contrast(**s, temperature=0.1, pairs=pairs.flip(1)).item() == pytest.approx(loss, rel=1e-12)


def test_every_class_present_gets_a_gradient_and_scale_does_not_matter() -> None:
    s = images(3)
    s["anchors"].requires_grad_()
    pairs = torch.tensor([[0, 1], [1, 2]])
    loss = local_contrast(**s, temperature=0.1, pairs=pairs)
    (gradient,) = torch.autograd.grad(loss, s["anchors"])
    counted = s["anchors_usable"] & (s["klass"] >= 0) & (s["rows"] >= 0)
    assert torch.equal(gradient.any(dim=1), counted)
    scaled = {**s, "anchors": 7 * s["anchors"], "means": 0.1 * s["means"]}
    assert local_contrast(**scaled, temperature=0.1, pairs=pairs).item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("pairs", [None, torch.tensor([[0, 1], [1, 2]])])
def test_what_an_empty_place_of_an_image_holds_does_not_matter(pairs: Tensor | None) -> None:
    s = images()
    wanted = local_contrast(**s, temperature=0.1, pairs=pairs)
    s["means"][1, 2] = float("nan")
    s["anchors"][s["rows"] < 0] = float("nan")
    s["anchors"][~s["anchors_usable"]] = float("inf")
    s["anchors"].requires_grad_()
    found = local_contrast(**s, temperature=0.1, pairs=pairs)
    (gradient,) = torch.autograd.grad(found, s["anchors"])
    assert found.item() == wanted.item()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("pairs", [None, torch.tensor([[0, 1]])])
@pytest.mark.parametrize("nothing", ["klass", "rows", "anchors_usable", "means_usable"])
def test_without_any_pixel_or_mean_local_contrast_is_zero_with_a_graph(nothing: str, pairs: Tensor | None) -> None:
    s = images()
    s[nothing] = torch.full_like(s[nothing], -1 if s[nothing].dtype == torch.int64 else 0)
    inputs = [s["anchors"].requires_grad_(), s["means"].requires_grad_()]
    loss = local_contrast(**s, temperature=0.1, pairs=pairs)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, inputs):
        assert not gradient.any()


@pytest.mark.parametrize("loss", [
    lambda t: loss_of(setting(), gaussian=False, temperature=t),
    lambda t: loss_of(setting(), gaussian=True, temperature=t),
    lambda t: local_contrast(**images(), temperature=t),
])  # fmt: skip
def test_a_temperature_that_is_not_positive_is_refused(loss: Callable[[float], Tensor]) -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        loss(0.0)


def test_none_of_the_losses_asks_what_the_numbers_are() -> None:
    with FakeTensorMode():
        empty = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in setting().items()}
        for gaussian in (True, False):
            assert loss_of(empty, gaussian=gaussian, temperature=0.1).shape == ()
        s = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in images().items()}
        for pairs in (None, torch.zeros(2, 2, dtype=torch.int64)):
            assert local_contrast(**s, temperature=0.1, pairs=pairs).shape == ()
