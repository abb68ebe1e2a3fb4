"""The similarity matrix in tiles: what each holds, whom it serves, and the exponentials of what is compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from scantling.losses.direction import Direction
from scantling.losses.pairs import Pairs
from scantling.losses.unit_vectors import UnitVectors, slices

SAFE_TEMPERATURE: Final = 0.025
"""From here on exp(1 / temperature), and sums of a billion of it, are ordinary float32 numbers."""

_TILE_CPU: Final = 448  # 0.8 MiB in float32: it stays in the cache between its passes
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


@dataclass(frozen=True)
class Served:
    """A direction that a tile serves.

    Attributes:
        anchors, keys: the places that the tile is of.
        flipped: the anchors are the tile's columns, not its rows.
    """

    direction: Direction
    anchors: slice
    keys: slice
    flipped: bool

    def over_keys(self, tile: Tensor, weights: Tensor | None) -> Tensor:
        """The sum over the keys of a tile, by weight; per anchor."""
        if weights is None:
            return tile.sum(dim=0 if self.flipped else 1)
        return weights[self.keys] @ tile if self.flipped else tile @ weights[self.keys]

    def of_anchors(self, values: Tensor) -> Tensor:
        """Values of all anchors, laid along the tile's side of the anchors."""
        return values[None, self.anchors] if self.flipped else values[self.anchors, None]

    def of_keys(self, values: Tensor) -> Tensor:
        """Values of all keys, laid along the tile's side of the keys."""
        return values[self.keys, None] if self.flipped else values[None, self.keys]


@dataclass(frozen=True)
class Tile:
    """One tile of the similarity matrix.

    Attributes:
        anchors: the rows' unit vectors over the temperature.
        logits: in a room that the next tile takes.
        positive: as numbers; None where it has none, or groups say them.
        compared: None is all.
    """

    rows: slice
    columns: slice
    anchors: Tensor
    logits: Tensor
    positive: Tensor | None
    compared: Tensor | None
    served: tuple[Served, ...]


class Tiles:
    """The matrix of anchors and keys, made tile by tile, and what is known of each of its directions."""

    def __init__(self, anchors: Tensor, keys: Tensor | None, setting: Setting) -> None:
        self.pairs = pairs = setting.pairs
        self.temperature = setting.temperature
        self.dtype = torch.float64 if anchors.dtype == torch.float64 else torch.float32
        self.device = anchors.device
        self.size = setting.tile or (_TILE_CUDA if self.device.type == "cuda" else _TILE_CPU)
        self.alone = keys is None
        self.anchors = self.keys = UnitVectors(anchors, pairs.anchors_usable, self.dtype, normalise=setting.normalise)
        if keys is not None:
            self.keys = UnitVectors(keys, pairs.keys_usable, self.dtype, normalise=setting.normalise)
        self.unit_keys = self.keys.unit(slice(None))
        self.triangle = self.alone and pairs.symmetric
        self.bounded = setting.normalise and setting.temperature >= SAFE_TEMPERATURE
        self.per_positive = pairs.denominator == "per_positive"
        self.by_groups = pairs.groups is not None and not self.per_positive
        self.asks_blocks = not (self.by_groups and pairs.all_compared)
        self.boost = self._own_class_boost()
        self.directions = [
            self._direction(
                pairs.n_anchors, pairs.anchors_usable, pairs.keys_usable, pairs.key_trust, pairs.key_classes
            )
        ]
        if setting.both and not self.triangle:
            self.directions.append(
                self._direction(
                    pairs.n_keys, pairs.keys_usable, pairs.anchors_usable, pairs.anchor_trust, pairs.anchor_classes
                )
            )
        self._rooms = [torch.empty(0, dtype=self.dtype, device=self.device) for _ in range(2)]
        self._idle_rows, self._idle_columns = self._idle()

    def __iter__(self) -> Iterator[Tile]:
        """Row by row; on and above the diagonal where that is all, and without tiles that serve no anchor."""
        for rows in slices(self.pairs.n_anchors, self.size):
            anchors = self.anchors.unit(rows).div_(self.temperature)
            for columns in slices(self.pairs.n_keys, self.size, rows.start if self.triangle else 0):
                if rows.start in self._idle_rows and columns.start in self._idle_columns:
                    continue
                room = self.room(0, len(anchors), columns.stop - columns.start)
                logits = torch.mm(anchors, self.unit_keys[columns].T, out=room)
                positive, compared = self._masks(rows, columns)
                yield Tile(rows, columns, anchors, logits, positive, compared, self._served(rows, columns))

    def exponentials(self, tile: Tile) -> list[Tensor]:
        """For each direction served exp(logits - shift) of what is compared, 0 elsewhere.

        Bounded logits are overwritten, and both directions share the one tensor.
        """
        if self.bounded:
            values = tile.logits.exp_()
            if tile.compared is not None:
                values.mul_(tile.compared)
            values = self._balanced(self._without_own(values, tile.rows, tile.columns), tile)
            return [values] * len(tile.served)
        left_out = ~self._everything_compared(tile)
        found = []
        for served in tile.served:
            assert served.direction.shift is not None
            values = torch.exp(tile.logits - served.of_anchors(served.direction.shift)).masked_fill_(left_out, 0)
            found.append(self._balanced(values, tile))
        return found

    def find_shifts(self) -> None:
        """The largest logit that each anchor is compared with, by a pass of its own; 0 where there is none."""
        for tile in self:
            tile.logits.masked_fill_(~self._everything_compared(tile), -torch.inf)
            for served in tile.served:
                shift = served.direction.shift
                assert shift is not None
                highest = tile.logits.amax(dim=0 if served.flipped else 1)
                shift[served.anchors] = torch.maximum(shift[served.anchors], highest)
        for direction in self.directions:
            assert direction.shift is not None
            direction.shift.masked_fill_(direction.shift.isinf(), 0)

    def room(self, number: int, n_rows: int, n_columns: int) -> Tensor:
        """One of two places for a tile's numbers, used again and again."""
        if self._rooms[number].numel() < n_rows * n_columns:
            self._rooms[number] = torch.empty(n_rows * n_columns, dtype=self.dtype, device=self.device)
        return self._rooms[number][: n_rows * n_columns].view(n_rows, n_columns)

    def _served(self, rows: slice, columns: slice) -> tuple[Served, ...]:
        served = [Served(self.directions[0], rows, columns, False)]
        if len(self.directions) == 2 or (self.triangle and rows != columns):
            served.append(Served(self.directions[-1], columns, rows, True))
        return tuple(served)

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

    def _everything_compared(self, tile: Tile) -> Tensor:
        """What is compared, without empty places and without the anchors themselves, as one mask."""
        mask = torch.ones_like(tile.logits, dtype=torch.bool) if tile.compared is None else tile.compared.clone()
        if self.pairs.anchors_usable is not None:
            mask &= self.pairs.anchors_usable[tile.rows, None]
        if self.pairs.keys_usable is not None:
            mask &= self.pairs.keys_usable[None, tile.columns]
        return self._without_own(mask, tile.rows, tile.columns)

    def _without_own(self, values: Tensor, rows: slice, columns: slice) -> Tensor:
        """The values of a tile, 0 where an anchor meets itself."""
        if self.pairs.own is not None:
            offset = self.pairs.own + rows.start - columns.start
            if -values.shape[0] < offset < values.shape[1]:
                values.diagonal(offset).zero_()
        return values

    def _balanced(self, values: Tensor, tile: Tile) -> Tensor:
        """The values with the keys of an anchor's own class counted without the anchor."""
        if self.boost is not None:
            assert self.pairs.anchor_classes is not None
            assert self.pairs.key_classes is not None
            same = self.pairs.anchor_classes[tile.rows, None] == self.pairs.key_classes[None, tile.columns]
            values.mul_(torch.where(same, self.boost[None, tile.columns], 1))
        return values

    def _idle(self) -> tuple[Collection[int], Collection[int]]:
        """Starts of the slices of rows, and of columns, whose pixels are in no group: as anchors they add nothing.

        Columns are none where they are keys alone, hence every column of such a row. On an accelerator nobody looks,
        because the host would wait.
        """
        groups = self.pairs.groups
        if groups is None or not self.by_groups or self.device.type != "cpu":
            return (), ()
        rows = _without_members(groups.anchors, self.size)
        one_way = not self.triangle and len(self.directions) == 1
        return rows, range(self.pairs.n_keys) if one_way else _without_members(groups.keys, self.size)

    def _own_class_boost(self) -> Tensor | None:
        """By key, what makes 1/n of its class 1/(n - 1), for anchors that are themselves among the keys."""
        if self.pairs.denominator != "balanced" or self.pairs.own is None:
            return None
        size = _class_sizes(self.pairs.key_classes, self.pairs.keys_usable, self.dtype)
        return torch.where(size > 1, size / (size - 1).clamp_min(1), 1)

    def _direction(
        self, n: int, usable: Tensor | None, keys_usable: Tensor | None, trust: Tensor | None, classes: Tensor | None
    ) -> Direction:
        compare = None if keys_usable is None else keys_usable.to(self.dtype)
        weights = compare if trust is None else trust.to(self.dtype)
        if trust is not None and compare is not None:
            weights = trust.to(self.dtype) * compare
        if self.pairs.denominator == "balanced":
            balance = 1 / _class_sizes(classes, keys_usable, self.dtype).clamp_min(1)
            compare = balance if compare is None else compare * balance
        z, positive, count, push = torch.zeros((4, n), dtype=self.dtype, device=self.device).unbind()
        shift = None if self.bounded else torch.full_like(z, -torch.inf)
        return Direction(
            usable=usable, compare=compare, trust=weights, z=z, positive=positive, count=count, push=push, shift=shift
        )


def _without_members(groups: Tensor, size: int) -> set[int]:
    """Starts of the slices of which no pixel has a group."""
    return {part.start for part in slices(len(groups), size) if int(groups[part].max()) < 0}


def _class_sizes(classes: Tensor | None, usable: Tensor | None, dtype: torch.dtype) -> Tensor:
    """For each pixel the number of usable pixels of its class."""
    if classes is None:
        raise ValueError("a balanced denominator needs the classes of anchors and keys")
    _, number = torch.unique(classes, return_inverse=True)
    present = torch.ones(len(classes), dtype=dtype, device=classes.device) if usable is None else usable.to(dtype)
    return torch.zeros_like(present).index_add_(0, number, present)[number]
