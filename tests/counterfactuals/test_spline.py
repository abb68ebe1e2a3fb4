from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scantling.counterfactuals.spline import BINS, BOUND, N_PARAMETERS, Knots, inverse_spline, knots, spline


def parameters(n: int, *, spread: float = 1.5, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(n, N_PARAMETERS, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def row(at: Knots, index: int) -> Knots:
    return Knots(x=at.x[[index]], y=at.y[[index]], slope=at.slope[[index]])


def spline_by_hand(x: float, at: Knots) -> float:
    """The published formula for one number."""
    xs, ys, slopes = at.x[0].tolist(), at.y[0].tolist(), at.slope[0].tolist()
    if not xs[0] < x < xs[-1]:
        return x
    k = max(i for i in range(len(xs) - 1) if xs[i] <= x)
    s = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    xi = (x - xs[k]) / (xs[k + 1] - xs[k])
    above = (ys[k + 1] - ys[k]) * (s * xi**2 + slopes[k] * xi * (1 - xi))
    return float(ys[k] + above / (s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)))


def test_the_spline_is_the_published_formula() -> None:
    at = knots(parameters(1))
    x = torch.linspace(-BOUND - 1, BOUND + 1, 301, dtype=torch.float64)
    y, _ = spline(x, at)
    np.testing.assert_allclose(y, [spline_by_hand(float(value), at) for value in x], atol=1e-12)


def test_the_spline_passes_through_its_knots_with_their_slopes() -> None:
    at = knots(parameters(1, seed=1))
    y, log_slope = spline(at.x[0, 1:-1], at)
    torch.testing.assert_close(y, at.y[0, 1:-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope.exp(), at.slope[0, 1:-1])
    assert at.x[0, 0] == at.y[0, 0] == -BOUND
    assert at.x[0, -1] == at.y[0, -1] == BOUND
    assert at.slope[0, 0] == at.slope[0, -1] == 1


def test_the_logarithm_of_the_slope_is_that_of_the_derivative() -> None:
    at = knots(parameters(40, seed=2))
    x = torch.linspace(-5, 5, 40, dtype=torch.float64, requires_grad=True)
    y, log_slope = spline(x, at)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "spread", "tolerance"), [(torch.float64, 2.0, 1e-10), (torch.float32, 0.3, 1e-6)])
def test_the_inverse_undoes_the_spline_and_the_spline_the_inverse(
    dtype: torch.dtype, spread: float, tolerance: float
) -> None:
    n = 4000
    at = knots(parameters(n, spread=spread, dtype=dtype))
    x = 2 * torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=dtype)
    assert (inverse_spline(spline(x, at)[0], at) - x).abs().max() <= tolerance
    assert (spline(inverse_spline(x, at), at)[0] - x).abs().max() <= tolerance


def test_the_spline_rises_everywhere_and_is_the_identity_outside() -> None:
    at = knots(parameters(1, spread=4.0, seed=4))
    x = torch.linspace(-6, 6, 5001, dtype=torch.float64)
    y, log_slope = spline(x, at)
    assert (y.diff() > 0).all()
    outside = x.abs() >= BOUND
    assert torch.equal(y[outside], x[outside])
    assert (log_slope[outside] == 0).all()


def test_parameters_of_0_make_the_identity() -> None:
    at = knots(torch.zeros(1, N_PARAMETERS, dtype=torch.float64))
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    y, log_slope = spline(x, at)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences_and_finite_far_outside() -> None:
    free = parameters(3, seed=5).requires_grad_()
    x = torch.tensor([-3.9, 0.2, 2.5], dtype=torch.float64, requires_grad=True)

    def both(x: torch.Tensor, free: torch.Tensor) -> tuple[torch.Tensor, ...]:
        at = knots(free)
        return (*spline(x, at), inverse_spline(x, at))

    assert torch.autograd.gradcheck(both, (x, free))
    far = torch.tensor([-1e6, BOUND, 0.0], dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(sum(part.sum() for part in both(far, free)), (far, free))
    assert all(grad.isfinite().all() for grad in grads)


def test_the_rows_of_a_batch_do_not_touch_each_other() -> None:
    at = knots(parameters(5, seed=6))
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    together, _ = spline(x, at)
    alone = [float(spline(x[[i]], row(at, i))[0]) for i in range(5)]
    assert together.tolist() == pytest.approx(alone, rel=1e-14)
    assert N_PARAMETERS == 3 * BINS - 1
    assert math.isfinite(together.sum())
