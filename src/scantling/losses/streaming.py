"""The sums of a contrast, tile by tile: memory grows with the pixels, never with the pairs.

The term of an anchor is the logarithm of its denominator minus the mean logit of its positives. The forward
pass goes through the similarity matrix once in tiles and keeps a few numbers an anchor; the backward pass makes
each tile again. One product serves both directions of a tile, and where anchors are their own keys only the
tiles on and above the diagonal are made.

Source: L = mean_i sum_j P_ij (log sum_m D_im exp s_im - s_ij), with P the positives of each anchor normalised to
1 and D the weights of its denominator; the recomputing backward pass as in Dao et al. 2022, "FlashAttention", 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from scantling.losses import fused
from scantling.losses.direction import Direction
from scantling.losses.pairs import Pairs
from scantling.losses.unit_vectors import GroupSums, UnitVectors, slices

SAFE_TEMPERATURE: Final = 0.025
"""From here on exp(1 / temperature), and sums of a billion of it, are ordinary float32 numbers."""

_TILE_CPU: Final = 768  # 2.3 MiB in float32: it stays in the cache between its passes
_TILE_CUDA: Final = 8192  # few launches; 256 MiB in float32


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a contrast is computed.

    Attributes:
        both: also each key as an anchor, over all anchors.
        tile: rows and columns of a tile; None chooses by device.
    """

    pairs: Pairs
    temperature: float
    both: bool
    normalise: bool
    tile: int | None = None


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
        contrast = _Contrast(anchors, keys, setting)
        contrast.sum_up()
        terms = [side.term(contrast.per_positive) for side in contrast.sides()]
        counts = [side.counts for side in contrast.sides()]
        if len(terms) == 1:
            terms, counts = [*terms, terms[0][:0].clone()], [*counts, counts[0][:0].clone()]
        ctx.setting = setting
        sums = [t for side in contrast.sides() for t in (side.z, side.count, side.push, side.shift)]
        ctx.save_for_backward(anchors, keys, *sums)
        ctx.mark_non_differentiable(*counts)
        return terms[0], counts[0], terms[1], counts[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor, _: Tensor, second: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        anchors, keys, *sums = ctx.saved_tensors
        contrast = _Contrast(anchors, keys, ctx.setting)
        for number, side in enumerate(contrast.sides()):
            side.z, side.count, side.push, side.shift = sums[4 * number : 4 * number + 4]
        return *contrast.gradients([first, second]), None


class _Contrast:
    """One computation: unit vectors, weights, and the walk over the tiles."""

    def __init__(self, anchors: Tensor, keys: Tensor | None, setting: Setting) -> None:
        self.pairs = pairs = setting.pairs
        self.temperature = setting.temperature
        self.dtype = torch.float64 if anchors.dtype == torch.float64 else torch.float32
        self.device = anchors.device
        self.tile = setting.tile or (_TILE_CUDA if self.device.type == "cuda" else _TILE_CPU)
        self.anchors = self.keys = UnitVectors(anchors, pairs.anchors_usable, self.dtype, normalise=setting.normalise)
        if keys is not None:
            self.keys = UnitVectors(keys, pairs.keys_usable, self.dtype, normalise=setting.normalise)
        self.unit_keys = self.keys.unit(slice(None))
        self.alone = keys is None
        self.triangle = self.alone and pairs.symmetric
        self.per_positive = pairs.denominator == "per_positive"
        self.bounded = setting.normalise and setting.temperature >= SAFE_TEMPERATURE
        self.by_groups = pairs.groups is not None and not self.per_positive
        self.asks_blocks = not (self.by_groups and pairs.all_compared)
        self.boost = self._own_class_boost()
        plain = self.bounded and not self.asks_blocks and self.boost is None
        self.kernels = fused.kernels_for(anchors) if plain and self.keys.vectors.dtype == anchors.dtype else None
        self.first = self._side(
            pairs.n_anchors, pairs.anchors_usable, pairs.keys_usable, pairs.key_trust, pairs.key_classes
        )
        self.second = None
        if setting.both and not self.triangle:
            self.second = self._side(
                pairs.n_keys, pairs.keys_usable, pairs.anchors_usable, pairs.anchor_trust, pairs.anchor_classes
            )
        self._rooms = [torch.empty(0, dtype=self.dtype, device=self.device) for _ in range(2)]

    def sides(self) -> list[Direction]:
        """Of the anchors, and of the keys as anchors where these are wanted too."""
        return [self.first] if self.second is None else [self.first, self.second]

    def sum_up(self) -> None:
        """Fill the sides."""
        if not self.bounded:
            self._find_shifts()
        if self.kernels is None:
            self._sum_tiles()
        else:
            self._sum_by_kernels()
        if self.per_positive:
            self._one_positive_at_a_time()
        if self.by_groups:
            for number in range(len(self.sides())):
                self._sum_groups(number)

    def gradients(self, of_terms: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """At the anchors and at the keys, from the gradients at the terms of each side."""
        at_keys = torch.zeros_like(self.unit_keys)
        at_anchors = at_keys if self.alone else at_keys.new_zeros(self.anchors.vectors.shape)
        sides = list(zip(self.sides(), of_terms, strict=False))
        pressures = [side.pressure(gradient, self.per_positive) for side, gradient in sides]
        pulls = [side.pull(gradient) for side, gradient in sides]
        if self.kernels is None:
            self._push_and_pull_tiles(pressures, pulls, at_anchors, at_keys)
        else:
            self._push_by_kernels(pressures, at_anchors, at_keys)
        if self.by_groups:
            for number, pull in enumerate(pulls):
                self._pull_groups(number, pull, at_anchors, at_keys)
        first = self.anchors.back_(at_anchors, self.tile)
        return first, None if self.alone else self.keys.back_(at_keys, self.tile)

    def _sum_tiles(self) -> None:
        for rows, columns, _, logits, positive, compared in self._tiles():
            served = self._served(rows, columns)
            if positive is not None:
                weighted = positive if self.per_positive else positive * logits
                for side, own, others, flipped in served:
                    side.count[own] += _over_keys(positive, side.trust, others, flipped)
                    if not self.per_positive:
                        side.positive[own] += _over_keys(weighted, side.trust, others, flipped)
            for (side, own, others, flipped), tile in zip(
                served, self._exponentials(logits, compared, rows, columns), strict=True
            ):
                side.z[own] += _over_keys(tile, side.compare, others, flipped)

    def _push_and_pull_tiles(
        self, pressures: list[Tensor], pulls: list[Tensor], at_anchors: Tensor, at_keys: Tensor
    ) -> None:
        for rows, columns, anchors, logits, positive, compared in self._tiles():
            served = self._served(rows, columns)
            pulled = None if positive is None else self._pulled(positive, logits, served, pulls)
            pushed = self._pushed(self._exponentials(logits, compared, rows, columns), served, pressures)
            gradient = pushed if pulled is None else pushed.sub_(pulled)
            at_anchors[rows].addmm_(gradient, self.unit_keys[columns], alpha=1 / self.temperature)
            at_keys[columns].addmm_(gradient.T, anchors)

    def _sum_by_kernels(self) -> None:
        assert self.kernels is not None
        anchors, keys = self._whole()
        own = self.pairs.own
        for side, rows, columns, place in ((self.first, anchors, keys, own), (self.second, keys, anchors, _minus(own))):
            if side is not None:
                weights = keys.new_ones(len(columns), dtype=self.dtype) if side.compare is None else side.compare
                side.z = self.kernels.denominators(rows, columns, weights, temperature=self.temperature, own=place)

    def _push_by_kernels(self, pressures: list[Tensor], at_anchors: Tensor, at_keys: Tensor) -> None:
        """Each anchor's pressure on each key, by its weight, and the same of the other direction, at both ends."""
        assert self.kernels is not None
        anchors, keys = self._whole()
        of_anchors = self.anchors.scales.new_zeros((2, len(anchors)))
        of_keys = self.keys.scales.new_zeros((2, len(keys)))
        of_anchors[0], of_keys[0] = pressures[0], 1.0 if self.first.compare is None else self.first.compare
        if self.triangle:
            of_anchors[1], of_keys[1] = of_keys[0], of_anchors[0]
        elif self.second is not None:
            of_anchors[1], of_keys[1] = 1.0 if self.second.compare is None else self.second.compare, pressures[1]
        own = self.pairs.own
        at_anchors += self.kernels.gradients(anchors, keys, of_anchors, of_keys, temperature=self.temperature, own=own)
        if not self.triangle:
            at_keys += self.kernels.gradients(
                keys, anchors, of_keys, of_anchors, temperature=self.temperature, own=_minus(own)
            )

    def _whole(self) -> tuple[Tensor, Tensor]:
        """Unit anchors and keys in the precision they came in."""
        keys = self.unit_keys.to(self.keys.vectors.dtype)
        return keys if self.alone else self.anchors.unit(slice(None)).to(keys.dtype), keys

    # The walk

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Rows, columns, unit anchors over the temperature, logits, positives as numbers, and what is compared.

        The logits lie in a room that the next tile takes. No positives where the tile has none or groups say them.
        """
        for rows in slices(self.pairs.n_anchors, self.tile):
            anchors = self.anchors.unit(rows).div_(self.temperature)
            for columns in slices(self.pairs.n_keys, self.tile, rows.start if self.triangle else 0):
                room = self._room(0, len(anchors), columns.stop - columns.start)
                logits = torch.mm(anchors, self.unit_keys[columns].T, out=room)
                yield rows, columns, anchors, logits, *self._masks(rows, columns)

    def _served(self, rows: slice, columns: slice) -> list[tuple[Direction, slice, slice, bool]]:
        """Whom a tile serves: a side, its anchors, their keys, and whether the anchors are the tile's columns."""
        served = [(self.first, rows, columns, False)]
        if self.second is not None:
            served.append((self.second, columns, rows, True))
        elif self.triangle and rows != columns:
            served.append((self.first, columns, rows, True))
        return served

    def _room(self, number: int, n_rows: int, n_columns: int) -> Tensor:
        if self._rooms[number].numel() < n_rows * n_columns:
            self._rooms[number] = torch.empty(n_rows * n_columns, dtype=self.dtype, device=self.device)
        return self._rooms[number][: n_rows * n_columns].view(n_rows, n_columns)

    def _masks(self, rows: slice, columns: slice) -> tuple[Tensor | None, Tensor | None]:
        if not self.asks_blocks:
            return None, None
        block = self.pairs.block(rows, columns)
        positive, compared = block.positive, block.compared
        if self.per_positive and positive is not None:
            compared = ~positive if compared is None else compared & ~positive
        if positive is None or self.by_groups:
            return None, compared
        return self._without_own(positive.to(self.dtype), rows, columns), compared

    def _everything_compared(self, compared: Tensor | None, rows: slice, columns: slice) -> Tensor:
        """What is compared, without empty places and without the anchors themselves, as one mask."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        mask = torch.ones(shape, dtype=torch.bool, device=self.device) if compared is None else compared.clone()
        if self.pairs.anchors_usable is not None:
            mask &= self.pairs.anchors_usable[rows, None]
        if self.pairs.keys_usable is not None:
            mask &= self.pairs.keys_usable[None, columns]
        return self._without_own(mask, rows, columns)

    def _without_own(self, tile: Tensor, rows: slice, columns: slice) -> Tensor:
        """The tile, 0 where an anchor meets itself."""
        if self.pairs.own is not None:
            offset = self.pairs.own + rows.start - columns.start
            if -tile.shape[0] < offset < tile.shape[1]:
                tile.diagonal(offset).zero_()
        return tile

    # Denominators

    def _exponentials(self, logits: Tensor, compared: Tensor | None, rows: slice, columns: slice) -> list[Tensor]:
        """For each direction the tile serves exp(logits - shift) of what is compared, 0 elsewhere.

        Bounded logits are overwritten, and both directions share the one tile.
        """
        served = self._served(rows, columns)
        if self.bounded:
            tile = logits.exp_()
            if compared is not None:
                tile.mul_(compared)
            tile = self._balanced(self._without_own(tile, rows, columns), rows, columns)
            return [tile] * len(served)
        left_out = ~self._everything_compared(compared, rows, columns)
        tiles = []
        for side, own, _, flipped in served:
            assert side.shift is not None
            shift = side.shift[None, own] if flipped else side.shift[own, None]
            tile = torch.exp(logits - shift).masked_fill_(left_out, 0)
            tiles.append(self._balanced(tile, rows, columns))
        return tiles

    def _find_shifts(self) -> None:
        """The largest logit that each anchor is compared with, by a pass of its own; 0 where there is none."""
        for rows, columns, _, logits, _, compared in self._tiles():
            logits.masked_fill_(~self._everything_compared(compared, rows, columns), -torch.inf)
            for side, own, _, flipped in self._served(rows, columns):
                assert side.shift is not None
                side.shift[own] = torch.maximum(side.shift[own], logits.amax(dim=0 if flipped else 1))
        for side in self.sides():
            assert side.shift is not None
            side.shift.masked_fill_(side.shift.isinf(), 0)

    def _pushed(
        self,
        tiles: list[Tensor],
        served: list[tuple[Direction, slice, slice, bool]],
        pressures: list[Tensor],
    ) -> Tensor:
        """The gradient at a tile's logits that the denominators give: pressure of the anchor, weight of the key."""
        of_rows, of_columns = [], []
        for side, own, others, flipped in served:
            pressure = pressures[0 if side is self.first else 1][own]
            weight = pressure.new_ones(others.stop - others.start) if side.compare is None else side.compare[others]
            of_rows.append(weight if flipped else pressure)
            of_columns.append(pressure if flipped else weight)
        room = self._room(1, *tiles[0].shape)
        if self.bounded:  # the directions share one tile
            return tiles[0].mul_(torch.mm(torch.stack(of_rows, dim=1), torch.stack(of_columns), out=room))
        for tile, of_row, of_column in zip(tiles, of_rows, of_columns, strict=True):
            tile.mul_(torch.outer(of_row, of_column))
        return tiles[0] if len(tiles) == 1 else tiles[0].add_(tiles[1])

    def _balanced(self, tile: Tensor, rows: slice, columns: slice) -> Tensor:
        """The tile with the keys of an anchor's own class counted without the anchor."""
        if self.boost is not None:
            assert self.pairs.anchor_classes is not None
            assert self.pairs.key_classes is not None
            same = self.pairs.anchor_classes[rows, None] == self.pairs.key_classes[None, columns]
            tile.mul_(torch.where(same, self.boost[None, columns], 1))
        return tile

    def _own_class_boost(self) -> Tensor | None:
        """By key, what makes 1/n of its class 1/(n - 1), for anchors that are themselves among the keys."""
        if self.pairs.denominator != "balanced" or self.pairs.own is None:
            return None
        size = _class_sizes(self.pairs.key_classes, self.pairs.keys_usable, self.dtype)
        return torch.where(size > 1, size / (size - 1).clamp_min(1), 1)

    # Positives

    def _one_positive_at_a_time(self) -> None:
        """The terms log(1 + exp(log z - logit)) of each positive against all negatives."""
        for rows, columns, _, logits, positive, _ in self._tiles():
            if positive is None:
                continue
            for side, own, others, flipped in self._served(rows, columns):
                log_z = side.log_z[own]
                gap = (log_z[None, :] if flipped else log_z[:, None]) - logits
                side.positive[own] += _over_keys(F.softplus(gap).mul_(positive), side.trust, others, flipped)
                side.push[own] += _over_keys(gap.sigmoid_().mul_(positive), side.trust, others, flipped)
        for side in self.sides():
            side.push = side.pull(side.push)

    def _pulled(
        self,
        positive: Tensor,
        logits: Tensor,
        served: list[tuple[Direction, slice, slice, bool]],
        pulls: list[Tensor],
    ) -> Tensor:
        """Minus the gradient at the logits of a tile that its positives give."""
        total = torch.zeros_like(positive)
        for side, own, others, flipped in served:
            pull = pulls[0 if side is self.first else 1][own]
            part = positive * (pull[None, :] if flipped else pull[:, None])
            if side.trust is not None:
                part.mul_(side.trust[others, None] if flipped else side.trust[None, others])
            if self.per_positive:
                log_z = side.log_z[own]
                part.mul_(torch.sigmoid((log_z[None, :] if flipped else log_z[:, None]) - logits))
            total.add_(part)
        return total

    def _group_ends(self, number: int) -> tuple[Direction, UnitVectors, Tensor, UnitVectors, Tensor]:
        """A side, its anchors with their groups, and its keys with theirs."""
        groups = self.pairs.groups
        assert groups is not None
        ends = (self.anchors, groups.anchors, self.keys, groups.keys)
        return self.sides()[number], *(ends if number == 0 else (*ends[2:], *ends[:2]))

    def _sum_groups(self, number: int) -> None:
        """The sums over positives of one side, by sums over the keys of each group."""
        side, anchors, own_groups, keys, key_groups = self._group_ends(number)
        members = GroupSums(keys, key_groups, side.trust, self._n_groups, self.tile)
        for places in slices(len(own_groups), self.tile):
            unit = anchors.unit(places)
            sums, count = members.of(own_groups[places])
            side.count[places] = count
            side.positive[places] = (unit * sums).sum(dim=1) / self.temperature
        for places, others, trust in self._own_pairs(side, own_groups, key_groups):
            side.count[places] -= trust
            own = (anchors.unit(places) * keys.unit(others)).sum(dim=1)
            side.positive[places] -= trust * own / self.temperature

    def _pull_groups(self, number: int, pull: Tensor, at_anchors: Tensor, at_keys: Tensor) -> None:
        """Take the gradients that the positives of one side give from those at the unit vectors."""
        side, anchors, own_groups, keys, key_groups = self._group_ends(number)
        if number == 1:
            at_anchors, at_keys = at_keys, at_anchors
        pull = pull / self.temperature
        members = GroupSums(keys, key_groups, side.trust, self._n_groups, self.tile)
        for places in slices(len(own_groups), self.tile):
            sums, _ = members.of(own_groups[places])
            at_anchors[places].addcmul_(sums, pull[places, None], value=-1)
        members.give_back(anchors, own_groups, pull, at_keys)
        for places, others, trust in self._own_pairs(side, own_groups, key_groups):
            weight = (trust * pull[places])[:, None]
            at_anchors[places].addcmul_(keys.unit(others), weight)
            at_keys[others].addcmul_(anchors.unit(places), weight)

    def _own_pairs(
        self, side: Direction, own_groups: Tensor, key_groups: Tensor
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Where the anchors of a side are among its keys: both places, and the trust that made them positives."""
        if self.pairs.own is None:
            return
        offset = self.pairs.own if side is self.first else -self.pairs.own
        start, stop = max(0, -offset), min(len(own_groups), len(key_groups) - offset)
        for piece in slices(stop, self.tile, start):
            others = slice(piece.start + offset, piece.stop + offset)
            trust = (own_groups[piece] >= 0).to(self.dtype)
            yield piece, others, trust if side.trust is None else trust * side.trust[others]

    @property
    def _n_groups(self) -> int:
        assert self.pairs.groups is not None
        return self.pairs.groups.n_groups

    def _side(
        self, n: int, usable: Tensor | None, keys_usable: Tensor | None, trust: Tensor | None, classes: Tensor | None
    ) -> Direction:
        compare = None if keys_usable is None else keys_usable.to(self.dtype)
        weights = compare if trust is None else trust.to(self.dtype)
        if trust is not None and keys_usable is not None:
            weights = weights * keys_usable if weights is not None else None
        if self.pairs.denominator == "balanced":
            balance = 1 / _class_sizes(classes, keys_usable, self.dtype).clamp_min(1)
            compare = balance if compare is None else compare * balance
        z, positive, count, push = torch.zeros((4, n), dtype=self.dtype, device=self.device).unbind()
        shift = None if self.bounded else torch.full_like(z, -torch.inf)
        return Direction(
            usable=usable, compare=compare, trust=weights, z=z, positive=positive, count=count, push=push, shift=shift
        )


def _over_keys(tile: Tensor, weights: Tensor | None, keys: slice, flipped: bool) -> Tensor:
    """The sum over a tile's keys, which are its columns or, flipped, its rows."""
    if weights is None:
        return tile.sum(dim=0 if flipped else 1)
    return weights[keys] @ tile if flipped else tile @ weights[keys]


def _class_sizes(classes: Tensor | None, usable: Tensor | None, dtype: torch.dtype) -> Tensor:
    """For each pixel the number of usable pixels of its class."""
    if classes is None:
        raise ValueError("a balanced denominator needs the classes of anchors and keys")
    _, number = torch.unique(classes, return_inverse=True)
    present = torch.ones(len(classes), dtype=dtype, device=classes.device) if usable is None else usable.to(dtype)
    return torch.zeros_like(present).index_add_(0, number, present)[number]


def _minus(own: int | None) -> int | None:
    return None if own is None else -own
