"""The sums of a contrast, tile by tile: memory grows with the pixels, never with the pairs.

The term of an anchor is the logarithm of its denominator minus the mean logit of its positives. The forward
pass goes through the similarity matrix once in tiles and keeps a few numbers an anchor; the backward pass makes
each tile again. One product serves both directions of a tile, and where anchors are their own keys only the
tiles on and above the diagonal are made.

Source: L = mean_i sum_j P_ij (log sum_m D_im exp s_im - s_ij), with P the positives of each anchor normalised to
1 and D the weights of its denominator; the recomputing backward pass as in Dao et al. 2022, "FlashAttention", 3.1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from scantling.losses import fused
from scantling.losses.group_positives import GroupPositives
from scantling.losses.tiles import Setting, Tile, Tiles


def streamed_terms(
    anchors: Float[Tensor, "anchor embedding"], keys: Float[Tensor, "key embedding"] | None, setting: Setting
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per anchor its term and whether it counts; the same of the keys as anchors, empty without `both`.

    Args:
        keys: None where the anchors are their own keys.
    """
    return cast("tuple[Tensor, Tensor, Tensor, Tensor]", _Terms.apply(anchors, keys, setting))  # type: ignore[no-untyped-call]


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, keys: Tensor | None, setting: Setting) -> tuple[Tensor, ...]:
        tiles = Tiles(anchors, keys, setting)
        _sum_up(tiles)
        terms = [direction.term(tiles.per_positive) for direction in tiles.directions]
        counts = [direction.counts for direction in tiles.directions]
        if len(terms) == 1:
            terms, counts = [*terms, terms[0][:0].clone()], [*counts, counts[0][:0].clone()]
        ctx.setting = setting
        ctx.save_for_backward(anchors, keys, *(t for d in tiles.directions for t in (d.z, d.count, d.push, d.shift)))
        ctx.mark_non_differentiable(*counts)
        return terms[0], counts[0], terms[1], counts[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor, _: Tensor, second: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        anchors, keys, *sums = ctx.saved_tensors
        tiles = Tiles(anchors, keys, ctx.setting)
        for number, direction in enumerate(tiles.directions):
            direction.z, direction.count, direction.push, direction.shift = sums[4 * number : 4 * number + 4]
        at_anchors, at_keys = _gradients(
            tiles, [first, second][: len(tiles.directions)], keys_learn=ctx.needs_input_grad[1]
        )
        return at_anchors, at_keys, None


def _sum_up(tiles: Tiles) -> None:
    """Fill the directions."""
    if not tiles.bounded:
        tiles.find_shifts()
    kernels = _kernels(tiles)
    if kernels is None:
        for tile in tiles:
            _sum_tile(tiles, tile)
    else:
        _sum_by_kernels(tiles, kernels)
    if tiles.per_positive:
        _sum_one_positive_at_a_time(tiles)
    if tiles.by_groups:
        for number in range(len(tiles.directions)):
            GroupPositives(tiles, number).sum_up()


def _gradients(tiles: Tiles, of_terms: list[Tensor], *, keys_learn: bool) -> tuple[Tensor, Tensor | None]:
    """At the anchors and at the keys, from the gradients at the terms of each direction.

    Args:
        keys_learn: False leaves out the product that only keys need; those of a bank or a teacher do not.
    """
    keys_learn = keys_learn or tiles.alone
    at_keys = torch.zeros_like(tiles.unit_keys)
    at_anchors = at_keys if tiles.alone else at_keys.new_zeros(tiles.anchors.vectors.shape)
    for direction, gradient in zip(tiles.directions, of_terms, strict=True):
        direction.take(gradient, per_positive=tiles.per_positive)
    kernels = _kernels(tiles)
    if kernels is None:
        for tile in tiles:
            pulled = _pulled(tiles, tile)
            gradient = _pushed(tiles, tile)
            gradient = gradient if pulled is None else gradient.sub_(pulled)
            at_anchors[tile.rows].addmm_(gradient, tiles.unit_keys[tile.columns], alpha=1 / tiles.temperature)
            if keys_learn:
                at_keys[tile.columns].addmm_(gradient.T, tile.anchors)
    else:
        _push_by_kernels(tiles, kernels, at_anchors, at_keys if keys_learn else None)
    if tiles.by_groups:
        for number, direction in enumerate(tiles.directions):
            ends = (at_anchors, at_keys) if number == 0 else (at_keys, at_anchors)
            GroupPositives(tiles, number).pull(direction.pull, *ends)
    first = tiles.anchors.back_(at_anchors, tiles.size)
    return first, tiles.keys.back_(at_keys, tiles.size) if keys_learn and not tiles.alone else None


def _sum_tile(tiles: Tiles, tile: Tile) -> None:
    if tile.positive is not None:
        weighted = None if tiles.per_positive else tile.positive * tile.logits
        for served in tile.served:
            direction = served.direction
            direction.count[served.anchors] += served.over_keys(tile.positive, direction.trust)
            if weighted is not None:
                direction.positive[served.anchors] += served.over_keys(weighted, direction.trust)
    for served, values in zip(tile.served, tiles.exponentials(tile), strict=True):
        served.direction.z[served.anchors] += served.over_keys(values, served.direction.compare)


def _sum_one_positive_at_a_time(tiles: Tiles) -> None:
    """The terms log(1 + exp(log z - logit)) of each positive against all negatives."""
    for tile in tiles:
        if tile.positive is None:
            continue
        for served in tile.served:
            direction, anchors = served.direction, served.anchors
            gap = served.of_anchors(direction.log_z) - tile.logits
            direction.positive[anchors] += served.over_keys(F.softplus(gap).mul_(tile.positive), direction.trust)
            direction.push[anchors] += served.over_keys(gap.sigmoid_().mul_(tile.positive), direction.trust)
    for direction in tiles.directions:
        direction.push = direction.per_positive_of(direction.push)


def _pulled(tiles: Tiles, tile: Tile) -> Tensor | None:
    """Minus the gradient at the logits of a tile that its positives give."""
    if tile.positive is None:
        return None
    total = torch.zeros_like(tile.positive)
    for served in tile.served:
        direction = served.direction
        part = tile.positive * served.of_anchors(direction.pull)
        if direction.trust is not None:
            part.mul_(served.of_keys(direction.trust))
        if tiles.per_positive:
            part.mul_(torch.sigmoid(served.of_anchors(direction.log_z) - tile.logits))
        total.add_(part)
    return total


def _pushed(tiles: Tiles, tile: Tile) -> Tensor:
    """The gradient at a tile's logits that the denominators give: pressure of the anchor, weight of the key."""
    of_rows, of_columns = [], []
    for served in tile.served:
        pressure, weight = served.direction.pressure[served.anchors], served.direction.weights_of_keys(served.keys)
        of_rows.append(weight if served.flipped else pressure)
        of_columns.append(pressure if served.flipped else weight)
    tensors = tiles.exponentials(tile)
    if tiles.bounded:  # the directions share one tensor
        room = tiles.room(1, *tensors[0].shape)
        return tensors[0].mul_(torch.mm(torch.stack(of_rows, dim=1), torch.stack(of_columns), out=room))
    for values, of_row, of_column in zip(tensors, of_rows, of_columns, strict=True):
        values.mul_(torch.outer(of_row, of_column))
    return tensors[0] if len(tensors) == 1 else tensors[0].add_(tensors[1])


def _kernels(tiles: Tiles) -> Any | None:
    """The kernels of this device, where they know all there is to do; None is the tiles."""
    plain = tiles.bounded and not tiles.asks_blocks and tiles.boost is None
    same = tiles.keys.vectors.dtype == tiles.anchors.vectors.dtype
    return fused.kernels_for(tiles.anchors.vectors) if plain and same else None


def _sum_by_kernels(tiles: Tiles, kernels: Any) -> None:
    anchors, keys = _whole(tiles)
    ends = ((anchors, keys, tiles.pairs.own), (keys, anchors, _minus(tiles.pairs.own)))
    for direction, (rows, columns, own) in zip(tiles.directions, ends, strict=False):
        weights = direction.weights_of_keys(slice(0, len(columns)))
        direction.z = kernels.denominators(rows, columns, weights, temperature=tiles.temperature, own=own)


def _push_by_kernels(tiles: Tiles, kernels: Any, at_anchors: Tensor, at_keys: Tensor | None) -> None:
    """What both directions' denominators give, at both ends of each pair, or at the anchors alone."""
    anchors, keys = _whole(tiles)
    first, second = tiles.directions[0], tiles.directions[-1]
    of_anchors = [first.pressure, torch.zeros_like(first.pressure)]
    of_keys = [first.weights_of_keys(slice(0, len(keys))), torch.zeros(len(keys), device=keys.device)]
    if tiles.triangle or len(tiles.directions) == 2:
        of_anchors[1], of_keys[1] = second.weights_of_keys(slice(0, len(anchors))), second.pressure
    ends, setting = (torch.stack(of_anchors), torch.stack(of_keys)), {"temperature": tiles.temperature}
    at_anchors += kernels.gradients(anchors, keys, *ends, own=tiles.pairs.own, **setting)
    if at_keys is not None and not tiles.triangle:
        at_keys += kernels.gradients(keys, anchors, *reversed(ends), own=_minus(tiles.pairs.own), **setting)


def _whole(tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Unit anchors and keys in the precision they came in."""
    keys = tiles.unit_keys.to(tiles.keys.vectors.dtype)
    return keys if tiles.alone else tiles.anchors.unit(slice(None)).to(keys.dtype), keys


def _minus(own: int | None) -> int | None:
    return None if own is None else -own
