"""Some of many, each equally likely: the largest of random keys, without a list of the eligible ones.

A list of the eligible places would have a length that only the device knows; the largest keys of each row need
none, and rows with too few say so in a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.contrast.points import Points
from scantling.shapes import IGNORE

NEVER: Final = float("-inf")
"""The key of a place that must not be chosen."""


def generator_on(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator itself where it draws on that device, else one of the device that starts from its next draw."""
    if rng.device.type == device.type:
        return rng
    seed = int(torch.randint(2**63 - 1, (), generator=rng, device=rng.device))
    return torch.Generator(device).manual_seed(seed)


def random_keys(
    chances: Bool[Tensor, "*row place"] | Float[Tensor, "*row place"], rng: torch.Generator
) -> Float[Tensor, "*row place"]:
    """Keys whose n largest are n places drawn without replacement.

    Args:
        chances: True or False; or weights >= 0, where a place is drawn before another as often as their
            weights say.

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", for the weights.
    """
    device = chances.device
    keys = torch.rand(chances.shape, generator=generator_on(rng, device), device=device)
    if chances.dtype == torch.bool:
        return keys.masked_fill_(~chances, NEVER)
    return (torch.log1p(-keys) / chances).masked_fill_(chances <= 0, NEVER)


def choose(keys: Float[Tensor, "*row place"], n: int) -> tuple[Int[Tensor, "*row n"], Bool[Tensor, "*row n"]]:
    """The places of the n largest keys, those that are there first; False where a row has no more."""
    found = min(n, keys.shape[-1])
    largest, places = keys.topk(found, dim=-1)
    there = largest > NEVER
    if found < n:
        missing = (*places.shape[:-1], n - found)
        places = torch.cat((places, places.new_zeros(missing)), dim=-1)
        there = torch.cat((there, there.new_zeros(missing)), dim=-1)
    return places, there


def choose_halves(
    keys: Float[Tensor, "*row place"], preferred: Bool[Tensor, "*row place"], n: int, *, share: float
) -> tuple[Int[Tensor, "*row n"], Bool[Tensor, "*row n"], Bool[Tensor, "*row n"]]:
    """As `choose`, with a share from the preferred places; where one side is short the other fills up.

    Returns:
        The places, whether they are there, and which are of the preferred.
    """
    first, first_there = choose(keys.masked_fill(~preferred, NEVER), n)
    other, other_there = choose(keys.masked_fill(preferred, NEVER), n)
    wanted = (n - other_there.sum(dim=-1, keepdim=True)).clamp(min=int(n * share + 0.5))
    taken = torch.minimum(first_there.sum(dim=-1, keepdim=True), wanted)
    slots = torch.arange(n, device=keys.device)
    of_preferred = slots < taken
    rest = (slots - taken).clamp(min=0)
    places = torch.where(of_preferred, first, other.gather(-1, rest))
    return places, of_preferred | other_there.gather(-1, rest), of_preferred


def pixel_indices(
    places: Int[Tensor, "*row n"], map_shape: Sequence[int], view_shape: Sequence[int]
) -> Float[Tensor, "*row n axis"]:
    """Centres of a map's pixels, given by their flat number, in voxels of the view that the map covers."""
    along = []
    for m, n in zip(reversed(map_shape), reversed(view_shape), strict=True):
        along.append(((places % m).to(torch.float32) + 0.5) * (n / m) - 0.5)
        places = places // m
    return torch.stack(along[::-1], dim=-1)


def pixels_chosen(
    places: Int[Tensor, "batch view point"],
    there: Bool[Tensor, "batch view point"],
    map_shape: Sequence[int],
    view_shape: Sequence[int] | None,
    *,
    klass: Int[Tensor, "batch view point"] | None = None,
    group: Int[Tensor, "batch view point"] | None = None,
) -> Points:
    """Points at the centres of a map's pixels; a map without `view_shape` is as fine as its view."""
    return Points(
        indices=pixel_indices(places, map_shape, map_shape if view_shape is None else view_shape),
        usable=there,
        klass=None if klass is None else klass.masked_fill(~there, IGNORE),
        group=None if group is None else group.masked_fill(~there, -1),
    )
