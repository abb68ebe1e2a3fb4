"""Samplers by class: quotas and bands against loops over single pixels, frequencies against a chi-square."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from scantling.contrast.class_sampling import (
    balanced_points,
    boundary_band,
    boundary_points,
    class_points,
    class_weights,
    halves,
    hardest_half,
    radius_in_voxels,
)
from scantling.contrast.points import Points
from scantling.shapes import IGNORE


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_labels(*shape: int, seed: int = 0) -> Tensor:
    """Classes 0 to 3 of unequal size, and unknown pixels; class 3 has one pixel in view (0, 0) and none in (1, 1)."""
    labels = torch.multinomial(torch.tensor([0.1, 0.6, 0.2, 0.1]), 2 * 2 * math.prod(shape), replacement=True,
                               generator=rng(seed)).reshape(2, 2, *shape) - 1  # fmt: skip
    labels[0, 0].flatten()[11] = 3
    labels[1, 0].flatten()[3:9] = 3
    labels[0, 1].flatten()[5:20] = 3
    return labels


def under(points: Points, labels: Tensor) -> Tensor:
    """Label of the pixel each point is the centre of, -9 where not usable."""
    found = torch.full(points.usable.shape, -9)
    for b, v, p in itertools.product(*map(range, points.usable.shape)):
        if points.usable[b, v, p]:
            place = points.indices[b, v, p]
            assert torch.equal(place, place.round())
            found[b, v, p] = labels[(b, v, *place.long().tolist())]
    return found


@pytest.mark.parametrize("shape", [(10, 9), (4, 5, 6)], ids=["2D", "3D"])
def test_each_class_gives_its_quota_or_all_it_has(shape: tuple[int, ...]) -> None:
    labels = some_labels(*shape)
    points = class_points(labels, [8, 20, 5], rng(), classes=(0, 1, 3))
    assert len(points) == 33
    assert points.klass is not None
    found = under(points, labels)
    for b, v in itertools.product(range(2), range(2)):
        for klass, places, quota in ((0, slice(0, 8), 8), (1, slice(8, 28), 20), (3, slice(28, 33), 5)):
            n = min(quota, int((labels[b, v] == klass).sum()))
            there = points.usable[b, v, places]
            assert int(there.sum()) == n
            assert (found[b, v, places][there] == klass).all()
            assert (points.klass[b, v, places][there] == klass).all()
            drawn = points.indices[b, v, places][there]
            assert len({tuple(place) for place in drawn.tolist()}) == n
    assert points.usable[0, 0, 28:].sum() == 1  # a class of one pixel still gives it
    assert not points.usable[1, 1, 28:].any()
    assert (points.klass[~points.usable] == IGNORE).all()


def test_each_eligible_pixel_of_a_class_is_equally_likely() -> None:
    labels = torch.zeros(60, 1, 8, 6, dtype=torch.int64)
    labels[:, :, 2:, 1:] = 1
    labels[:, :, 7, 5] = IGNORE
    among = torch.ones(60, 1, 8, 6, dtype=torch.bool)
    among[:, :, 2] = False
    eligible = (labels[0, 0] == 1) & among[0, 0]
    counts = torch.zeros(8, 6)
    for seed in range(30):
        points = class_points(labels, 4, rng(seed), classes=(1,), among=among)
        assert points.usable.all()
        numbers = (points.indices[..., 0] * 6 + points.indices[..., 1]).long()
        counts += torch.bincount(numbers.flatten(), minlength=48).reshape(8, 6)
    assert (counts[~eligible] == 0).all()
    n = int(eligible.sum())
    expected = 30 * 60 * 4 / n
    chi = float(((counts[eligible] - expected) ** 2 / expected).sum())
    assert chi < n - 1 + 4 * (2 * (n - 1)) ** 0.5


def test_a_quota_prefers_a_share_of_marked_pixels_and_fills_up() -> None:
    labels = some_labels(12, 12)
    marked = torch.rand(labels.shape, generator=rng(3)) < 0.1
    points = class_points(labels, 10, rng(), classes=range(4), preferred=marked, preferred_share=0.3)
    assert points.group is not None
    for b, v, k in itertools.product(range(2), range(2), range(4)):
        places = slice(10 * k, 10 * k + 10)
        n_marked = int((marked & (labels == k))[b, v].sum())
        n_others = int((~marked & (labels == k))[b, v].sum())
        others = min(n_others, 10 - min(3, n_marked))
        assert (points.group[b, v, places] == 1).sum() == min(n_marked, 10 - others)
        assert (points.group[b, v, places] == 0).sum() == others
    is_marked = under(points, marked.long())
    assert torch.equal((is_marked == 1), points.group == 1)


def test_points_of_a_coarse_label_map_lie_in_the_middle_of_its_pixels() -> None:
    labels = torch.zeros(1, 1, 3, 4, dtype=torch.int64)
    labels[0, 0, 2, 1] = 1
    points = class_points(labels, 2, rng(), classes=(1,), view_shape=(6, 12))
    assert points.usable.tolist() == [[[True, False]]]
    assert points.indices[0, 0, 0].tolist() == [4.5, 4.0]


@pytest.mark.parametrize(("power", "wanted"), [(1.0, (0.81, 0.16, 0.03)), (0.5, (0.6, 0.27, 0.13)), (0.0, (1 / 3,) * 3),
                                              (-1.0, (0.03, 0.16, 0.81))])  # fmt: skip
def test_balanced_points_share_by_a_power_of_the_frequency(power: float, wanted: tuple[float, ...]) -> None:
    """Classes of 3240, 640 and 120 pixels; 8 of them drawn in each of 300 views: shares to 0.05."""
    labels = torch.cat([torch.zeros(3240), torch.ones(640), torch.full((120,), 2.0)]).long().reshape(1, 1, 40, 100)
    points = balanced_points(labels.expand(300, 1, 40, 100), 8, rng(), classes=range(3), power=power)
    assert points.klass is not None
    shares = torch.bincount(points.klass.flatten(), minlength=3) / 2400
    counts = torch.tensor([3240.0, 640.0, 120.0]) ** power
    assert torch.allclose(shares, counts / counts.sum(), atol=0.05)
    assert torch.allclose(shares, torch.tensor(wanted), atol=0.05)
    few = Points(indices=points.indices[:5], usable=points.usable[:5])
    assert torch.equal(under(few, labels.expand(5, 1, 40, 100)), points.klass[:5])


def test_balanced_points_take_a_small_class_whole_and_no_class_that_is_not_named() -> None:
    labels = some_labels(20, 20)
    points = balanced_points(labels, 60, rng(), classes=(1, 3), power=0.0)
    found = under(points, labels)
    assert set(found.unique().tolist()) <= {-9, 1, 3}
    assert points.usable[0, 1].all()
    assert (found[0, 0] == 3).sum() == 1
    few = balanced_points(labels, 60, rng(), classes=(3,))
    assert few.usable.sum(dim=2).tolist() == [[int((labels[b, v] == 3).sum()) for v in range(2)] for b in range(2)]


def test_class_weights_are_a_power_of_the_count() -> None:
    labels = some_labels(7, 6)
    among = torch.rand(labels.shape, generator=rng(1)) < 0.5
    weights = class_weights(labels, classes=(0, 2), power=0.5, among=among)
    for place in itertools.product(*map(range, labels.shape)):
        klass = int(labels[place])
        count = int(((labels == klass) & among)[place[:2]].sum())
        wanted = count**-0.5 if klass in (0, 2) and among[place] else 0
        assert float(weights[place]) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("shape", "radius"), [((9, 8), 1), ((9, 8), 2), ((9, 8), (0, 2)), ((4, 6, 5), 1), ((4, 6, 5), (0, 1, 2))]
)
def test_the_band_is_what_has_another_known_class_nearby(shape: tuple[int, ...], radius: int | tuple[int, ...]) -> None:
    radii = (radius,) * len(shape) if isinstance(radius, int) else radius
    g = rng(2)
    small = torch.randint(IGNORE, 3, (2, 2, *[-(-n // 3) for n in shape]), generator=g)
    labels = small
    for axis, n in enumerate(shape):  # areas of 3 pixels a side, so that not all is border
        labels = labels.repeat_interleave(3, dim=axis + 2).narrow(axis + 2, 0, n)
    band = boundary_band(labels, radius)
    for place in itertools.product(*map(range, labels.shape)):
        own = int(labels[place])
        window = [range(max(0, i - r), min(n, i + r + 1)) for i, r, n in zip(place[2:], radii, shape, strict=True)]
        near = {int(labels[(*place[:2], *other)]) for other in itertools.product(*window)}
        assert bool(band[place]) == (own != IGNORE and bool(near - {own, IGNORE}))
    assert 0 < int(band.sum()) < band.numel()


def test_the_unknown_makes_no_border() -> None:
    labels = torch.full((1, 1, 6, 6), IGNORE)
    labels[..., :3] = 1
    assert not boundary_band(labels, 2).any()
    labels[..., 4:] = 0  # the two classes are two pixels apart
    assert not boundary_band(labels, 1).any()
    assert boundary_band(labels, 2)[0, 0, 0].tolist() == [False, False, True, False, True, False]


def test_boundary_points_are_of_the_band_alone_or_by_a_share() -> None:
    labels = torch.zeros(1, 1, 20, 20, dtype=torch.int64)
    labels[..., 10:, :] = 1
    alone = boundary_points(labels, 60, rng(), classes=(0, 1), radius=2)
    assert alone.usable.sum() == 80  # two rows of 20 on either side
    assert set(alone.indices[alone.usable][:, 0].tolist()) == {8.0, 9.0, 10.0, 11.0}
    half = boundary_points(labels, 60, rng(), classes=(0, 1), radius=2, share=0.5)
    assert half.group is not None
    assert half.usable.all()
    in_band = (half.indices[..., 0] >= 8) & (half.indices[..., 0] <= 11)
    assert in_band.reshape(2, 60).sum(dim=1).tolist() == [30, 30]
    assert torch.equal(in_band, half.group == 1)


def test_a_width_in_mm_is_whole_voxels_along_each_axis() -> None:
    assert radius_in_voxels(3.0, (8.0, 1.5, 1.4)) == (0, 2, 2)
    assert radius_in_voxels(0.3, (0.1, 0.1)) == (3, 3)
    with pytest.raises(ValueError, match="holds no voxel"):
        radius_in_voxels(0.5, (8.0, 0.7))


def test_half_are_hard_by_disagreement_and_either_side_fills_up() -> None:
    labels = some_labels(16, 16)
    probs = torch.rand(2, 2, 4, 16, 16, generator=rng(4))
    probs[:, 1] += 0.6 * torch.nn.functional.one_hot(labels[:, 1].clamp(min=0), 4).movedim(-1, 1)
    points = halves(labels, probs, 12, rng(), classes=range(4))
    assert points.group is not None
    wrong = probs.argmax(dim=2) != labels
    for b, v, k in itertools.product(range(2), range(2), range(4)):
        places = slice(12 * k, 12 * k + 12)
        n_hard, n_easy = (int(((labels == k) & side)[b, v].sum()) for side in (wrong, ~wrong))
        hard = max(min(n_hard, 6), min(n_hard, 12 - n_easy))
        assert (points.group[b, v, places] == 1).sum() == hard
        assert (points.group[b, v, places] == 0).sum() == min(n_easy, 12 - hard)
    assert torch.equal(under(points, wrong.long()) == 1, points.group == 1)


@pytest.mark.parametrize("shape", [(9, 8), (4, 5, 6)], ids=["2D", "3D"])
def test_the_hardest_half_of_each_class_is_the_less_confident_one(shape: tuple[int, ...]) -> None:
    labels = some_labels(*shape)
    confidence = torch.rand(labels.shape, generator=rng(7))
    hard = hardest_half(labels, confidence, rng())
    for b, v, k in itertools.product(range(2), range(2), range(-1, 4)):
        of_class = sorted(float(c) for c in confidence[b, v][labels[b, v] == k])
        found = sorted(float(c) for c in confidence[b, v][(labels[b, v] == k) & hard[b, v]])
        assert found == ([] if k == IGNORE else of_class[: len(of_class) // 2])


def test_equal_confidence_is_told_apart_by_chance_and_not_by_place() -> None:
    labels = torch.zeros(100, 1, 4, 4, dtype=torch.int64)
    hard = hardest_half(labels, torch.ones(100, 1, 4, 4), rng()).sum(dim=0)[0]
    assert hard.sum() == 800
    assert hard.min() > 25
    assert hard.max() < 75


def test_halves_by_confidence_look_at_the_probability_of_the_own_class() -> None:
    """Class 1 has 8 pixels; the own class is less probable on the left, where it is still the most probable one."""
    labels = torch.ones(1, 1, 4, 4, dtype=torch.int64)
    labels[..., 2:, :] = IGNORE
    own = torch.full((4, 4), 0.9)
    own[:, :2] = 0.6
    probs = torch.stack([1 - own, own])[None, None]
    points = halves(labels, probs, 4, rng(), classes=(1,), by="confidence")
    assert points.group is not None
    assert torch.equal(points.group[0, 0] == 1, points.indices[0, 0, :, 1] < 2)
    assert points.group.sum() == 2
    agreeing = halves(labels, probs, 4, rng(), classes=(1,))
    assert agreeing.group is not None
    assert not agreeing.group.any()
