"""The pairs that a rule makes as an inline SVG: one cell for each anchor and key, with brackets for their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from jaxtyping import Bool

from scantling.figures.colours import class_colour, hexadecimal, lighter
from scantling.figures.svg import GRID, INK, QUIET, chart_title, line_at, number, polyline, shortened, svg, text_at

POSITIVE: Final = hexadecimal(class_colour(7))  # blue
NEGATIVE: Final = hexadecimal(lighter(class_colour(1), 0.62))  # light orange: mostly negatives must not shout
NEITHER: Final = "#ffffff"
_KINDS: Final = (("positive", POSITIVE), ("negative", NEGATIVE), ("neither", NEITHER))

_BRACKET_PX: Final = 22
_LETTER_PX: Final = 6.4


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A run of anchors, or of keys, under one label."""

    label: str
    length: int


def pair_matrix(
    positive: Bool[np.ndarray, "anchor key"],
    compared: Bool[np.ndarray, "anchor key"],
    *,
    title: str,
    anchor_brackets: Sequence[Sequence[Bracket]] = (),
    key_brackets: Sequence[Sequence[Bracket]] = (),
    anchor_title: str = "anchors",
    key_title: str = "keys",
    cell_px: int = 14,
) -> str:
    """A matrix of pairs, anchors down and keys across: positive, negative (compared and not positive), or neither.

    Args:
        anchor_brackets, key_brackets: levels of groups, from the matrix outwards, such as views within images.

    Raises:
        ValueError: a positive pair that is not compared, or brackets that do not cover the anchors or keys.
    """
    if (positive & ~compared).any():
        raise ValueError(f"pair_matrix: {int((positive & ~compared).sum())} pairs are positive and not compared")
    n_anchors, n_keys = positive.shape
    _check_cover("anchor", anchor_brackets, n_anchors)
    _check_cover("key", key_brackets, n_keys)
    left, top = _room_left(anchor_brackets), 66 + _BRACKET_PX * len(key_brackets)
    right, bottom = left + n_keys * cell_px, top + n_anchors * cell_px
    width = int(max(right + 14, left + _key_width(), 24 + _LETTER_PX * 1.15 * len(title)))
    parts = [chart_title(title, 12), *_key(left)]
    kinds = (positive, compared & ~positive, ~compared)
    for mask, (_, colour) in zip(kinds, _KINDS, strict=True):
        parts += _cells(mask, left, top, cell_px, colour)
    parts += _grid(left, top, right, bottom, cell_px)
    parts += _across(key_brackets, left, top, bottom, cell_px)
    parts += _down(anchor_brackets, left, top, right, cell_px)
    parts.append(text_at(key_title, (left + right) / 2, top - 8 - _BRACKET_PX * len(key_brackets), anchor="middle"))
    middle = number((top + bottom) / 2)
    turned = f"x='14' y='{middle}' transform='rotate(-90 14 {middle})' text-anchor='middle'"
    parts.append(f"<text {turned} fill='{INK}'>{escape(anchor_title)}</text>")
    return svg(parts, width, bottom + 12, title)


def _check_cover(side: str, levels: Sequence[Sequence[Bracket]], n: int) -> None:
    for level in levels:
        if (covered := sum(bracket.length for bracket in level)) != n:
            raise ValueError(f"pair_matrix: the {side} brackets cover {covered} of {n} {side}s")


def _room_left(levels: Sequence[Sequence[Bracket]]) -> int:
    """Room for the axis title and each level of brackets with its labels, which are not turned."""
    return 30 + sum(_level_width(level) for level in levels)


def _level_width(level: Sequence[Bracket]) -> int:
    return 16 + int(_LETTER_PX * max((len(_label(bracket)) for bracket in level), default=0))


def _label(bracket: Bracket) -> str:
    return shortened(bracket.label, 18)


def _key_width() -> int:
    return int(sum(24 + _LETTER_PX * len(name) + 16 for name, _ in _KINDS))


def _key(left: float) -> list[str]:
    """What the three colours mean, under the title."""
    parts, x = [], left
    for name, colour in _KINDS:
        box = f"x='{number(x)}' y='28' width='12' height='12' fill='{colour}' stroke='{QUIET}' stroke-width='0.6'"
        parts += [f"<rect {box}/>", text_at(name, x + 18, 38)]
        x += 24 + _LETTER_PX * len(name) + 16
    return parts


def _cells(mask: Bool[np.ndarray, "anchor key"], left: float, top: float, cell_px: int, colour: str) -> list[str]:
    """The cells of one kind as one path, each run of a row in one piece."""
    pieces = []
    for row, cells in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            run = cell_px * int(end - start)
            x, y = number(left + cell_px * int(start)), number(top + cell_px * row)
            pieces.append(f"M{x} {y}h{run}v{cell_px}h{-run}z")
    return [f"<path d='{''.join(pieces)}' fill='{colour}'/>"] if pieces else []


def _grid(left: float, top: float, right: float, bottom: float, cell_px: int) -> list[str]:
    """Hair lines between cells, a frame around all."""
    parts = [
        line_at(left + k, top, left + k, bottom, colour=GRID, width=0.7)
        for k in range(cell_px, int(right - left), cell_px)
    ]
    parts += [
        line_at(left, top + k, right, top + k, colour=GRID, width=0.7)
        for k in range(cell_px, int(bottom - top), cell_px)
    ]
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    parts.append(
        polyline([f"{'L' if k else 'M'}{number(x)} {number(y)}" for k, (x, y) in enumerate(corners)], colour=QUIET)
    )
    return parts


def _across(levels: Sequence[Sequence[Bracket]], left: float, top: float, bottom: float, cell_px: int) -> list[str]:
    """Brackets over the matrix, and a line through it wherever a group of any level ends."""
    parts = []
    for depth, level in enumerate(levels):
        y, x = top - 5 - _BRACKET_PX * depth, left
        for position, bracket in enumerate(level):
            end = x + bracket.length * cell_px
            moves = [f"M{number(x + 2)} {number(y)}", f"v-4H{number(end - 2)}v4"]
            parts.append(polyline(moves, colour=QUIET))
            most = max(1, int((end - x) / _LETTER_PX))
            parts.append(text_at(shortened(_label(bracket), most), (x + end) / 2, y - 7, anchor="middle", colour=QUIET))
            if position:
                parts.append(line_at(x, top, x, bottom, colour=QUIET, width=0.8 + 0.6 * depth))
            x = end
    return parts


def _down(levels: Sequence[Sequence[Bracket]], left: float, top: float, right: float, cell_px: int) -> list[str]:
    """Brackets beside the matrix, and a line through it wherever a group of any level ends."""
    parts, x = [], left - 5
    for depth, level in enumerate(levels):
        y = top
        for position, bracket in enumerate(level):
            end = y + bracket.length * cell_px
            parts.append(polyline([f"M{number(x)} {number(y + 2)}", f"h-4V{number(end - 2)}h4"], colour=QUIET))
            parts.append(text_at(_label(bracket), x - 8, (y + end) / 2 + 4, anchor="end", colour=QUIET))
            if position:
                parts.append(line_at(left, y, right, y, colour=QUIET, width=0.8 + 0.6 * depth))
            y = end
        x -= _level_width(level)
    return parts
