"""The least enclosing ellipse: closed forms, and another solver on small sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from scantling.figures.enclosing_ellipse import Ellipse, enclosing_ellipse


def radii(ellipse: Ellipse, points: np.ndarray) -> np.ndarray:
    return np.hypot(*ellipse.place(points).T)


def least_area_by_slsqp(points: np.ndarray) -> float:
    """The area of {p: |L p - b| <= 1} for the lower triangular L of largest determinant that holds every point."""
    scale = np.abs(points).max()
    points = points / scale

    def distances(unknown: np.ndarray) -> np.ndarray:
        a, b, c, x, y = unknown
        return 1 - (a * points[:, 0] - x) ** 2 - (b * points[:, 0] + c * points[:, 1] - y) ** 2

    best = min(
        (
            minimize(
                lambda u: -math.log(abs(u[0] * u[2]) + 1e-300),
                start,
                constraints={"type": "ineq", "fun": distances},
                method="SLSQP",
                options={"maxiter": 2000, "ftol": 1e-14},
            )
            for start in ([0.5, 0.0, 0.5, 0.0, 0.0], [0.3, 0.1, 0.4, 0.1, -0.1])
        ),
        key=lambda found: found.fun if distances(found.x).min() > -1e-7 else math.inf,
    )
    return math.pi / abs(best.x[0] * best.x[2]) * scale**2


def test_points_on_an_ellipse_give_that_ellipse() -> None:
    angles = np.linspace(0, 2 * math.pi, 37, endpoint=False)
    turn = np.array([[math.cos(0.4), math.sin(0.4)], [-math.sin(0.4), math.cos(0.4)]])
    points = np.column_stack([5 * np.cos(angles), 0.5 * np.sin(angles)]) @ turn + [3, -7]
    ellipse = enclosing_ellipse(points)
    assert ellipse.area == pytest.approx(math.pi * 5 * 0.5, rel=1e-6)
    np.testing.assert_allclose(ellipse.centre, [3, -7], atol=1e-5)
    np.testing.assert_allclose(radii(ellipse, points), 1, atol=1e-6)
    along = np.array([[5.0, 0.0]]) @ turn + [3, -7]
    np.testing.assert_allclose(ellipse.place(along), [[1.0, 0.0]] @ turn, atol=1e-6)  # directions are not turned


def test_a_triangle_has_its_steiner_circumellipse_and_a_parallelogram_half_pi_times_its_area() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 3.0]])
    area = 0.5 * abs(np.linalg.det(triangle[1:] - triangle[0]))
    found = enclosing_ellipse(triangle)
    assert found.area == pytest.approx(4 * math.pi / (3 * math.sqrt(3)) * area, rel=1e-6)
    np.testing.assert_allclose(found.centre, triangle.mean(axis=0), atol=1e-6)
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0], [1.0, 1.0], [0.4, 1.9]])
    assert enclosing_ellipse(square).area == pytest.approx(math.pi / 2 * 4, rel=1e-6)
    sheared = square @ np.array([[1.0, 0.3], [-0.8, 0.1]])
    assert enclosing_ellipse(sheared).area == pytest.approx(math.pi / 2 * 4 * abs(0.1 + 0.24), rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_area_is_that_of_another_solver_to_a_thousandth_and_every_point_is_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(int(rng.integers(4, 25)), 2)) @ rng.normal(size=(2, 2)) + rng.normal(size=2)
    ellipse = enclosing_ellipse(points)
    assert ellipse.area == pytest.approx(least_area_by_slsqp(points), rel=1e-3)
    assert radii(ellipse, points).max() <= 1 + 1e-9
    assert ellipse.gap <= 1e-6


def test_a_coarse_gap_is_kept_and_said() -> None:
    points = np.random.default_rng(1).normal(size=(300, 2))
    exact, coarse = enclosing_ellipse(points), enclosing_ellipse(points, gap=0.05)
    assert 0 <= coarse.gap <= 0.05
    assert exact.area * (1 - 1e-9) <= coarse.area <= exact.area * (1 + coarse.gap) * (1 + 1e-6)


def test_a_fifth_of_a_million_points_and_thousands_of_corners_are_no_matter() -> None:
    cloud = np.random.default_rng(0).normal(size=(200_000, 2)) * [3, 1]
    angles = np.linspace(0, 2.2, 20_000)
    arc = np.column_stack([3 * np.cos(angles), np.sin(angles)])
    for points in (cloud, arc):
        ellipse = enclosing_ellipse(points)
        assert ellipse.gap <= 1e-6
        assert radii(ellipse, points).max() <= 1 + 1e-9


def test_hundreds_of_corners_that_nearly_touch_it_cost_some_steps_and_no_area() -> None:
    angles = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
    radius = 1 - 1e-5 * np.random.default_rng(0).random(2000)
    points = np.column_stack([2 * radius * np.cos(angles), radius * np.sin(angles)])
    ellipse = enclosing_ellipse(points, gap=1e-4)
    assert ellipse.gap <= 1e-4
    assert ellipse.area == pytest.approx(2 * math.pi, rel=2e-4)


@pytest.mark.parametrize("matrix", [[[2.0, 1.0], [-1.0, 3.0]], [[1e-7, 0.0], [0.0, 1.0]], [[1e6, 0.0], [3.0, 1e5]]])
def test_it_follows_every_affine_map_of_the_plane(matrix: list[list[float]]) -> None:
    points = np.random.default_rng(3).normal(size=(60, 2))
    moved = points @ np.array(matrix) + [5, 6]
    before, after = enclosing_ellipse(points), enclosing_ellipse(moved)
    assert after.area == pytest.approx(before.area * abs(np.linalg.det(matrix)), rel=1e-5)
    np.testing.assert_allclose(radii(after, moved), radii(before, points), atol=1e-4)


def test_a_line_becomes_a_diameter_and_a_point_the_centre() -> None:
    along = np.linspace(-3, 5, 30)[:, None] * [2.0, 1.0] + [1.0, 1.0]
    line = enclosing_ellipse(along)
    assert line.area == 0
    assert line.gap == 0
    placed = line.place(along)
    np.testing.assert_allclose(np.hypot(*placed[[0, -1]].T), 1, atol=1e-9)
    np.testing.assert_allclose(placed[0], -placed[-1], atol=1e-9)
    beside = along[0] + np.array([-1.0, 2.0])  # across the line
    np.testing.assert_allclose(line.place(beside[None]), placed[:1], atol=1e-9)
    for points in (np.full((4, 2), 7.5), np.array([[1.0, 2.0]])):
        assert (enclosing_ellipse(points).place(points) == 0).all()
    np.testing.assert_allclose(radii(enclosing_ellipse(along[[0, -1]]), along), np.linspace(-1, 1, 30).__abs__())


def test_a_share_leaves_the_outermost_to_the_rim() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(5000, 2)) @ [[2.0, 0.3], [0.0, 0.5]]
    points = np.concatenate([cloud, rng.normal(size=(40, 2)) * 3 + [60, -80]])
    whole, core = enclosing_ellipse(points), enclosing_ellipse(points, share=0.99)
    assert (radii(core, points) <= 1 + 1e-9).mean() >= 0.99
    assert core.area < whole.area / 20
    assert (radii(core, points[5000:]) > 5).all()
    assert core.area < 1.05 * enclosing_ellipse(cloud).area


def test_what_is_no_cloud_of_points_is_refused() -> None:
    with pytest.raises(ValueError, match="finite points, got 0"):
        enclosing_ellipse(np.empty((0, 2)))
    with pytest.raises(ValueError, match="finite"):
        enclosing_ellipse(np.array([[0.0, np.nan], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="gap > 0"):
        enclosing_ellipse(np.eye(2), gap=0.0)
    with pytest.raises(ValueError, match="share <= 1"):
        enclosing_ellipse(np.eye(2), share=1.5)
