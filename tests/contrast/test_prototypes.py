"""Class means and running statistics against sums over one pixel at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.prototypes import ClassStatistics, class_means, class_means_of_maps
from scantling.shapes import IGNORE

K = 4  # the last class never comes


def labelled(n: int, seed: int, *, usable: bool = True) -> Pixels:
    g = torch.Generator().manual_seed(seed)
    klass = torch.randint(IGNORE, K - 1, (n,), generator=g)
    kept = torch.rand(n, generator=g) < 0.8
    embeddings = 3 + torch.randn(n, 5, generator=g, dtype=torch.float64) * (1 + klass[:, None])
    return Pixels(embeddings=embeddings, tags=Tags(klass=klass, usable=kept if usable else None))


def by_class(pixels: Pixels, *, normalise: bool) -> list[Tensor]:
    """The pixels of each class that count, read off one by one."""
    members: list[list[Tensor]] = [[] for _ in range(K)]
    for i, vector in enumerate(pixels.embeddings):
        klass = int(pixels.tags.need("klass")[i])
        if klass >= 0 and (pixels.tags.usable is None or pixels.tags.usable[i]):
            members[klass].append(vector / vector.norm() if normalise else vector)
    return [torch.stack(found) if found else torch.zeros(0, 5, dtype=torch.float64) for found in members]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("sizes", [[97], [50, 0, 47], [1] * 10 + [87], [96, 1], [13, 29, 55]])
def test_after_any_split_into_batches_the_statistics_are_those_of_all_at_once(
    sizes: list[int], normalise: bool
) -> None:
    pixels = labelled(97, 0)
    statistics = ClassStatistics(K, 5, normalise=normalise, dtype=torch.float64)
    start = 0
    for size in sizes:
        statistics.update(pixels.pick(slice(start, start + size)))
        start += size
    assert start == len(pixels)
    for klass, members in enumerate(by_class(pixels, normalise=normalise)):
        assert int(statistics.count[klass]) == len(members)
        if len(members):
            torch.testing.assert_close(statistics.mean[klass], members.mean(dim=0), rtol=0, atol=1e-10)
            torch.testing.assert_close(statistics.variance[klass], members.var(dim=0, correction=0), rtol=0, atol=1e-10)
    assert statistics.seen.tolist() == [True] * (K - 1) + [False]


def test_pooling_in_single_precision_stands_a_mean_far_from_zero() -> None:
    """Sums of squares would lose every digit of the variance here."""
    g = torch.Generator().manual_seed(0)
    embeddings = 1e4 + torch.randn(4000, 2, generator=g)
    statistics = ClassStatistics(1, 2, normalise=False)
    for part in embeddings.split(400):
        statistics.update(Pixels(embeddings=part, tags=Tags(klass=torch.zeros(400, dtype=torch.int64))))
    wanted = embeddings.double().var(dim=0, correction=0).float()
    torch.testing.assert_close(statistics.variance[0], wanted, rtol=1e-2, atol=0)


def test_a_forgetting_average_follows_its_recursion_and_starts_with_its_first_batch() -> None:
    decay = 0.9
    statistics = ClassStatistics(K, 5, decay=decay, normalise=False, dtype=torch.float64)
    mean: dict[int, Tensor] = {}
    second_moment: dict[int, Tensor] = {}
    for step in range(6):
        pixels = labelled(5, step)
        statistics.update(pixels)
        for klass, members in enumerate(by_class(pixels, normalise=False)):
            if not len(members):
                continue
            keep = decay if klass in mean else 0.0
            mean[klass] = keep * mean.get(klass, torch.zeros(5)) + (1 - keep) * members.mean(dim=0)
            squares = members.square().mean(dim=0)
            second_moment[klass] = keep * second_moment.get(klass, torch.zeros(5)) + (1 - keep) * squares
    assert len(mean) == K - 1
    for klass in mean:
        torch.testing.assert_close(statistics.mean[klass], mean[klass], rtol=1e-12, atol=1e-12)
        wanted = second_moment[klass] - mean[klass].square()
        torch.testing.assert_close(statistics.variance[klass], wanted, rtol=1e-9, atol=1e-9)


def test_pixels_that_are_not_finite_or_have_no_direction_leave_the_statistics_alone() -> None:
    good = labelled(20, 0)
    bad = labelled(3, 1, usable=False)
    bad.embeddings[0], bad.embeddings[1], bad.embeddings[2] = float("nan"), float("inf"), 0.0
    alone, together = (ClassStatistics(K, 5, dtype=torch.float64) for _ in range(2))
    alone.update(good)
    together.update(
        Pixels(
            embeddings=torch.cat([good.embeddings, bad.embeddings]),
            tags=Tags(
                klass=torch.cat([good.tags.need("klass"), torch.ones(3, dtype=torch.int64)]),
                usable=torch.cat([good.tags.need("usable"), torch.ones(3, dtype=torch.bool)]),
            ),
        )
    )
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value, rtol=1e-14, atol=1e-14)


def test_the_means_as_keys_have_a_class_and_are_usable_where_one_was_seen() -> None:
    statistics = ClassStatistics(K, 5)
    assert not statistics.pixels().tags.need("usable").any()
    statistics.update(labelled(40, 0))
    keys = statistics.pixels()
    assert keys.tags.need("klass").tolist() == list(range(K))
    assert keys.tags.need("usable").tolist() == [True] * (K - 1) + [False]
    assert torch.equal(keys.embeddings, statistics.mean)


def test_statistics_go_on_after_a_restart_and_can_be_put_back_in_place() -> None:
    first, second = ClassStatistics(K, 5), ClassStatistics(K, 5)
    first.update(labelled(30, 0))
    second.load_state_dict(first.state_dict())
    before, buffers = copy.deepcopy(first.state_dict()), list(first.buffers())
    clones = [buffer.clone() for buffer in buffers]
    for statistics in (first, second):
        statistics.update(labelled(30, 1))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert not torch.equal(value, before[name])
    torch._foreach_copy_(buffers, clones)
    for name, value in first.state_dict().items():
        assert torch.equal(value, before[name])


def test_statistics_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\) or None, got 1"):
        ClassStatistics(2, 3, decay=1.0)
    with pytest.raises(ValueError, match="embeddings of 3 numbers, got some of 5"):
        ClassStatistics(2, 3).update(labelled(4, 0))
    with pytest.raises(ValueError, match="no tag 'klass'"):
        ClassStatistics(2, 3).update(Pixels(embeddings=torch.ones(2, 3), tags=Tags()))


def means_by_loops(
    embeddings: Tensor, rows: Tensor, klass: Tensor, weights: Tensor, n_rows: int
) -> dict[tuple[int, int], Tensor]:
    found = {}
    for row in range(n_rows):
        for k in range(K):
            members = [i for i in range(len(klass)) if rows[i] == row and klass[i] == k and weights[i] > 0]
            if members:
                total = sum(float(weights[i]) for i in members)
                found[row, k] = torch.stack([weights[i] * embeddings[i] for i in members]).sum(dim=0) / total
    return found


def test_class_means_are_the_means_of_each_class_in_each_row_and_pass_gradients() -> None:
    pixels = labelled(40, 2)
    rows = torch.randint(-1, 3, (40,), generator=torch.Generator().manual_seed(9))
    pixels.embeddings.requires_grad_()
    found = class_means(pixels, rows, n_rows=4, n_classes=K)
    usable = pixels.tags.need("usable").double()
    wanted = means_by_loops(pixels.embeddings, rows, pixels.tags.need("klass"), usable, 4)
    assert {tuple(place) for place in found.usable.nonzero().tolist()} == set(wanted)
    assert 4 < len(wanted) < 4 * K
    for (row, klass), mean in wanted.items():
        torch.testing.assert_close(found.means[row, klass], mean, rtol=1e-12, atol=1e-12)
    assert not found.means[~found.usable].any()
    weights = torch.randn(4, K, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found.means * weights).sum(), pixels.embeddings)
    by_hand = sum((mean * weights[place]).sum() for place, mean in wanted.items())
    (expected,) = torch.autograd.grad(by_hand, pixels.embeddings)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)])
def test_class_means_of_maps_are_those_of_their_pixels_by_weight(size: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, *size, generator=g, dtype=torch.float64, requires_grad=True)
    label_maps = torch.randint(IGNORE, K - 1, (2, *size), generator=g)
    weights = torch.rand(2, *size, generator=g, dtype=torch.float64).round(decimals=1)
    found = class_means_of_maps(maps, label_maps, n_classes=K, weights=weights)
    rows = torch.arange(2).repeat_interleave(label_maps[0].numel())
    wanted = means_by_loops(maps.movedim(1, -1).flatten(0, -2), rows, label_maps.flatten(), weights.flatten(), 2)
    assert {tuple(place) for place in found.usable.nonzero().tolist()} == set(wanted)
    for place, mean in wanted.items():
        torch.testing.assert_close(found.means[place], mean, rtol=1e-12, atol=1e-12)
    whole = class_means_of_maps(maps, label_maps, n_classes=K)
    ones = means_by_loops(maps.movedim(1, -1).flatten(0, -2), rows, label_maps.flatten(), torch.ones(len(rows)), 2)
    for place, mean in ones.items():
        torch.testing.assert_close(whole.means[place], mean, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: class_means_of_maps(x, label_maps, n_classes=K, weights=weights).means, (maps,)
    )


def test_a_class_beyond_those_asked_for_is_in_no_mean() -> None:
    pixels, rows = labelled(40, 2), torch.arange(40) % 3
    all_classes = class_means(pixels, rows, n_rows=3, n_classes=K)
    two = class_means(pixels, rows, n_rows=3, n_classes=2)
    torch.testing.assert_close(two.means, all_classes.means[:, :2])
    statistics = ClassStatistics(2, 5)
    statistics.update(pixels)
    assert statistics.count.tolist() == [len(members) for members in by_class(pixels, normalise=True)[:2]]


def test_means_as_keys_carry_class_and_image_row_by_row() -> None:
    found = class_means(labelled(40, 2), torch.arange(40) % 2, n_rows=2, n_classes=K)
    keys = found.pixels(torch.tensor([7, 9]), classes=(1, 3))
    assert keys.tags.need("klass").tolist() == [1, 3, 1, 3]
    assert keys.tags.need("image").tolist() == [7, 7, 9, 9]
    assert keys.tags.need("usable").tolist() == [True, False, True, False]
    assert torch.equal(keys.embeddings[2], found.means[1, 1])
    assert len(found.pixels()) == 2 * K


def test_means_under_autocast_are_summed_in_single_precision() -> None:
    pixels = Pixels(embeddings=labelled(200, 0).embeddings.float(), tags=labelled(200, 0).tags)
    rows = torch.zeros(200, dtype=torch.int64)
    wanted = class_means(pixels, rows, n_rows=1, n_classes=K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = class_means(pixels, rows, n_rows=1, n_classes=K)
    assert torch.equal(found.means, wanted.means)


def test_statistics_and_means_never_ask_what_the_numbers_are() -> None:
    with FakeTensorMode():
        pixels = Pixels(embeddings=torch.zeros(20, 5), tags=Tags(klass=torch.zeros(20, dtype=torch.int64)))
        for decay in (None, 0.9):
            ClassStatistics(K, 5, decay=decay).update(pixels)
        assert class_means(pixels, torch.zeros(20, dtype=torch.int64), n_rows=2, n_classes=K).means.shape == (2, K, 5)
