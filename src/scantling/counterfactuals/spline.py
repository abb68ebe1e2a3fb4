"""A monotone function of the real line with a free shape in the middle: rational-quadratic pieces, identity outside.

All functions work in the dtype of their arguments.
Source: Durkan et al. 2019, "Neural Spline Flows", Eqs. 4-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

BINS: Final = 8
BOUND: Final = 4.0
"""The pieces share [-4, 4]: standard deviations of the residual; hardly a value of a table lies outside."""
N_PARAMETERS: Final = 3 * BINS - 1
_LEAST_SIZE: Final = 0.01  # of a piece, as a share of the whole; keeps the slope of a piece finite
_LEAST_SLOPE: Final = 0.01
_SLOPE_SHIFT: Final = math.log(math.expm1(1 - _LEAST_SLOPE))


@dataclass(frozen=True, kw_only=True)
class Knots:
    """Where the pieces meet, and the slope there; one more than there are pieces."""

    x: Float[Tensor, "row knot"]
    y: Float[Tensor, "row knot"]
    slope: Float[Tensor, "row knot"]


def knots(parameters: Float[Tensor, "row parameter"]) -> Knots:
    """The knots that free parameters stand for; where all parameters are 0 the spline is the identity."""
    widths, heights, slopes = parameters[:, :BINS], parameters[:, BINS : 2 * BINS], parameters[:, 2 * BINS :]
    inner = _LEAST_SLOPE + F.softplus(slopes + _SLOPE_SHIFT)
    return Knots(x=_places(widths), y=_places(heights), slope=F.pad(inner, (1, 1), value=1.0))


def spline(x: Float[Tensor, "row"], at: Knots) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
    """The spline's value, and the logarithm of its slope."""
    inside = x.abs() < BOUND
    x_inside = torch.where(inside, x, 0.0)
    piece = _Piece.of(at, _piece_number(x_inside, at.x))
    z = ((x_inside - piece.x) / piece.width).clamp(0, 1)
    across = z * (1 - z)
    steepness = piece.height / piece.width
    below = steepness + (piece.end_slope + piece.slope - 2 * steepness) * across
    y = piece.y + piece.height * (steepness * z**2 + piece.slope * across) / below
    rise = piece.end_slope * z**2 + 2 * steepness * across + piece.slope * (1 - z) ** 2
    log_slope = 2 * steepness.log() + rise.log() - 2 * below.log()
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def inverse_spline(y: Float[Tensor, "row"], at: Knots) -> Float[Tensor, "row"]:
    """Where the spline takes the value `y`: the root of a quadratic, in the form that does not cancel."""
    inside = y.abs() < BOUND
    y_inside = torch.where(inside, y, 0.0)
    piece = _Piece.of(at, _piece_number(y_inside, at.y))
    steepness = piece.height / piece.width
    bend = piece.end_slope + piece.slope - 2 * steepness
    rise = y_inside - piece.y
    a = piece.height * (steepness - piece.slope) + rise * bend
    b = piece.height * piece.slope - rise * bend
    c = -steepness * rise
    z = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, piece.x + z * piece.width, y)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """The piece of each row: its lower left corner, its extent, and the slopes at its two ends."""

    x: Float[Tensor, "row"]
    y: Float[Tensor, "row"]
    width: Float[Tensor, "row"]
    height: Float[Tensor, "row"]
    slope: Float[Tensor, "row"]
    end_slope: Float[Tensor, "row"]

    @classmethod
    def of(cls, at: Knots, number: Int[Tensor, "row"]) -> _Piece:
        """The pieces of these numbers, from 0."""

        def taken(values: Tensor) -> Tensor:
            return values.expand(len(number), -1).gather(1, number[:, None])[:, 0]

        return cls(
            x=taken(at.x[:, :-1]),
            y=taken(at.y[:, :-1]),
            width=taken(at.x.diff(dim=1)),
            height=taken(at.y.diff(dim=1)),
            slope=taken(at.slope[:, :-1]),
            end_slope=taken(at.slope[:, 1:]),
        )


def _piece_number(values: Float[Tensor, "row"], places: Float[Tensor, "_ knot"]) -> Int[Tensor, "row"]:
    return (values[:, None] >= places[:, 1:-1]).sum(dim=1)


def _places(sizes: Float[Tensor, "row bin"]) -> Float[Tensor, "row knot"]:
    """Running sums of shares of [-4, 4], the ends exact."""
    shares = _LEAST_SIZE + (1 - _LEAST_SIZE * BINS) * sizes.softmax(dim=1)
    inner = 2 * BOUND * shares.cumsum(dim=1)[:, :-1] - BOUND
    return F.pad(F.pad(inner, (1, 0), value=-BOUND), (0, 1), value=BOUND)
