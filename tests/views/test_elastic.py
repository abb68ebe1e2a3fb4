"""Oracles: SciPy's B-splines, one point after the other, and differences of the field itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from scantling.errors import ConfigError
from scantling.views import elastic

CASES = [((20, 17), (0.7, 1.2), 5.0), ((9, 12, 10), (1.5, 1.0, 0.8), 3.0)]


def some_points(shape: tuple[int, ...], *, largest: float = 1.0, views: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.rand((views, len(shape), *shape), generator=generator, dtype=torch.float64) - 1) * largest


def by_scipy(control: np.ndarray, at: np.ndarray, patch: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """The field of one view at points [point, axis] in mm, inside it."""
    values = np.repeat(control[None], len(at), axis=0)  # [point, axis, *control]
    for axis, (n, mm) in enumerate(zip(patch, spacing, strict=True)):
        points = values.shape[2]
        if points == 1:
            values = values[:, :, 0]
            continue
        cell = (n - 1) * mm / (points - 3)
        knots = np.arange(-3, points + 1) * cell
        values = np.stack([BSpline(knots, np.moveaxis(v, 1, 0), 3)(p[axis]) for v, p in zip(values, at, strict=True)])
    return values


@pytest.mark.parametrize(("patch", "spacing", "between"), CASES)
def test_the_field_is_scipys_cubic_spline_at_any_point_and_at_pixels(patch, spacing, between):
    shape = elastic.control_shape(patch, spacing, control_spacing_mm=between)
    control = some_points(shape)
    rng = np.random.default_rng(0)
    lengths = (np.array(patch) - 1) * spacing
    at = rng.uniform(0, 1, (2, 30, len(patch))) * lengths
    at[:, 0], at[:, 1] = 0, lengths
    place = {"patch_size": patch, "spacing_mm": spacing}
    found = elastic.displacement(torch.from_numpy(at), control, **place)
    for view in range(2):
        np.testing.assert_allclose(found[view], by_scipy(control[view].numpy(), at[view], patch, spacing), atol=1e-12)
    field = elastic.field(control, patch)
    pixels = rng.integers(0, patch, (30, len(patch)))
    expected = by_scipy(control[1].numpy(), pixels * np.array(spacing), patch, spacing)
    np.testing.assert_allclose(field[1].numpy()[(slice(None), *pixels.T)].T, expected, atol=1e-12)


def test_nothing_varies_along_an_axis_that_is_shorter_than_the_spacing_or_kept():
    assert elastic.control_shape((5, 41), (1.0, 1.0), control_spacing_mm=10.0) == (1, 7)
    assert elastic.control_shape((9, 41, 41), (5.0, 1.0, 1.0), control_spacing_mm=10.0, kept_axes=1) == (1, 7, 7)
    assert elastic.control_shape((1, 11), (3.0, 1.0), control_spacing_mm=10.0) == (1, 4)
    control = some_points((1, 4))
    field = elastic.field(control, (6, 11))
    assert field.shape == (2, 2, 1, 11)
    points = torch.tensor([[[0.0, 3.0], [5.0, 3.0]]] * 2, dtype=torch.float64)
    found = elastic.displacement(points, control, patch_size=(6, 11), spacing_mm=(1.0, 1.0))
    torch.testing.assert_close(found[:, 0], found[:, 1], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 1], field[:, :, 0, 3], rtol=0, atol=1e-12)


def test_beyond_the_view_a_point_moves_as_the_nearest_of_the_view():
    control = some_points((4, 5))
    place = {"patch_size": (11, 21), "spacing_mm": (1.0, 1.0)}
    outside = torch.tensor([[[-3.0, 5.0], [10.0, 99.0]]] * 2, dtype=torch.float64)
    rim = torch.tensor([[[0.0, 5.0], [10.0, 20.0]]] * 2, dtype=torch.float64)
    torch.testing.assert_close(
        elastic.displacement(outside, control, **place), elastic.displacement(rim, control, **place), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", ["drawn", "chequered", "ridged"])
@pytest.mark.parametrize(("patch", "spacing", "between"), CASES)
def test_the_largest_field_allowed_does_not_fold_and_is_undone(patch, spacing, between, kind):
    shape = elastic.control_shape(patch, spacing, control_spacing_mm=between)
    largest = elastic.STEEPEST * between / (2 * len(patch))
    numbers = np.indices(shape)
    sign = {"drawn": None, "chequered": numbers.sum(axis=0) % 2, "ridged": numbers[-1] % 2}[kind]
    control = some_points(shape, largest=largest)
    if sign is not None:
        control = torch.from_numpy((2 * sign - 1) * largest).expand(2, len(patch), *shape).double()
    place = {"patch_size": patch, "spacing_mm": spacing}
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([(n - 1) * mm for n, mm in zip(patch, spacing, strict=True)], dtype=torch.float64)
    points = torch.rand((2, 400, len(patch)), generator=generator, dtype=torch.float64) * (lengths + 4) - 2
    moved = elastic.displacement(points, control, **place)
    # the change per mm in the maximum norm, by differences: no more than allowed, so nothing folds
    step, steepness = 1e-5, torch.zeros(2, 400, len(patch), dtype=torch.float64)
    for axis in range(len(patch)):
        nudged = points.clone()
        nudged[..., axis] += step
        steepness += ((elastic.displacement(nudged, control, **place) - moved) / step).abs()
    assert steepness.max() <= elastic.STEEPEST + 1e-4
    assert steepness.max() > 0.01
    back = elastic.undo(points + moved, control, **place)
    assert (back - points).abs().max() < 1e-3 * min(spacing)


def test_a_field_that_could_fold_is_refused():
    elastic.require_invertible(6.0, 32.0, varying_axes=2)
    elastic.require_invertible(4.0, 32.0, varying_axes=3)
    with pytest.raises(ConfigError, match=r"elastic_mm = 6\.1: .* 32 mm apart along 2 axes a view may fold above 6 mm"):
        elastic.require_invertible(6.1, 32.0, varying_axes=2)
    with pytest.raises(ConfigError, match="above 4 mm; lower it or raise elastic_spacing_mm"):
        elastic.require_invertible(6.0, 32.0, varying_axes=3)
