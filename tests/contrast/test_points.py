"""Reading maps at exact places: against grid_sample, loops over single pixels, and images of coordinates."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from contrast.view_batches import GRIDS, coordinate_batch, well_inside
from scantling.contrast.points import Points, gather, nearest_values, tags_of, together
from scantling.shapes import IGNORE

SHAPES = {"2D": (7, 5), "3D": (4, 3, 5)}


def some_points(shape: tuple[int, ...], n: int, *, seed: int, margin: float = 0.0) -> Points:
    """Random places of 2 samples in 3 views, up to `margin` voxels beyond the outermost centres."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor(shape, dtype=torch.float64) - 1 + 2 * margin
    indices = torch.rand(2, 3, n, len(shape), generator=g, dtype=torch.float64) * size - margin
    return Points(indices=indices, usable=torch.rand(2, 3, n, generator=g) < 0.8)


def all_pixels(shape: tuple[int, ...]) -> Points:
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    indices = torch.stack(axes, dim=-1).reshape(-1, len(shape)).expand(2, 3, -1, -1)
    return Points(indices=indices, usable=torch.ones(indices.shape[:3], dtype=torch.bool))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_a_voxel_reads_back_its_own_number_in_every_channel(shape: tuple[int, ...], interpolation: str) -> None:
    n = math.prod(shape)
    number = torch.arange(n).reshape(shape).double()
    row = 1e6 * torch.arange(6, dtype=torch.float64).reshape(2, 3, 1, *[1] * len(shape))
    feature_map = row + 1000 * torch.arange(4).reshape(4, *[1] * len(shape)) + number
    read = gather(feature_map, all_pixels(shape), shape, interpolation=interpolation)
    for b, v, i, c in itertools.product(range(2), range(3), range(n), range(4)):
        assert read[b, v, i, c] == 1e6 * (3 * b + v) + 1000 * c + i


@pytest.mark.parametrize("dimensions", SHAPES)
@pytest.mark.parametrize("coarser", [1, 2, 3])
def test_gather_is_grid_sample_with_border_padding(dimensions: str, coarser: int) -> None:
    map_shape = SHAPES[dimensions]
    shape = tuple(n * coarser for n in map_shape)
    points = some_points(shape, 200, seed=coarser, margin=2.0)
    feature_map = torch.randn(2, 3, 6, *map_shape, dtype=torch.float64)
    grid = ((2 * points.indices + 1) / torch.tensor(shape) - 1).flip(-1).flatten(0, 1)
    grid = grid.reshape(6, *[1] * (len(shape) - 1), 200, len(shape))
    wanted = F.grid_sample(feature_map.flatten(0, 1), grid, align_corners=False, padding_mode="border")
    wanted = wanted.reshape(2, 3, 6, 200).transpose(2, 3)
    torch.testing.assert_close(gather(feature_map, points, shape), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimensions", SHAPES)
def test_the_gradient_reaches_the_pixels_around_each_place_by_their_share(dimensions: str) -> None:
    shape = SHAPES[dimensions]
    points = some_points(shape, 4, seed=1)
    feature_map = torch.randn(2, 3, 2, *shape, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    (gather(feature_map, points, shape) * slopes).sum().backward()
    wanted = torch.zeros_like(feature_map)
    for b, v, p in itertools.product(range(2), range(3), range(4)):
        for voxel in itertools.product(*map(range, shape)):
            distances = [abs(float(x) - i) for x, i in zip(points.indices[b, v, p], voxel, strict=True)]
            share = math.prod(max(0.0, 1 - d) for d in distances)
            wanted[(b, v, slice(None), *voxel)] += share * slopes[b, v, p]
    torch.testing.assert_close(feature_map.grad, wanted, rtol=0, atol=1e-12)
    assert (wanted == 0).any()  # most pixels are near no place


def test_the_gradient_of_nearest_reading_reaches_one_pixel_each() -> None:
    points = all_pixels((7, 5)).part(slice(3, 6))
    feature_map = torch.randn(2, 3, 2, 7, 5, requires_grad=True)
    gather(feature_map, points, (7, 5), interpolation="nearest").sum().backward()
    wanted = torch.zeros(2, 3, 2, 35)
    wanted[..., 3:6] = 1
    assert torch.equal(feature_map.grad.flatten(3), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_values_and_never_the_places(dtype: torch.dtype) -> None:
    feature_map = torch.arange(2000) % 2 * torch.ones(1, 1, 3, 4, 1)  # 0 1 0 1 ... : a place's share is its value
    feature_map = feature_map.to(dtype).requires_grad_()
    indices = torch.tensor([[1800.25, 1.0], [1301.125, 2.0], [1999.0, 0.0], [0.5, 3.0]]).flip(-1)
    points = Points(indices=indices[None, None], usable=torch.ones(1, 1, 4, dtype=torch.bool))
    read = gather(feature_map, points, (4, 2000))
    assert read.dtype == dtype
    assert read.float().tolist() == [[[[0.25] * 3, [0.875] * 3, [1.0] * 3, [0.5] * 3]]]
    read.float().sum().backward()
    assert feature_map.grad is not None
    assert feature_map.grad.dtype == dtype
    assert float(feature_map.grad.float().sum()) == 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    points = some_points((7, 5), 200, seed=8)
    feature_map = (1 + torch.rand(2, 3, 4, 7, 5)).to(dtype)  # all values have one and the same unit of rounding
    exact = gather(feature_map.double(), points, (7, 5))
    off = (gather(feature_map, points, (7, 5)).double() - exact).abs()
    assert float(off.max()) < 0.501 * torch.finfo(dtype).eps


def test_nearest_values_are_those_of_the_pixel_under_the_place() -> None:
    shape, map_shape = (8, 6), (4, 3)
    labels = torch.randint(0, 9, (2, 3, *map_shape))
    points = some_points(shape, 300, seed=5, margin=1.5)
    found = nearest_values(labels, points, shape)
    weights = nearest_values(labels.float(), points, shape, outside=0)
    n_outside = 0
    for b, v, p in itertools.product(range(2), range(3), range(300)):
        y, x = points.indices[b, v, p].tolist()
        if -0.5 <= y < 7.5 and -0.5 <= x < 5.5:
            pixel = labels[b, v, int((y + 0.5) // 2), int((x + 0.5) // 2)]
            assert found[b, v, p] == pixel
            assert weights[b, v, p] == pixel
        else:
            n_outside += 1
            assert found[b, v, p] == IGNORE
            assert weights[b, v, p] == 0
    assert n_outside > 100


def test_views_that_are_named_are_the_ones_that_are_read() -> None:
    shape = (7, 5)
    points = some_points(shape, 20, seed=2)
    chosen = Points(indices=points.indices[:, [2, 0]], usable=points.usable[:, [2, 0]], views=(2, 0))
    feature_map, labels = torch.randn(2, 3, 4, *shape), torch.randint(0, 5, (2, 3, *shape))
    for interpolation in ("linear", "nearest"):
        everywhere = gather(feature_map, points, shape, interpolation=interpolation)
        assert torch.equal(gather(feature_map, chosen, shape, interpolation=interpolation), everywhere[:, [2, 0]])
    assert torch.equal(nearest_values(labels, chosen, shape), nearest_values(labels, points, shape)[:, [2, 0]])


def test_points_of_several_samplers_are_read_in_one_go() -> None:
    first, second = some_points((7, 5), 20, seed=2), some_points((7, 5), 3, seed=3)
    feature_map = torch.randn(2, 3, 4, 7, 5)
    both = together([first, second])
    assert len(both) == 23
    parts = gather(feature_map, both, (7, 5)).split([20, 3], dim=2)
    for part, points in zip(parts, (first, second), strict=True):
        assert torch.equal(part, gather(feature_map, points, (7, 5)))
    assert torch.equal(both.usable, torch.cat([first.usable, second.usable], dim=2))
    with pytest.raises(ValueError, match="different views"):
        together([first, Points(indices=second.indices, usable=second.usable, views=(0, 1, 2))])
    with pytest.raises(ValueError, match="no points"):
        together([])


@pytest.mark.parametrize("dimensions", GRIDS)
def test_positions_in_the_tags_are_those_that_a_coordinate_image_shows(dimensions: str) -> None:
    batch = coordinate_batch(dimensions, n_views=3)
    shape = batch.images.shape[3:]
    g = torch.Generator().manual_seed(4)
    indices = torch.rand(3, 3, 500, len(shape), generator=g) * (torch.tensor(shape) - 1)
    points = Points(indices=indices, usable=torch.ones(3, 3, 500, dtype=torch.bool))
    shown = gather(batch.images, points, shape).flatten(0, 2)
    inside = nearest_values(well_inside(batch), points, shape, outside=0).flatten()
    tags = tags_of(points, batch)
    off = (tags.need("position_mm") - shown)[inside].abs() / torch.tensor(batch.spacing_mm)
    assert int(inside.sum()) > 500
    assert float(off.max()) < 1e-3
    chosen = Points(indices=indices[:, [2, 0]], usable=points.usable[:, [2, 0]], views=(2, 0))
    some = tags_of(chosen, batch).need("position_mm").unflatten(0, (3, 2, 500))
    assert torch.equal(some, tags.need("position_mm").unflatten(0, (3, 3, 500))[:, [2, 0]])


def test_tags_say_what_the_batch_knows_in_the_order_sample_view_point() -> None:
    batch = coordinate_batch("2D", n_samples=4)
    shape = batch.images.shape[3:]
    g = torch.Generator().manual_seed(4)
    indices = torch.rand(4, 2, 30, 2, generator=g) * (torch.tensor(shape) + 10) - 5
    usable = torch.rand(4, 2, 30, generator=g) < 0.8
    confidence = torch.rand(4, 2, *shape, generator=g)
    points = Points(indices=indices, usable=usable, group=torch.arange(30).expand(4, 2, 30))
    tags = tags_of(points, batch, confidence=confidence)
    seen = set()
    for i, (b, v, p) in enumerate(itertools.product(range(4), range(2), range(30))):
        y, x = (math.floor(float(t) + 0.5) for t in indices[b, v, p])
        inside = 0 <= y < shape[0] and 0 <= x < shape[1]
        seen.add(inside)
        assert tags.need("klass")[i] == (batch.label_maps[b, v, y, x] if inside else IGNORE)
        assert tags.need("trust")[i] == (batch.weights[b, v, y, x] if inside else 0)
        assert tags.need("confidence")[i] == (confidence[b, v, y, x] if inside else 0)
        assert tags.need("usable")[i] == usable[b, v, p]
        assert tags.need("patient")[i] == batch.patient_indices[b]
        assert tags.need("view")[i] == v
        assert tags.need("group")[i] == p
        assert tags.need("slice_position")[i] == batch.slice_positions[b]
        assert torch.equal(tags.need("annotated")[i], batch.annotated[b])
    assert seen == {True, False}
    assert (tags.need("point") == -1).all()
    assert tags.site is None


def test_labels_given_stand_in_for_the_batch_and_a_class_drawn_for_for_both() -> None:
    batch = coordinate_batch("2D")
    shape = batch.images.shape[3:]
    points = Points(indices=torch.zeros(3, 2, 5, 2), usable=torch.ones(3, 2, 5, dtype=torch.bool))
    pseudo = torch.full((3, 2, 10, 9), 7)
    known = torch.ones(3, 3, dtype=torch.bool)
    trust = torch.full((3, 2, *shape), 0.25)
    tags = tags_of(points, batch, label_maps=pseudo, annotated=known, weights=trust)
    assert (tags.need("klass") == 7).all()
    assert tags.need("annotated").all()
    assert (tags.need("trust") == 0.25).all()
    drawn = Points(indices=points.indices, usable=points.usable, klass=torch.full((3, 2, 5), 2))
    assert (tags_of(drawn, batch, label_maps=pseudo).need("klass") == 2).all()


@pytest.mark.parametrize("dimensions", GRIDS)
def test_crops_of_one_case_are_one_image_and_slices_of_it_are_not(dimensions: str) -> None:
    """Samples 0 and 1 are of case 0 and one slice, 2 and 3 of case 1; the last is made another slice of case 0."""
    batch = coordinate_batch(dimensions, n_samples=5)
    batch.case_indices[4] = 0
    points = Points(indices=torch.zeros(5, 2, 1, len(batch.spacing_mm)), usable=torch.ones(5, 2, 1, dtype=torch.bool))
    image = tags_of(points, batch).need("image").tolist()
    same = [[i for i, other in enumerate(image) if other == number] for number in dict.fromkeys(image)]
    crops_of_a_volume = [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7]]
    slices = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert same == (slices if dimensions == "2D" else crops_of_a_volume)


def test_reading_waits_for_no_device() -> None:
    """A value or a length that only the device knows cannot be had of tensors without data."""
    with FakeTensorMode():
        points = some_points((7, 5), 20, seed=2)
        feature_map = torch.randn(2, 3, 4, 7, 5, requires_grad=True)
        for interpolation in ("linear", "nearest"):
            gather(feature_map, points, (14, 10), interpolation=interpolation).sum().backward()
        values: Tensor = nearest_values(torch.zeros(2, 3, 7, 5), points, (7, 5), outside=0)
        assert values.shape == (2, 3, 20)
