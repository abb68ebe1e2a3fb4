"""Oracles: SciPy's normal distribution, integrals in float64, the published tanh formula, torch's gradcheck."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scantling.losses import variational
from scantling.losses.variational import (
    GREY_BIN,
    beta_at,
    discretised_gaussian_log_likelihood,
    free_bits,
    gaussian_kl,
    per_image,
    softplus_2,
)

Cdf = Literal["tanh", "exact"]
GREYS = torch.arange(256, dtype=torch.float64) * GREY_BIN - 1


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def kl_by_integration(loc: float, scale: float, prior_loc: float, prior_scale: float) -> float:
    posterior, prior = stats.norm(loc, scale), stats.norm(prior_loc, prior_scale)
    value, _ = integrate.quad(
        lambda x: posterior.pdf(x) * (posterior.logpdf(x) - prior.logpdf(x)), loc - 12 * scale, loc + 12 * scale
    )
    return float(value)


def published_tanh_log_mass(x: float, loc: float, scale: float) -> float:
    """As printed: 0.5 (1 + tanh(sqrt(2/pi) (t + 0.044715 t^3))) at both borders of the bin, ends left open."""

    def cdf(border: float) -> float:
        t = (border - loc) / scale
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3)))

    upper = 1.0 if x > 1 - GREY_BIN / 2 else cdf(x + 1 / 255)
    lower = 0.0 if x < -1 + GREY_BIN / 2 else cdf(x - 1 / 255)
    return math.log(upper - lower)


def scipy_log_mass(x: float, loc: float, scale: float) -> float:
    """By the tail that is far from 1, so that the difference keeps its digits."""
    away = stats.norm(abs(x - loc), scale)
    open_below, open_above = x < -1 + GREY_BIN / 2, x > 1 - GREY_BIN / 2
    if open_below or open_above:
        return float(
            stats.norm(loc, scale).logcdf(x + 1 / 255) if open_below else stats.norm(loc, scale).logsf(x - 1 / 255)
        )
    return float(np.log(away.cdf(1 / 255) - away.cdf(-1 / 255)))


def test_kl_equals_the_integral_of_its_definition() -> None:
    for loc, scale, prior_loc, prior_scale in [(0.3, 0.7, -1.0, 2.0), (0, 1, 0, 1), (5, 0.1, 4, 0.3), (-2, 3, 1, 0.5)]:
        actual = gaussian_kl(
            torch.tensor([loc], dtype=torch.float64),
            torch.tensor([scale], dtype=torch.float64),
            torch.tensor([prior_loc], dtype=torch.float64),
            torch.tensor([prior_scale], dtype=torch.float64),
        )
        wanted = kl_by_integration(loc, scale, prior_loc, prior_scale)
        assert actual.item() == pytest.approx(wanted, rel=1e-8, abs=1e-12)


def test_kl_against_the_standard_normal_is_the_closed_form_everybody_prints() -> None:
    loc, scale = draw(4, 3), draw(4, 3, seed=1).exp()
    wanted = 0.5 * (loc**2 + scale**2 - 1 - torch.log(scale**2))
    torch.testing.assert_close(gaussian_kl(loc, scale), wanted)


def test_kl_is_that_of_torch_and_summed_per_image() -> None:
    shape = (2, 3, 4, 4)
    loc, prior_loc = draw(*shape), draw(*shape, seed=1)
    scale, prior_scale = draw(*shape, seed=2).exp(), draw(*shape, seed=3).exp()
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(loc, scale), normal(prior_loc, prior_scale))
    actual = gaussian_kl(loc, scale, prior_loc, prior_scale)
    torch.testing.assert_close(actual, wanted)
    torch.testing.assert_close(per_image(actual), wanted.sum(dim=(1, 2, 3)))
    assert per_image(actual[:, 0, 0, 0]).shape == (2,)


def test_kl_gradients_are_right_and_a_prior_of_one_number_is_broadcast() -> None:
    loc, raw = draw(5).requires_grad_(), draw(5, seed=1).requires_grad_()
    prior_loc, prior_raw = draw(1, seed=2).requires_grad_(), draw(1, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, c, d: gaussian_kl(a, b.exp(), c, d.exp()), (loc, raw, prior_loc, prior_raw)
    )


def test_kl_of_a_vanishing_scale_is_finite_and_of_half_precision_is_computed_in_float32() -> None:
    loc = torch.zeros(3, requires_grad=True)
    scale = torch.tensor([0.0, 1e-30, 1e-7], requires_grad=True)
    value = gaussian_kl(loc, scale)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert scale.grad is not None
    assert torch.isfinite(scale.grad).all()
    half = gaussian_kl(torch.tensor([300.0]).half(), torch.tensor([0.5]).half())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(0.5 * (300**2 + 0.25 - 1) - math.log(0.5), rel=1e-6)


def test_the_published_fixed_scale_follows_from_its_raw_value() -> None:
    assert softplus_2(torch.tensor(math.log(0.01))).item() == pytest.approx(0.0581, abs=5e-5)
    raw = torch.linspace(-30, 60, 91, dtype=torch.float64)
    torch.testing.assert_close(softplus_2(raw), torch.log2(1 + torch.exp2(raw)))


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
@pytest.mark.parametrize("scale", [1e-3, 0.004, 0.0581, 0.7, 30.0])
@pytest.mark.parametrize("loc", [-1.4, -1.0, 0.123, 1.0])
def test_masses_of_all_grey_values_add_up_to_one(cdf: Cdf, scale: float, loc: float) -> None:
    full = torch.full_like(GREYS, loc)
    terms = discretised_gaussian_log_likelihood(GREYS, full, torch.tensor([scale], dtype=torch.float64), cdf=cdf)
    assert terms.exp().sum().item() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("scale", [0.01, 0.0581, 0.3, 5.0])
def test_the_tanh_likelihood_is_the_published_formula_where_that_has_digits(scale: float) -> None:
    for grey in (0, 1, 100, 127, 128, 254, 255):
        x = grey * GREY_BIN - 1
        for loc in (x, x + 0.3 * scale, x - 2.5 * scale):
            value = discretised_gaussian_log_likelihood(
                torch.tensor([x], dtype=torch.float64),
                torch.tensor([loc], dtype=torch.float64),
                torch.tensor([scale], dtype=torch.float64),
            )
            assert value.item() == pytest.approx(published_tanh_log_mass(x, loc, scale), rel=1e-8)


@pytest.mark.parametrize("scale", [0.002, 0.01, 0.0581, 0.3, 5.0, 1e3])
def test_the_exact_likelihood_is_that_of_scipy_far_into_the_tails(scale: float) -> None:
    for grey in (0, 1, 100, 128, 254, 255):
        x = grey * GREY_BIN - 1
        for away in (0.0, 1e-3, 0.3, -1.0, 2.5, -8.0, 20.0):
            loc = x + away * scale
            value = discretised_gaussian_log_likelihood(
                torch.tensor([x], dtype=torch.float64),
                torch.tensor([loc], dtype=torch.float64),
                torch.tensor([scale], dtype=torch.float64),
                cdf="exact",
            )
            assert value.item() == pytest.approx(scipy_log_mass(x, loc, scale), rel=1e-7), (grey, away)


def test_the_exact_mass_is_the_integral_of_the_density_over_the_bin() -> None:
    x, loc, scale = 20 * GREY_BIN - 1, -0.79, 0.02
    wanted, _ = integrate.quad(stats.norm(loc, scale).pdf, x - 1 / 255, x + 1 / 255, epsabs=1e-14)
    value = discretised_gaussian_log_likelihood(
        torch.tensor([x], dtype=torch.float64),
        torch.tensor([loc], dtype=torch.float64),
        torch.tensor([scale], dtype=torch.float64),
        cdf="exact",
    )
    assert value.exp().item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
def test_float32_agrees_with_float64_over_eleven_decades_of_scale(cdf: Cdf) -> None:
    scale = torch.logspace(-5, 6, 12, dtype=torch.float64)[:, None]
    x = GREYS[::5].expand(12, -1)
    loc = torch.full_like(x, 0.0123)
    wanted = discretised_gaussian_log_likelihood(x, loc, scale, cdf=cdf)
    actual = discretised_gaussian_log_likelihood(x.float(), loc.float(), scale.float(), cdf=cdf)
    torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
def test_likelihood_gradients_are_right_in_every_form_it_is_computed_in(cdf: Cdf) -> None:
    x = torch.tensor([-1.0, -1 + GREY_BIN, 0.1, 0.1, 0.1, 0.1, 0.6, 1.0], dtype=torch.float64)
    loc = torch.tensor([-0.9, -1.1, 0.1004, 0.3, 0.1, -0.2, 0.58, 0.97], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.1, 0.05, 0.001, 0.02, 4.0, 0.1, 0.01, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: discretised_gaussian_log_likelihood(x, a, b, cdf=cdf), (loc, scale), eps=1e-7, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_every_extreme(cdf: Cdf, dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 1.0, 5.0, -5.0], dtype=dtype)
    for far in (0.0, 1.0, -1.0, 60000.0, -60000.0):
        for small in (0.0, 1e-7, 1e-4, 1.0, 60000.0):
            loc = torch.full_like(x, far).requires_grad_()
            scale = torch.full_like(x, small).requires_grad_()
            value = discretised_gaussian_log_likelihood(x, loc, scale, cdf=cdf)
            value.sum().backward()
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert torch.isfinite(value).all(), (far, small)
            assert (value <= 1e-6).all()
            assert loc.grad is not None
            assert scale.grad is not None
            if dtype in (torch.float32, torch.float64):  # a gradient may be too large for a half-precision leaf
                assert torch.isfinite(loc.grad).all()
                assert torch.isfinite(scale.grad).all()


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
def test_a_hopeless_fit_still_pulls_the_mean_towards_the_image(cdf: Cdf) -> None:
    loc = torch.tensor([40.0], requires_grad=True)
    discretised_gaussian_log_likelihood(torch.zeros(1), loc, torch.tensor([0.01]), cdf=cdf).sum().backward()
    assert loc.grad is not None
    assert loc.grad.item() < -1e4


def test_what_lies_beyond_the_range_belongs_to_its_end() -> None:
    loc, scale = torch.zeros(2), torch.ones(2)
    beyond = discretised_gaussian_log_likelihood(torch.tensor([-1.002, 1.002]), loc, scale)
    ends = torch.special.log_ndtr(torch.tensor([-1.002 + 1 / 255] * 2))
    torch.testing.assert_close(beyond, ends, atol=1e-3, rtol=0)


def test_another_bin_and_range_are_obeyed() -> None:
    levels = torch.linspace(0, 1, 11, dtype=torch.float64)
    terms = discretised_gaussian_log_likelihood(
        levels,
        torch.full_like(levels, 0.4),
        torch.tensor([0.2], dtype=torch.float64),
        bin_width=0.1,
        low=0.0,
        cdf="exact",
    )
    assert terms.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert terms[0].item() == pytest.approx(stats.norm(0.4, 0.2).logcdf(0.05))


@pytest.mark.parametrize("wrong", [{"bin_width": 0.0}, {"low": 1.0}, {"low": 2.0, "high": 1.0}])
def test_an_empty_bin_or_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0 and the range"):
        discretised_gaussian_log_likelihood(torch.zeros(1), torch.zeros(1), torch.ones(1), **wrong)


def test_free_bits_are_paid_by_every_group_and_silence_its_gradient() -> None:
    kl = torch.tensor([[0.2, 0.4], [3.0, 1.0], [0.0, 0.9]], requires_grad=True)
    value = free_bits(kl, 0.5)
    value.backward()
    assert value.item() == pytest.approx(0.5 + 2.0 + 0.5)
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0, 0], [0.5, 0.5], [0, 0]]
    assert free_bits(kl, 0.0).item() == pytest.approx(0.3 + 2.0 + 0.45)
    with pytest.raises(ValueError, match="must be >= 0 nats"):
        free_bits(kl, -0.1)


def test_beta_goes_from_its_start_to_its_end_and_stays_there() -> None:
    linear = [beta_at(step, beta=4.0, start=1.0, steps=4) for step in range(7)]
    assert linear == [1.0, 1.75, 2.5, 3.25, 4.0, 4.0, 4.0]
    cosine = [beta_at(step, beta=1.0, steps=4, shape="cosine") for step in range(5)]
    assert cosine == pytest.approx([0, 0.5 - math.sqrt(0.125), 0.5, 0.5 + math.sqrt(0.125), 1])
    falling = [beta_at(step, beta=1.0, start=1000.0, steps=3, shape="geometric") for step in range(5)]
    assert falling == pytest.approx([1000, 100, 10, 1, 1])
    assert beta_at(0, beta=7.0) == 7.0


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        beta_at(-1, beta=1.0)
    with pytest.raises(ValueError, match="needs both above 0"):
        beta_at(0, beta=1.0, steps=10, shape="geometric")


def test_the_module_draws_nothing_and_owns_nothing() -> None:
    before = torch.get_rng_state()
    gaussian_kl(torch.zeros(2), torch.ones(2))
    discretised_gaussian_log_likelihood(torch.zeros(2), torch.zeros(2), torch.ones(2))
    assert torch.equal(before, torch.get_rng_state())
    assert variational.SMALLEST_SCALE > 0
