"""Samplers by place: exact positions against images of coordinates, frequencies against a chi-square."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from contrast.view_batches import GRIDS, coordinate_batch, plain_batch, well_inside
from scantling.contrast import sampling
from scantling.contrast.blocks import shuffled_blocks
from scantling.contrast.class_sampling import balanced_points, boundary_points, class_points, halves
from scantling.contrast.points import Points, gather, nearest_values, tags_of
from scantling.contrast.sampling import grid_points, random_points, shared_points
from scantling.views import elastic
from scantling.views.correspondence import source_positions_mm, view_indices
from scantling.views.view import ViewBatch


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(batch: ViewBatch, seed: int = 0) -> ViewBatch:
    """The batch with views that are bent by up to 2 mm; its images know nothing of it."""
    control = elastic.control_shape(batch.view_shape, batch.spacing_mm, control_spacing_mm=9.0)
    shape = (*batch.images.shape[:2], len(batch.spacing_mm), *control)
    return replace(batch, displacements=torch.rand(shape, generator=rng(seed), dtype=torch.float64) * 4 - 2)


def chi_square(counts: Tensor) -> float:
    """Of counts that should all be the same, in standard deviations above its mean; above 4 is one case in 10 000."""
    expected = counts.double().mean()
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("dimensions", GRIDS)
def test_a_shared_point_shows_the_same_place_in_every_view(dimensions: str) -> None:
    for seed in range(4):
        batch = coordinate_batch(dimensions, n_views=3, seed=seed)
        points = shared_points(batch, 200, rng(seed), among=well_inside(batch))
        shown = gather(batch.images, points, batch.view_shape)
        spread = (shown.amax(dim=1) - shown.amin(dim=1)) / torch.tensor(batch.spacing_mm)
        assert int(points.usable.sum()) > 900
        assert float(spread[points.usable[:, 0]].max()) < 1e-3
        tags = tags_of(points, batch)
        off = (tags.need("position_mm") - shown.flatten(0, 2))[points.usable.flatten()].abs()
        assert float(off.max()) < 1e-3 * max(batch.spacing_mm)
        assert torch.equal(points.usable[:, 0], points.usable[:, 2])


@pytest.mark.parametrize("dimensions", GRIDS)
def test_a_shared_point_of_bent_views_has_one_position(dimensions: str) -> None:
    batch = bent(coordinate_batch(dimensions, n_views=3))
    points = shared_points(batch, 150, rng())
    position = tags_of(points, batch).need("position_mm").unflatten(0, points.usable.shape)
    spread = (position.amax(dim=1) - position.amin(dim=1)) / torch.tensor(batch.spacing_mm)
    assert int(points.usable.sum()) > 1000
    assert float(spread[points.usable[:, 0]].max()) < 0.1
    straight = tags_of(points, replace(batch, displacements=None)).need("position_mm").unflatten(0, points.usable.shape)
    apart = (straight.amax(dim=1) - straight.amin(dim=1)) / torch.tensor(batch.spacing_mm)
    assert float(apart[points.usable[:, 0]].max()) > 0.5  # the bending matters


def test_bent_views_give_points_up_to_their_rim() -> None:
    """Also those that the views would not see if they were straight."""
    batch = bent(plain_batch((30, 30)))
    points = shared_points(batch, 400, rng())
    source_mm = source_positions_mm(batch, points.indices)
    straight = view_indices(replace(batch, displacements=None), source_mm)[points.usable]
    beyond = ((straight < 0) | (straight > 29)).any(dim=-1)
    assert int(points.usable.sum()) > 1000
    assert int(beyond.sum()) > 5  # none, if only what straight views see were listed


def test_bent_views_never_give_a_place_twice_however_many_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_CANDIDATES", 60)
    batch = bent(plain_batch((12, 12), n_samples=20))
    points = shared_points(batch, 60, rng())
    for b in range(20):
        places = [tuple(place) for place in points.indices[b, 0][points.usable[b, 0]].tolist()]
        assert len(places) == len(set(places)) > 20


@pytest.mark.parametrize("small", [0, 1])
def test_a_view_that_sees_a_hundredth_of_another_still_fills_its_quota(small: int) -> None:
    batch = plain_batch((50, 50))
    batch.source_from_view[:, small, 0, 0] = 0.1
    batch.source_from_view[:, small, 1, 1] = 0.1
    batch.source_from_view[:, small, :-1, -1] = 20.0
    points = shared_points(batch, 300, rng())
    assert points.usable.all()
    off = points.indices[:, small] * 0.1 + 20 - points.indices[:, 1 - small]
    assert float(off.abs().max()) < 1e-4


def test_a_shared_point_has_one_number_and_no_other_point_has_it() -> None:
    batch = coordinate_batch("2D", n_samples=4, n_views=3)
    points = shared_points(batch, 50, rng())
    assert points.point is not None
    assert torch.equal(points.point, points.point[:, :1].expand(-1, 3, -1))
    numbers = points.point[:, 0][points.usable[:, 0]].tolist()
    assert len(set(numbers)) == len(numbers) > 100
    assert min(numbers) >= 0


def test_only_the_chosen_views_need_to_see_a_point() -> None:
    """Views 0 and 2 see the same; view 1 sees nothing of them."""
    batch = plain_batch((12, 10), shifts=((0.0, 0.0), (50.0, 0.0), (2.0, 0.0)))
    assert not shared_points(batch, 20, rng()).usable.any()
    points = shared_points(batch, 20, rng(), views=(0, 2))
    assert points.usable.all()
    assert points.views == (0, 2)
    off = points.indices[:, 0] - points.indices[:, 1] - torch.tensor([2.0, 0.0])
    assert float(off.abs().max()) < 1e-5
    tags = tags_of(points, batch)
    assert sorted(set(tags.need("view").tolist())) == [0, 2]


def test_shared_points_lie_inside_the_image_or_where_they_are_told_to() -> None:
    batch = plain_batch((16, 16))
    weights = batch.weights.clone()
    weights[:, 0, :8] = 0
    weights[:, 1, :, :4] = 0
    points = shared_points(replace(batch, weights=weights), 30, rng())
    assert points.usable.all()
    assert float(points.indices[..., 0].min()) >= 7.5
    assert float(points.indices[..., 1].min()) >= 3.5
    among = torch.zeros(2, 2, 4, 4, dtype=torch.bool)  # a coarse mask: one cell of 4 x 4 pixels
    among[:, :, 1, 2] = True
    points = shared_points(batch, 30, rng(), among=among)
    assert points.usable.all()
    assert (points.indices >= torch.tensor([3.5, 7.5])).all()
    assert (points.indices < torch.tensor([7.5, 11.5])).all()


@pytest.mark.parametrize("shape", [(20, 24), (10, 8, 12)], ids=["2D", "3D"])
def test_places_that_are_not_shared_are_unusable_or_filled_with_negatives(shape: tuple[int, ...]) -> None:
    """Sample 0 shares all, sample 1 nothing, sample 2 one part in 240 of the candidates at most."""
    batch = plain_batch(shape, n_samples=3)
    batch.source_from_view[1, 1, 0, -1] = 100.0
    batch.source_from_view[2, 1, :-1, -1] = torch.tensor(shape, dtype=torch.float64) - 1.7
    points = shared_points(batch, 400, rng())
    found = points.usable.sum(dim=2)
    assert found[:2].tolist() == [[400, 400], [0, 0]]
    assert 0 < int(found[2, 0]) == int(found[2, 1]) < 400
    filled = shared_points(batch, 400, rng(), fill="outside")
    assert filled.point is not None
    assert points.point is not None
    assert filled.usable.all()
    assert torch.equal(filled.point >= 0, points.usable)
    assert torch.equal(filled.indices[points.usable], points.indices[points.usable])
    differing = (filled.indices[1, 0] != filled.indices[1, 1]).any(dim=-1)
    assert int(differing.sum()) > 390  # what fills is drawn for each view anew
    assert torch.equal(points.point == -1, ~points.usable)


def test_every_place_of_the_overlap_is_equally_likely() -> None:
    """The second view sees a quarter of the first, turned and at twice the size: 16 equal parts of it."""
    batch = plain_batch((32, 32), n_samples=40)
    matrix = torch.tensor([[0, 0.5, 8.0], [-0.5, 0, 23.5], [0, 0, 1]], dtype=torch.float64)
    batch.source_from_view[:, 1] = matrix
    counts = torch.zeros(16)
    for seed in range(15):
        points = shared_points(batch, 30, rng(seed))
        assert points.usable.all()
        cells = (points.indices[:, 1] / 31 * 4).long().clamp(max=3)
        counts += torch.bincount((cells[..., 0] * 4 + cells[..., 1]).flatten(), minlength=16)
    assert chi_square(counts) < 4
    assert counts.sum() == 15 * 40 * 30


def test_every_pixel_is_drawn_equally_often_and_none_twice() -> None:
    batch = plain_batch((9, 8), n_samples=50)
    among = torch.rand(50, 2, 9, 8, generator=rng(5)) < 2  # all
    among[:, :, 2:4] = False
    counts = torch.zeros(72)
    for seed in range(20):
        points = random_points(batch, 10, rng(seed), among=among)
        assert points.usable.all()
        numbers = (points.indices[..., 0] * 8 + points.indices[..., 1]).long()
        assert (numbers.sort(dim=-1).values.diff(dim=-1) > 0).all()
        counts += torch.bincount(numbers.flatten(), minlength=72)
    drawn = counts.reshape(9, 8)
    assert (drawn[2:4] == 0).all()
    assert chi_square(drawn[[0, 1, 4, 5, 6, 7, 8]].flatten()) < 4


def test_random_points_are_drawn_for_each_view_anew_by_weights_where_given() -> None:
    batch = plain_batch((10, 10), n_samples=400)
    points = random_points(batch, 3, rng(), views=(1, 0))
    assert points.views == (1, 0)
    assert (points.indices[:, 0] != points.indices[:, 1]).any(dim=-1).float().mean() > 0.9
    weights = torch.ones(400, 2, 2, 2)  # coarse: quarters of the view
    weights[:, :, 1, 1] = 5
    weights[:, :, 0, 0] = 0
    drawn = random_points(batch, 1, rng(), among=weights)
    quarter = (drawn.indices[..., 0] > 4.5).long() * 2 + (drawn.indices[..., 1] > 4.5)
    shares = torch.bincount(quarter.flatten(), minlength=4) / 800
    assert torch.allclose(shares, torch.tensor([0.0, 1.0, 1.0, 5.0]) / 7, atol=0.07)
    assert set(drawn.indices.unique().tolist()) == {2.0, 7.0}


def test_random_points_leave_out_what_is_outside_the_image_and_say_where_they_are_short() -> None:
    batch = plain_batch((6, 5))
    weights = torch.zeros(2, 2, 6, 5)
    weights[:, :, 1, :4] = 0.3
    weights[1, 1] = 0
    points = random_points(replace(batch, weights=weights), 7, rng())
    assert points.usable.sum(dim=2).tolist() == [[4, 4], [4, 0]]
    assert (points.indices[..., 0][points.usable] == 1).all()


@pytest.mark.parametrize("shape", [(7, 10), (5, 4, 6)], ids=["2D", "3D"])
def test_a_grid_of_one_voxel_steps_is_every_voxel(shape: tuple[int, ...]) -> None:
    points = grid_points(plain_batch(shape), 1)
    wanted = torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.float32)
    for b, v in itertools.product(range(2), range(2)):
        torch.testing.assert_close(points.indices[b, v], wanted)
    assert points.usable.all()


def test_a_jittered_grid_has_one_place_in_each_cell() -> None:
    batch = plain_batch((12, 10))
    still, moved = grid_points(batch, (4, 5)), grid_points(batch, (4, 5), rng=rng(), jitter=1.0)
    assert still.indices[0, 0].tolist() == [[y, x] for y in (1.5, 5.5, 9.5) for x in (2.0, 7.0)]
    cells = torch.stack([((moved.indices[..., 0] + 0.5) // 4), (moved.indices[..., 1] + 0.5) // 5], dim=-1)
    assert (cells == torch.tensor([[y, x] for y in range(3) for x in range(2)])).all()
    assert not torch.equal(moved.indices[0, 0], moved.indices[0, 1])
    assert float((moved.indices - still.indices).abs().amax()) > 1
    half = grid_points(batch, (4, 5), rng=rng(), jitter=0.25)
    assert float(((half.indices - still.indices).abs() / torch.tensor([4, 5])).max()) <= 0.125
    ragged = grid_points(batch, 5).indices[0, 0]  # 12 voxels: three cells of 4, none left over
    assert sorted(set(ragged[:, 0].tolist())) == [1.5, 5.5, 9.5]
    with pytest.raises(ValueError, match=r"jitter 0\.5"):
        grid_points(batch, 4, jitter=0.5)


def test_a_grid_leaves_out_what_is_outside_the_image() -> None:
    batch = plain_batch((6, 6))
    weights = batch.weights.clone()
    weights[0, 1, 3:] = 0
    points = grid_points(replace(batch, weights=weights), 1)
    assert points.usable.sum(dim=2).tolist() == [[36, 18], [36, 36]]


SAMPLERS: dict[str, Callable[[ViewBatch, torch.Generator], Points]] = {
    "shared": lambda batch, g: shared_points(batch, 20, g, fill="outside"),
    "shared, bent": lambda batch, g: shared_points(bent(batch), 20, g, views=(0, 1)),
    "random": lambda batch, g: random_points(batch, 20, g),
    "grid": lambda batch, g: grid_points(batch, 3, rng=g, jitter=1.0),
    "blocks": lambda batch, g: shuffled_blocks(batch, 5, g, label_maps=batch.label_maps),
    "class": lambda batch, g: class_points(batch.label_maps, 5, g, classes=range(3)),
    "balanced": lambda batch, g: balanced_points(batch.label_maps, 20, g, classes=range(3)),
    "boundary": lambda batch, g: boundary_points(batch.label_maps, 5, g, classes=range(3), radius=2, share=0.5),
    "halves": lambda batch, g: halves(
        batch.label_maps,
        torch.linspace(0, 1, 3).reshape(1, 1, 3, *[1] * len(batch.spacing_mm)).expand(
            *batch.label_maps.shape[:2], 3, *batch.view_shape
        ),
        5, g, classes=range(3), by="confidence",
    ),
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("dimensions", GRIDS)
def test_the_generator_alone_decides_and_no_global_state(
    dimensions: str, sampler: Callable[[ViewBatch, torch.Generator], Points]
) -> None:
    batch = coordinate_batch(dimensions)
    before = torch.get_rng_state()
    first, again, other = sampler(batch, rng(1)), sampler(batch, rng(1)), sampler(batch, rng(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("indices", "usable", "point", "klass", "group"):
        one, two = getattr(first, name), getattr(again, name)
        assert (one is None and two is None) or torch.equal(one, two)
    assert first.indices.shape == other.indices.shape
    assert not torch.equal(first.indices, other.indices)
    assert int(first.usable.sum()) > 50
    assert len(tags_of(first, batch).need("klass")) == first.usable.numel()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_no_sampler_waits_for_the_device(sampler: Callable[[ViewBatch, torch.Generator], Points]) -> None:
    """A value or a length that only the device knows cannot be had of tensors without data."""
    with FakeTensorMode():
        assert sampler(plain_batch((12, 10)), rng()).indices.dim() == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_on_a_cuda_device_nothing_is_waited_for_and_the_same_seed_draws_the_same(
    sampler: Callable[[ViewBatch, torch.Generator], Points],
) -> None:
    batch = coordinate_batch("2D").to(torch.device("cuda"))
    first = sampler(batch, rng(1))
    assert torch.equal(first.indices, sampler(batch, rng(1)).indices)
    features = torch.randn(3, 2, 8, *batch.view_shape, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        points = sampler(batch, rng(1))
        gather(features, points, batch.view_shape).sum().backward()
        nearest_values(batch.label_maps, points, batch.view_shape)
    finally:
        torch.cuda.set_sync_debug_mode("default")
