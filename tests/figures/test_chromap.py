"""`chromap` on any features: pictures, volumes, tensors; overlays; the published mode."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import scantling
from scantling.errors import ConfigError
from scantling.figures.chromap import chromap
from scantling.figures.colour_disk import disk_colours, disk_picture, oklab_from_srgb
from scantling.figures.enclosing_ellipse import enclosing_ellipse
from scantling.figures.fitted_chromap import ChroMap
from scantling.figures.published_chromap import hsv_colours, released_ellipse

HAS_UMAP = importlib.util.find_spec("umap") is not None


def dense(*shape: int, n_features: int = 6, seed: int = 0) -> np.ndarray:
    """Smooth features `[feature, *shape]`."""
    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.normal(size=shape), 3) for _ in range(n_features)]).astype(np.float32)


def test_one_picture_a_stack_of_views_and_a_volume_have_colours_of_their_own_shape() -> None:
    picture = scantling.chromap(dense(20, 24))
    assert picture.colours.shape == (20, 24, 3)
    assert picture.colours.dtype == np.uint8
    assert picture.places.shape == (20, 24, 2)
    assert chromap(dense(2, 3, 10, 12).transpose(1, 2, 0, 3, 4)).colours.shape == (2, 3, 10, 12, 3)
    assert chromap(dense(6, 10, 12), spatial_axes=3).colours.shape == (6, 10, 12, 3)
    assert chromap(dense(2, 6, 10, 12).transpose(1, 0, 2, 3, 4), spatial_axes=3).colours.shape == (2, 6, 10, 12, 3)


def test_the_colours_are_those_of_one_fitted_map_of_all_views() -> None:
    views = dense(3, 12, 14).transpose(1, 0, 2, 3)
    found = chromap(views)
    assert found.chromap is not None
    fitted = ChroMap.fit([view.reshape(6, -1) for view in views])
    assert fitted.to_json() == found.chromap.to_json()
    for view, places, colours in zip(views, found.places, found.colours, strict=True):
        np.testing.assert_array_equal(places, fitted.places(view))
        np.testing.assert_array_equal(colours, disk_colours(fitted.places(view)))


def test_a_tensor_on_its_way_through_a_network_is_as_good_as_an_array() -> None:
    features = dense(16, 16)
    tensor = torch.from_numpy(features).requires_grad_()
    np.testing.assert_array_equal(chromap(tensor).colours, chromap(features).colours)
    half = chromap(tensor.to(torch.bfloat16)).colours.astype(int)
    assert np.abs(half - chromap(features).colours).mean() < 4


def test_it_is_the_same_every_time_and_a_map_can_be_applied_to_other_features() -> None:
    first, second = dense(16, 16, seed=1), dense(16, 16, seed=2)
    one = chromap(first)
    np.testing.assert_array_equal(one.colours, chromap(first).colours)
    assert one.chromap is not None
    np.testing.assert_array_equal(chromap(second, like=one.chromap).colours, one.chromap.colours(second))


def test_an_overlay_has_the_size_of_its_image_and_keeps_the_maps_hues() -> None:
    found = chromap(dense(16, 16))
    image = np.random.default_rng(0).integers(0, 4000, (1, 64, 48)).astype(np.int16)
    overlay = found.overlay(image)
    assert overlay.shape == (64, 48, 3)
    colour = np.random.default_rng(0).integers(0, 255, (3, 64, 48)).astype(np.uint8)
    for picture in (image, colour):
        only_map = found.overlay(picture, opacity=1.0)
        lab = oklab_from_srgb(only_map / 255)
        np.testing.assert_allclose(lab[..., 0], lab[..., 0].mean(), atol=0.01)
        grey = found.overlay(picture, opacity=0.0)
        assert (grey == grey[..., :1]).all()
    views = chromap(dense(2, 8, 8).transpose(1, 0, 2, 3))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(views.overlay(image, (0,)), views.overlay(image, (1,)))
    np.testing.assert_array_equal(found.legend(60), disk_picture(60))
    with pytest.raises(ValueError, match="opacity"):
        found.overlay(image, opacity=1.5)


def test_what_is_no_map_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match="spatial axes"):
        chromap(np.zeros((5, 5)))
    with pytest.raises(ValueError, match="finite"):
        chromap(np.full((2, 4, 4), np.nan))
    with pytest.raises(ConfigError, match=r"--mode pka: there is no such mode; did you mean 'pca'\? \[E-FIG-02\]"):
        chromap(dense(4, 4), mode="pka")


def released_ellipse_by_loops(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The released ascent, step by step: uniform weights, towards the farthest point, at most 1000 times."""
    n, weights = len(points), [1 / len(points)] * len(points)

    def moments() -> tuple[np.ndarray, np.ndarray]:
        centre = sum(w * p for w, p in zip(weights, points, strict=True))
        return centre, sum(w * np.outer(p - centre, p - centre) for w, p in zip(weights, points, strict=True))

    for _ in range(1000):
        centre, spread = moments()
        squares = [(p - centre) @ np.linalg.solve(spread, p - centre) for p in points]
        farthest = max(range(n), key=squares.__getitem__)
        step = min(1.0, max(0.0, (squares[farthest] - 3) / (3 * (squares[farthest] - 1))))
        moved = [(1 - step) * w + (step if k == farthest else 0.0) for k, w in enumerate(weights)]
        change = sum((a - b) ** 2 for a, b in zip(moved, weights, strict=True)) ** 0.5
        weights = moved
        if change <= 1e-5:
            break
    centre, spread = moments()
    shape = np.linalg.inv(spread) / 2
    largest = max((p - centre) @ shape @ (p - centre) for p in points)
    return centre, shape / (largest + 1e-6) if largest > 1 else shape


@pytest.mark.parametrize("seed", range(3))
def test_the_released_ellipse_is_that_of_its_own_steps_and_larger_than_need_be(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(60, 2)) @ np.array([[2.0, 0.4], [0.0, 0.7]])
    centre, shape = released_ellipse_by_loops(points)
    found = released_ellipse(points)
    np.testing.assert_allclose(found.centre, centre, atol=1e-9)
    np.testing.assert_allclose(found.to_disk @ found.to_disk, shape, rtol=1e-6)
    assert np.hypot(*found.place(points).T).max() <= 1
    assert found.area > 1.01 * enclosing_ellipse(points).area


@pytest.mark.skipif(HAS_UMAP, reason="umap-learn is installed")
def test_without_umap_the_published_mode_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'scantling\[umap\]' \[E-FIG-03\]"):
        chromap(dense(8, 8), mode="umap")


class PlaneOfTwo:
    """Stands for UMAP: gives the first two columns, and remembers what it was given."""

    settings: ClassVar[dict[str, object]] = {}
    rows: ClassVar[list[np.ndarray]] = []

    def __init__(self, **settings: object) -> None:
        PlaneOfTwo.settings = settings

    def fit_transform(self, rows: np.ndarray) -> np.ndarray:
        PlaneOfTwo.rows.append(rows)
        return np.asarray(rows[:, :2] * [3.0, 1.0])


def test_the_published_mode_reduces_standardised_directions_and_colours_them_by_hsv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("umap")
    module.__spec__ = importlib.machinery.ModuleSpec("umap", None)
    module.UMAP = PlaneOfTwo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    views = dense(2, 10, 11).transpose(1, 0, 2, 3)
    found = chromap(views, mode="umap", seed=5)
    assert set(PlaneOfTwo.settings) == {"random_state", "n_jobs"}  # all others are the library's
    rows = torch.from_numpy(np.concatenate([view.reshape(6, -1).T for view in views]))
    rows = torch.nn.functional.normalize(rows, dim=1)
    rows = (rows - rows.mean(dim=0)) / (rows.std(dim=0) + 1e-5)
    np.testing.assert_allclose(PlaneOfTwo.rows[-1], rows.numpy(), atol=1e-4)
    points = rows.numpy()[:, :2].astype(np.float64) * [3.0, 1.0]
    centre, shape = released_ellipse_by_loops(points)
    values, axes = np.linalg.eigh(shape)
    wanted = (points - centre) @ (axes * np.sqrt(values)) @ axes.T
    np.testing.assert_allclose(found.places.reshape(-1, 2), wanted, atol=1e-3)
    assert found.chromap is None
    np.testing.assert_array_equal(found.colours, hsv_colours(found.places))
    image = np.random.default_rng(0).integers(0, 255, (1, 20, 22)).astype(np.uint8)
    blocks = found.colours[0].repeat(2, axis=0).repeat(2, axis=1)
    wanted_blend = 0.5 * found.overlay(image, (0,), opacity=0.0) + 0.5 * blocks
    np.testing.assert_allclose(found.overlay(image, (0,)), wanted_blend, atol=0.51)


@pytest.mark.skipif(not HAS_UMAP, reason="umap-learn is not installed (pip install 'scantling[umap]')")
def test_umap_itself_gives_the_same_disk_every_time_with_two_tissues_apart() -> None:
    rng = np.random.default_rng(0)
    left = np.arange(22)[None, :] < 11
    tissues = np.where(left, rng.normal(size=(6, 1, 1)), rng.normal(size=(6, 1, 1)))
    features = (tissues + 0.1 * rng.normal(size=(6, 10, 22))).astype(np.float32)
    found = chromap(features, mode="umap", seed=5)
    np.testing.assert_array_equal(found.colours, chromap(features, mode="umap", seed=5).colours)
    assert np.hypot(found.places[..., 0], found.places[..., 1]).max() <= 1
    centres = [found.places[:, half].mean(axis=(0, 1)) for half in (np.s_[:11], np.s_[11:])]
    nearer = np.linalg.norm(found.places - centres[0], axis=-1) < np.linalg.norm(found.places - centres[1], axis=-1)
    np.testing.assert_array_equal(nearer, np.broadcast_to(left, (10, 22)))
