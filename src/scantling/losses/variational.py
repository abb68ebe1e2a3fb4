"""Terms of a variational bound: divergences of Gaussians, likelihoods of grey values, free bits, and how beta grows.

Everything is in nats and returned for each element; a bound sums or averages as its method asks. Half precision is
computed in float32, under autocast too, and float64 in float64. Scales are standard deviations.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

GREY_BIN: Final = 2 / 255
"""Width of one grey value where 0..255 is stored as [-1, 1]."""

SMALLEST_SCALE: Final = 1e-6
"""A smaller scale counts as this one, so that values and gradients stay finite in float32."""

_FURTHEST: Final = 1e8  # in scales; beyond it the log-likelihood is flat, far below anything a fit passes through
_ROOT_HALF: Final = math.sqrt(0.5)
_TANH_SLOPE: Final = math.sqrt(2 / math.pi)
_TANH_CUBE: Final = 0.044715

Cdf = Literal["tanh", "exact"]


def softplus_2(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log2(1 + 2^x): the scale that belongs to a raw value; 1 at 0, x for large x, never 0 in exact arithmetic.

    Source: the published counterfactual generator: its fixed log(0.01) gives 0.0581.
    """
    return torch.nn.functional.softplus(_at_least_float(x), beta=math.log(2))


def gaussian_kl(
    loc: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*shape"],
    prior_loc: Float[Tensor, "*#shape"] | float = 0.0,
    prior_scale: Float[Tensor, "*#shape"] | float = 1.0,
) -> Float[Tensor, "*shape"]:
    """KL(N(loc, scale), N(prior_loc, prior_scale)) of each element; >= 0, and 0 where they agree.

    Args:
        scale, prior_scale: > 0.

    Source: Kingma and Welling 2014, "Auto-encoding variational Bayes", Appendix B, for any prior.
    """
    loc, scale = _at_least_float(loc), _at_least_float(scale).clamp(min=SMALLEST_SCALE)
    wanted_loc = torch.as_tensor(prior_loc, dtype=loc.dtype, device=loc.device)
    wanted = torch.as_tensor(prior_scale, dtype=loc.dtype, device=loc.device).clamp(min=SMALLEST_SCALE)
    ratio = scale / wanted
    return 0.5 * (ratio.square() - 1 + ((loc - wanted_loc) / wanted).square()) - ratio.log()


def per_image(terms: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch"]:
    """The sum of an image's terms."""
    return terms.flatten(1).sum(dim=1) if terms.ndim > 1 else terms


def discretised_gaussian_log_likelihood(
    x: Float[Tensor, "*shape"],
    loc: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*#shape"],
    *,
    bin_width: float = GREY_BIN,
    low: float = -1.0,
    high: float = 1.0,
    cdf: Cdf = "tanh",
) -> Float[Tensor, "*shape"]:
    """log of the Gaussian's mass on the bin around each `x`; the first and last bin reach to infinity.

    So the masses of all bins of [low, high] add up to 1. Finite, with finite gradients, for any finite input.

    Args:
        x: in [low, high]; what lies within half a bin of an end, or beyond it, belongs to that end's bin.
        scale: > 0; smaller than `SMALLEST_SCALE` counts as that.
        bin_width: of one grey value, in the units of `x`.
        cdf: "tanh" is the published approximation (error < 2e-4 of the CDF), "exact" the error function's.

    Raises:
        ValueError: the bin or the range is empty.

    Source: Ho et al. 2020, "Denoising diffusion probabilistic models", Eq. 13, with the tanh approximation of
    Page 1977 as in Hendrycks and Gimpel 2016, "Gaussian error linear units", Sec. 2.
    Differs: no floor of 1e-12 under the mass, whose gradient is 0 where the fit is worst; the log is exact.
    """
    if not (bin_width > 0 and high > low):
        raise ValueError(f"bin_width = {bin_width} must be > 0 and the range {low}..{high} not empty")
    x, loc, scale = _at_least_float(x), _at_least_float(loc), _at_least_float(scale).clamp(min=SMALLEST_SCALE)
    away = ((x - loc) / scale).clamp(-_FURTHEST, _FURTHEST)
    half = (bin_width / 2 / scale).expand_as(away)
    mass, below = (_tanh_mass, _tanh_below) if cdf == "tanh" else (_exact_mass, _exact_below)
    inner = mass(away, half)
    first, last = below(away + half), below(half - away)
    edge = bin_width / 2
    return torch.where(x < low + edge, first, torch.where(x > high - edge, last, inner))


def free_bits(kl: Float[Tensor, "group batch"], nats: float) -> Float[Tensor, ""]:
    """Sum over groups of the batch's mean KL, each counted as `nats` where it is less (then without gradient).

    Args:
        kl: per group of latents and image.
        nats: >= 0; 0 gives the plain sum.

    Raises:
        ValueError: `nats` is negative.

    Source: Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow", Eq. 15.
    """
    if nats < 0:
        raise ValueError(f"free bits must be >= 0 nats, got {nats}")
    return kl.mean(dim=1).clamp(min=nats).sum()


def beta_at(
    step: int,
    *,
    beta: float,
    start: float = 0.0,
    steps: int = 0,
    shape: Literal["linear", "cosine", "geometric"] = "linear",
) -> float:
    """The weight of the KL at a step: from `start` at step 0 to `beta` at step `steps`, and `beta` from there on.

    A start below `beta` is the usual warm-up, which keeps latents in use. A start far above it lets the context
    explain the image first, and admits latents for what is left.

    Args:
        step: counted from 0.
        steps: 0 means `beta` from the start.
        shape: "geometric" multiplies by the same factor at every step.

    Raises:
        ValueError: a negative argument, or a geometric way from or to 0.

    Source: Bowman et al. 2016, "Generating sentences from a continuous space", Sec. 3.1 (linear warm-up); Burgess et
    al. 2018, "Understanding disentangling in beta-VAE", Sec. 5 (capacity that grows).
    """
    if min(step, beta, start, steps) < 0:
        raise ValueError(f"beta schedule: step {step}, beta {beta}, start {start} and steps {steps} must be >= 0")
    if shape == "geometric" and steps > 0 and min(start, beta) == 0:
        raise ValueError(f"beta schedule: a geometric way from {start} to {beta} needs both above 0")
    if step >= steps:
        return beta
    share = step / steps
    if shape == "geometric":
        return start * math.pow(beta / start, share)
    return start + (beta - start) * (share if shape == "linear" else (1 - math.cos(math.pi * share)) / 2)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _tanh_below(t: Tensor) -> Tensor:
    """log of the approximate CDF, 0.5 (1 + tanh(g)) = sigmoid(2 g) with g = sqrt(2/pi) (t + 0.044715 t^3)."""
    return torch.nn.functional.logsigmoid(2 * _TANH_SLOPE * (t + _TANH_CUBE * t * t * t))


def _tanh_mass(t: Tensor, h: Tensor) -> Tensor:
    """log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - e^(b-a)): nothing cancels."""
    apart = 4 * _TANH_SLOPE * h * (1 + _TANH_CUBE * (3 * t * t + h * h))  # a - b, without taking their difference
    return _tanh_below(t + h) + _tanh_below(h - t) + _log1mexp(apart)


def _exact_below(t: Tensor) -> Tensor:
    """log Phi(t); torch's own log_ndtr has gradients of 0 and 0.4 by turns where t is far below 0."""
    low, high = t.clamp(max=-1), t.clamp(min=-1)
    by_tail = (torch.special.erfcx(-low * _ROOT_HALF) / 2).log() - low * low / 2
    by_complement = (-torch.erfc(high * _ROOT_HALF) / 2).log1p()
    return torch.where(t < -1, by_tail, by_complement)


def _exact_mass(t: Tensor, h: Tensor) -> Tensor:
    """log(Phi(t + h) - Phi(t - h)), by one of three forms, none of which subtracts nearly equal numbers.

    The mass is even in t, so t <= 0. A narrow bin: the density times the width, and its second-order term. A bin
    that holds 0: a sum of two error functions. A bin in the tail: Phi(u) (1 - Phi(l) / Phi(u)), with the ratio by
    the scaled erfcx. Each form sees harmless numbers where another is in charge, so that no NaN gets into gradients.
    """
    t = -t.abs()
    narrow = h * (1 - t) < 0.02
    holds_zero = ~narrow & (t + h >= 0)
    tail = ~narrow & ~holds_zero

    flat_t, flat_h = torch.where(narrow, t, 0), torch.where(narrow, h, 0.01)
    curve = (flat_h * flat_h * (flat_t * flat_t - 1) / 6).log1p()
    by_density = (2 * flat_h).log() - 0.5 * math.log(2 * math.pi) - flat_t * flat_t / 2 + curve

    mid_t, mid_h = torch.where(holds_zero, t, 0), torch.where(holds_zero, h, 1)
    by_sum = (0.5 * (torch.erf((mid_t + mid_h) * _ROOT_HALF) + torch.erf((mid_h - mid_t) * _ROOT_HALF))).log()

    far_t, far_h = torch.where(tail, t, -3), torch.where(tail, h, 1)
    upper, lower = far_t + far_h, far_t - far_h
    ratio = torch.special.erfcx(-upper * _ROOT_HALF).log() - torch.special.erfcx(-lower * _ROOT_HALF).log()
    by_tail = _exact_below(upper) + _log1mexp(-2 * far_t * far_h + ratio)
    return torch.where(narrow, by_density, torch.where(holds_zero, by_sum, by_tail))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^-x) for x > 0."""
    return (-torch.expm1(-x)).log()
