"""Colours that stay apart for colour-blind readers, one per class (Okabe and Ito 2008, order ours)."""

from __future__ import annotations

from typing import Final

Colour = tuple[int, int, int]

_CLASSES: Final[tuple[Colour, ...]] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)


def class_colour(index: int) -> Colour:
    """The colour of foreground class `index` (1, 2, ...); the list repeats after seven."""
    return _CLASSES[(index - 1) % len(_CLASSES)]


def lighter(colour: Colour, share: float = 0.6) -> Colour:
    """The colour mixed with white."""
    red, green, blue = (round(part + share * (255 - part)) for part in colour)
    return red, green, blue


def hexadecimal(colour: Colour) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
