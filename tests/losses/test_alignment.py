"""Alignment of matched vectors, of near pixels and of sets of samples, against the definitions written as loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scantling.losses import windows
from scantling.losses.alignment import Distance, align, dice_distances, energy_distance, window_alignment
from scantling.losses.averaging import weighted_mean

DISTANCES: tuple[Distance, ...] = ("cosine", "l1", "l2")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


# Rows


def align_by_loops(anchors: Tensor, keys: Tensor, distance: Distance, normalise: bool, weights: list[float]) -> Tensor:
    total, count = anchors.sum() * 0, 0.0
    for i, weight in enumerate(weights):
        if weight == 0:
            continue
        a, k = anchors[i], keys[i]
        if normalise or distance == "cosine":
            a, k = a / (a * a).sum().sqrt(), k / (k * k).sum().sqrt()
        term = sum(
            {"cosine": -x * y, "l1": (x - y).abs(), "l2": (x - y) ** 2}[distance] for x, y in zip(a, k, strict=True)
        )
        total = total + weight * (term + 1 if distance == "cosine" else term)
        count += weight
    return total / count


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("normalise", [False, True])
def test_aligned_rows_equal_the_definition_with_its_gradient(distance: Distance, normalise: bool) -> None:
    anchors, keys = random(7, 5).requires_grad_(), random(7, 5, seed=1).requires_grad_()
    weights = torch.tensor([1.0, 0.5, 0, 2, 1, 3, 0.25], dtype=torch.float64)
    usable = torch.tensor([1, 1, 1, 0, 1, 1, 1], dtype=torch.bool)
    actual = align(anchors, keys, distance=distance, normalise=normalise, weights=weights, usable=usable)
    expected = align_by_loops(anchors, keys, distance, normalise, (weights * usable).tolist())
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(*(torch.autograd.grad(x, (anchors, keys)) for x in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_squared_distance_of_unit_vectors_is_two_less_two_cosines_and_their_mean_over_d_is_that_over_d() -> None:
    anchors, keys = random(9, 6), random(9, 6, seed=1)
    cosine = torch.nn.functional.cosine_similarity(anchors, keys, dim=1).mean().item()
    squared = align(anchors, keys, distance="l2", normalise=True)
    assert squared.item() == pytest.approx(2 - 2 * cosine, rel=1e-12)
    assert squared.item() == pytest.approx(2 * align(anchors, keys).item(), rel=1e-12)
    for distance in ("l1", "l2"):
        summed = align(anchors, keys, distance=distance)
        assert align(anchors, keys, distance=distance, per_dimension=True).item() == pytest.approx(summed.item() / 6)
    mse = torch.nn.functional.mse_loss(anchors, keys).item()
    assert align(anchors, keys, distance="l2", per_dimension=True).item() == pytest.approx(mse, rel=1e-12)
    assert align(anchors, keys, per_dimension=True).item() == align(anchors, keys).item()


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_aligned_rows_equal_finite_differences(distance: Distance) -> None:
    anchors, keys = random(4, 3).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    usable = torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(lambda a, k: align(a, k, distance=distance, usable=usable), (anchors, keys))


@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_that_do_not_count_may_hold_anything(distance: Distance) -> None:
    anchors, keys = random(5, 3), random(5, 3, seed=1)
    usable = torch.tensor([True, False, True, True, False])
    expected = align(anchors[usable], keys[usable], distance=distance)
    anchors[1], keys[4] = math.nan, math.inf
    anchors.requires_grad_()
    actual = align(anchors, keys, distance=distance, usable=usable)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-14)
    actual.backward()
    assert anchors.grad is not None
    assert (anchors.grad[~usable] == 0).all()
    assert anchors.grad[usable].isfinite().all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_without_a_row_that_counts_the_loss_is_zero_and_has_a_gradient_of_zero(distance: Distance) -> None:
    for n, more in ((3, {"usable": torch.zeros(3, dtype=torch.bool)}), (3, {"weights": torch.zeros(3)}), (0, {})):
        anchors = random(n, 4, dtype=torch.float32).requires_grad_()
        loss = align(anchors, random(n, 4, seed=1, dtype=torch.float32), distance=distance, **more)
        loss.backward()
        assert loss.item() == 0
        assert anchors.grad is not None
        assert (anchors.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distance", DISTANCES)
def test_half_precision_up_to_ten_thousand_gives_what_double_precision_gives(
    distance: Distance, dtype: torch.dtype
) -> None:
    anchors, keys = random(50, 64, dtype=dtype) * 1e4 / 4, random(50, 64, seed=1, dtype=dtype) * 1e4 / 4
    expected = align(anchors.double(), keys.double(), distance=distance)
    anchors.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = align(anchors, keys, distance=distance)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    actual.backward()
    assert anchors.grad is not None
    assert anchors.grad.isfinite().all()


def test_a_vector_of_length_zero_has_cosine_zero_and_no_gradient() -> None:
    anchors = torch.zeros(2, 3, dtype=torch.float64)
    anchors[1, 0] = 1
    anchors.requires_grad_()
    loss = align(anchors, torch.ones(2, 3, dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx((1 + 1 - 1 / math.sqrt(3)) / 2)
    assert anchors.grad is not None
    assert (anchors.grad[0] == 0).all()
    assert (anchors.grad[1, 1:] != 0).all()


# Windows


def matrices(batch: int, dimensions: int, seed: int, *, shift: float = 3.0) -> tuple[Tensor, Tensor]:
    """Rotated, scaled, mirrored and shifted: second index from first index, source mm from second index."""
    generator = seeded(seed)
    found = []
    for _ in range(2):
        linear = torch.eye(dimensions, dtype=torch.float64)
        linear = linear + 0.4 * torch.randn((batch, dimensions, dimensions), generator=generator, dtype=torch.float64)
        matrix = torch.eye(dimensions + 1, dtype=torch.float64).repeat(batch, 1, 1)
        matrix[:, :-1, :-1] = linear
        matrix[:, :-1, -1] = shift * torch.rand((batch, dimensions), generator=generator, dtype=torch.float64)
        found.append(matrix)
    found[1][0, :-1, 0] *= -2
    return found[0], found[1]


def near_by_loops(
    index: Tensor, mm: Tensor, radius: float, first: tuple[int, ...], second: tuple[int, ...]
) -> list[dict[tuple[int, ...], list[tuple[int, ...]]]]:
    """For each sample and first pixel the second pixels closer than the radius in the source."""
    found = []
    for b in range(len(index)):
        m, a = index[b].tolist(), mm[b].tolist()
        axes = range(len(first))
        near: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for i in itertools.product(*map(range, first)):
            at = [sum(m[r][c] * i[c] for c in axes) + m[r][-1] for r in axes]
            near[i] = [
                j
                for j in itertools.product(*map(range, second))
                if math.dist([sum(a[r][c] * (at[c] - j[c]) for c in axes) for r in axes], [0] * len(first)) < radius
            ]
        found.append(near)
    return found


def window_by_loops(
    first: Tensor,
    second: Tensor,
    index: Tensor,
    mm: Tensor,
    radius: float,
    *,
    weights: Tensor | None = None,
    second_usable: Tensor | None = None,
    mean_over: str = "anchor",
) -> Tensor:
    shapes = tuple(first.shape[2:]), tuple(second.shape[2:])
    total, count = (first.sum() + second.sum()) * 0, 0.0
    for b, near in enumerate(near_by_loops(index, mm, radius, *shapes)):
        for i, others in near.items():
            keys = [j for j in others if second_usable is None or second_usable[(b, *j)]]
            weight = 1.0 if weights is None else float(weights[(b, *i)])
            if not keys or weight == 0:
                continue
            a = first[(b, slice(None), *i)]
            terms = []
            for j in keys:
                k = second[(b, slice(None), *j)]
                terms.append(1 - (a @ k) / (a.norm() * k.norm()))
            share = weight if mean_over == "anchor" else weight * len(keys)
            total = total + share * torch.stack(terms).mean()
            count += share
    return total / (count or 1)


@pytest.fixture(params=[None, 40, 400], ids=["one tile", "tiny tiles", "small tiles"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(windows, "_PAIRS_CPU", request.param)


CASES = [((5, 4), (4, 6), 1.3), ((6, 6), (3, 3), 2.5), ((3, 2, 4), (2, 4, 3), 1.6)]


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("mean_over", ["anchor", "pair"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("first_shape", "second_shape", "radius"), CASES)
def test_window_alignment_equals_the_loop_over_all_pairs_with_its_gradients(
    first_shape: tuple[int, ...], second_shape: tuple[int, ...], radius: float, masked: bool, mean_over: Any
) -> None:
    index, mm = matrices(3, len(first_shape), seed=4)
    first = random(3, 5, *first_shape).requires_grad_()
    second = random(3, 5, *second_shape, seed=1).requires_grad_()
    more: dict[str, Any] = {"mean_over": mean_over}
    if masked:
        more["weights"] = torch.randint(0, 3, (3, *first_shape), generator=seeded(2)).double() / 2
        more["second_usable"] = torch.rand((3, *second_shape), generator=seeded(3)) > 0.4
    actual = window_alignment(
        first, second, second_index_from_first_index=index, source_from_second_index=mm, radius_mm=radius, **more
    )
    expected = window_by_loops(first, second, index, mm, radius, **more)
    assert expected.item() > 0.1
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(*(torch.autograd.grad(x, (first, second)) for x in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@given(
    seed=st.integers(0, 2**31),
    shapes=st.integers(2, 3).flatmap(lambda d: st.tuples(*[st.tuples(*[st.integers(1, 6)] * d)] * 2)),
    radius=st.floats(0.05, 30),
    shift=st.sampled_from([0.0, 3.0, -20.0]),
)
@settings(deadline=None, max_examples=60)
def test_windows_find_exactly_the_near_pixels(
    seed: int, shapes: tuple[tuple[int, ...], tuple[int, ...]], radius: float, shift: float
) -> None:
    first_shape, second_shape = shapes
    index, mm = matrices(2, len(first_shape), seed, shift=shift)
    near = windows.nearness(
        index, mm, radius, first_shape=first_shape, second_shape=second_shape, device=torch.device("cpu")
    )
    ones = torch.ones(2, 1, *first_shape, dtype=torch.float64, requires_grad=True)
    others = torch.ones(2, 1, *second_shape, dtype=torch.float64, requires_grad=True)
    _, counts = windows.near_sums(ones, others, near)
    expected = near_by_loops(index, mm, radius, first_shape, second_shape)
    for b in range(2):
        for i, found in expected[b].items():
            assert counts[(b, *i)] == len(found)
    # and from the other side
    samples = slice(0, 2)
    seen = torch.zeros(2 * math.prod(second_shape))
    for rows, _, related in windows._windows(near, samples, torch.float32, None, of_second=True):
        seen[rows] = related.sum(dim=1)
    for b in range(2):
        from_second = [j for found in expected[b].values() for j in found]
        for j in itertools.product(*map(range, second_shape)):
            place = sum(x * math.prod(second_shape[k + 1 :]) for k, x in enumerate(j))
            assert seen[b * math.prod(second_shape) + place] == from_second.count(j)


def test_unusable_pixels_have_no_near_ones_and_are_near_to_none() -> None:
    identity = torch.eye(3, dtype=torch.float64)[None]
    maps = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    near = windows.nearness(
        identity, identity, 1.1, first_shape=(3, 3), second_shape=(3, 3), device=torch.device("cpu")
    )
    all_but_centre = torch.ones(1, 3, 3, dtype=torch.bool)
    all_but_centre[0, 1, 1] = False
    _, counts = windows.near_sums(maps, maps, near, first_usable=all_but_centre)
    assert counts.tolist() == [[[3, 4, 3], [4, 0, 4], [3, 4, 3]]]
    sums, counts = windows.near_sums(maps, maps, near, second_usable=all_but_centre)
    assert counts.tolist() == [[[3, 3, 3], [3, 4, 3], [3, 3, 3]]]
    torch.testing.assert_close(sums, counts)  # all cosines are 1


def test_a_pixel_exactly_at_the_radius_is_not_near_from_either_side() -> None:
    identity = torch.eye(3, dtype=torch.float64)[None]
    mm = torch.diag(torch.tensor([0.7, 0.7, 1.0], dtype=torch.float64))[None]
    second = random(1, 2, 7, 7, seed=1).requires_grad_()
    first = random(1, 2, 7, 7)
    alone = window_alignment(
        first, second, second_index_from_first_index=identity, source_from_second_index=mm, radius_mm=0.7
    )
    expected = align(first.flatten(2)[0].T, second.flatten(2)[0].T)
    assert alone.item() == pytest.approx(expected.item(), rel=1e-12)
    (one,), (other,) = (torch.autograd.grad(x, second) for x in (alone, expected))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_gradients_of_window_alignment_equal_finite_differences() -> None:
    index, mm = matrices(2, 2, seed=4)
    first, second = random(2, 3, 3, 2).requires_grad_(), random(2, 3, 2, 3, seed=1).requires_grad_()

    def loss(first: Tensor, second: Tensor) -> Tensor:
        return window_alignment(
            first, second, second_index_from_first_index=index, source_from_second_index=mm, radius_mm=2.0
        )

    assert loss(first, second).item() > 0
    assert torch.autograd.gradcheck(loss, (first, second))
    # one side as a target
    assert torch.autograd.gradcheck(lambda x: loss(x, second.detach()), first)
    assert torch.autograd.gradcheck(lambda x: loss(first.detach(), x), second)


def test_views_that_do_not_meet_give_zero_and_a_gradient_of_zero() -> None:
    index, mm = matrices(2, 2, seed=4)
    index[:, :-1, -1] = 1000
    for more in ({}, {"weights": torch.zeros(2, 4, 4)}):
        first, second = random(2, 3, 4, 4).requires_grad_(), random(2, 3, 5, 5, seed=1).requires_grad_()
        loss = window_alignment(
            first, second, second_index_from_first_index=index, source_from_second_index=mm, radius_mm=2.0, **more
        )
        loss.backward()
        assert loss.item() == 0
        for part in (first, second):
            assert part.grad is not None
            assert (part.grad == 0).all()


def test_pixels_that_do_not_count_may_hold_anything() -> None:
    index, mm = matrices(2, 2, seed=4)
    weights = torch.randint(0, 2, (2, 4, 4), generator=seeded(2)).double()
    usable = torch.rand((2, 5, 5), generator=seeded(3)) > 0.4
    first, second = random(2, 3, 4, 4), random(2, 3, 5, 5, seed=1)
    results = []
    for value in (0.0, math.nan, math.inf):
        x = torch.where((weights == 0).unsqueeze(1), value, first).requires_grad_()
        y = torch.where(usable.unsqueeze(1), second, value).requires_grad_()
        loss = window_alignment(
            x,
            y,
            second_index_from_first_index=index,
            source_from_second_index=mm,
            radius_mm=1.5,
            weights=weights,
            second_usable=usable,
        )
        loss.backward()
        results.append((loss.item(), x.grad, y.grad))
    for loss, *gradients in results[1:]:
        assert loss == results[0][0]
        for one, other in zip(gradients, results[0][1:], strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)
    assert results[0][0] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_give_what_double_precision_gives(dtype: torch.dtype) -> None:
    index, mm = matrices(2, 2, seed=4)
    first, second = random(2, 16, 6, 6, dtype=dtype) * 3e3, random(2, 16, 6, 6, seed=1, dtype=dtype) * 3e3
    first.requires_grad_()
    second.requires_grad_()
    setting: dict[str, Any] = {
        "second_index_from_first_index": index,
        "source_from_second_index": mm,
        "radius_mm": 1.5,
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = window_alignment(first, second, **setting)
    doubled = [part.detach().double().requires_grad_() for part in (first, second)]
    expected = window_alignment(*doubled, **setting)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(actual * 1e4, (first, second))
    for one, other in zip(gradients, torch.autograd.grad(expected * 1e4, doubled), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=2e-2, atol=1e-5)


def test_vectors_of_length_zero_have_no_gradient() -> None:
    identity = torch.eye(3, dtype=torch.float64)[None]
    first = random(1, 3, 4, 4)
    first[:, :, 1, 2] = 0
    first.requires_grad_()
    second = random(1, 3, 4, 4, seed=1)
    loss = window_alignment(
        first, second, second_index_from_first_index=identity, source_from_second_index=identity, radius_mm=0.5
    )
    loss.backward()
    cosines = torch.nn.functional.cosine_similarity(first.detach(), second, dim=1)
    assert loss.item() == pytest.approx(1 - cosines.sum().item() / 16)
    assert first.grad is not None
    assert (first.grad[:, :, 1, 2] == 0).all()
    assert first.grad.abs().max() < 1


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else [result]
        self.elements = max([self.elements, *(part.numel() for part in parts if isinstance(part, Tensor))])
        return result


def test_no_tensor_is_as_large_as_all_pairs() -> None:
    side, channels = 64, 4
    identity = torch.eye(3, dtype=torch.float64)[None]
    first = random(1, channels, side, side, dtype=torch.float32).requires_grad_()
    second = random(1, channels, side, side, seed=1, dtype=torch.float32).requires_grad_()
    with LargestTensor() as largest:
        window_alignment(
            first, second, second_index_from_first_index=identity, source_from_second_index=identity, radius_mm=1.5
        ).backward()
    assert largest.elements <= max(windows._PAIRS_CPU, channels * side**2)
    assert largest.elements < side**4 / 500


def test_nothing_waits_for_the_device_where_the_matrices_are_on_the_cpu() -> None:
    """On the meta device there are no values: whatever asked for one would fail."""
    index, mm = matrices(2, 2, seed=4)
    meta = torch.device("meta")
    first = torch.empty(2, 3, 4, 4, device=meta, requires_grad=True)
    second = torch.empty(2, 3, 5, 5, device=meta, requires_grad=True)
    near = windows.nearness(index, mm, 1.5, first_shape=(4, 4), second_shape=(5, 5), device=meta)
    sums, counts = windows.near_sums(
        first,
        second,
        near,
        first_usable=torch.empty(2, 4, 4, device=meta, dtype=torch.bool),
        second_usable=torch.empty(2, 5, 5, device=meta, dtype=torch.bool),
    )
    weighted_mean(1 - sums / counts.clamp(min=1), counts, None).backward()
    assert first.grad is not None
    assert second.grad is not None
    assert (first.grad.shape, second.grad.shape) == (first.shape, second.shape)


def test_impossible_windows_are_refused() -> None:
    index, mm = matrices(2, 2, seed=4)
    first, second = random(2, 3, 4, 4), random(2, 3, 4, 4)

    def loss(**changed: Any) -> Tensor:
        setting: dict[str, Any] = {
            "second_index_from_first_index": index,
            "source_from_second_index": mm,
            "radius_mm": 1.0,
        }
        return window_alignment(first, second, **(setting | changed))

    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="radius_mm must be > 0 and finite"):
            loss(radius_mm=radius)
    for name in ("second_index_from_first_index", "source_from_second_index"):
        with pytest.raises(ValueError, match="must have an inverse"):
            loss(**{name: torch.zeros(2, 3, 3, dtype=torch.float64)})
    one = windows.nearness(index[:1], mm[:1], 1.0, first_shape=(4, 4), second_shape=(4, 4), device=first.device)
    with pytest.raises(ValueError, match="wanted one of each a sample"):
        windows.near_sums(first, second, one)


# Sets of samples


def dice_distance_by_loops(x: Tensor, y: Tensor, weights: Tensor) -> float:
    scores = []
    for k in range(len(x)):
        overlap = sum(w * a * b for w, a, b in zip(weights.flatten(), x[k].flatten(), y[k].flatten(), strict=True))
        sizes = sum(w * (a + b) for w, a, b in zip(weights.flatten(), x[k].flatten(), y[k].flatten(), strict=True))
        scores.append((2 * overlap + 1e-5) / (sizes + 1e-5))
    return 1 - float(sum(scores)) / len(scores)


def samples(n: int, *, seed: int, shape: tuple[int, ...] = (3, 4), batch: int = 2, classes: int = 3) -> Tensor:
    return random(n, batch, classes, *shape, seed=seed).softmax(dim=2)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_dice_distances_equal_their_definition(shape: tuple[int, ...], weighted: bool) -> None:
    x, y = samples(3, seed=0, shape=shape), samples(2, seed=1, shape=shape)
    weights = torch.rand((2, *shape), generator=seeded(5), dtype=torch.float64)
    found = dice_distances(x, y, weights=weights if weighted else None)
    assert found.shape == (3, 2, 2)
    for i, j, b in itertools.product(range(3), range(2), range(2)):
        expected = dice_distance_by_loops(x[i, b], y[j, b], weights[b] if weighted else torch.ones(shape))
        assert found[i, j, b].item() == pytest.approx(expected, rel=1e-10)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None]).flatten(3).square().sum(dim=3).clamp(min=1e-30).sqrt()


@pytest.mark.parametrize("distance", [dice_distances, euclidean])
def test_energy_distance_equals_its_definition(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, y = samples(3, seed=0), samples(4, seed=1)
    total = 0.0
    for b in range(2):
        for first, second, sign in ((x, y, 2), (x, x, -1), (y, y, -1)):
            pairs = itertools.product(range(len(first)), range(len(second)))
            values = [distance(first[i : i + 1, b : b + 1], second[j : j + 1, b : b + 1]).item() for i, j in pairs]
            total += sign * sum(values) / len(values) / 2
    assert energy_distance(x, y, distance).item() == pytest.approx(total, rel=1e-10)
    assert abs(total) > 1e-4


@pytest.mark.parametrize("distance", [dice_distances, euclidean])
def test_energy_distance_is_zero_for_equal_sets_and_blind_to_the_order_of_samples(
    distance: Callable[[Tensor, Tensor], Tensor],
) -> None:
    x, y = samples(4, seed=0), samples(3, seed=1)
    assert energy_distance(x, x.clone(), distance).item() == pytest.approx(0, abs=1e-14)
    assert energy_distance(x, x[[2, 0, 3, 1]], distance).item() == pytest.approx(0, abs=1e-14)
    plain = energy_distance(x, y, distance).item()
    assert energy_distance(x[[3, 1, 0, 2]], y[[1, 2, 0]], distance).item() == pytest.approx(plain, rel=1e-12)
    assert energy_distance(y, x, distance).item() == pytest.approx(plain, rel=1e-12)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_energy_distance_of_a_metric_is_not_negative(seed: int) -> None:
    x, y = samples(3, seed=seed), samples(3, seed=seed + 1)
    assert energy_distance(x, y, euclidean).item() > 0


def test_gradients_of_the_energy_distance_equal_finite_differences() -> None:
    x, y = (samples(2, seed=s, shape=(2, 2), batch=1, classes=2).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(lambda x, y: energy_distance(x, y, dice_distances), (x, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_energy_distance_sums_in_single_precision(dtype: torch.dtype) -> None:
    x, y = (samples(3, seed=s, shape=(60, 60)).to(dtype) for s in (0, 1))
    expected = energy_distance(x.double(), y.double(), dice_distances)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = energy_distance(x, y, dice_distances)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_class_nobody_predicts_is_at_no_distance() -> None:
    x = torch.zeros(1, 1, 2, 3, 3)
    x[:, :, 0] = 1
    x.requires_grad_()
    found = dice_distances(x, x.detach())
    assert found.item() == pytest.approx(0, abs=1e-6)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
