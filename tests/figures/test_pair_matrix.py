"""A pair matrix is read back as XML: which cell has which colour, and which brackets span which cells."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from scantling.figures.colours import class_colour, hexadecimal
from scantling.figures.pair_matrix import NEGATIVE, NEITHER, POSITIVE, Bracket, pair_matrix
from scantling.figures.svg import standalone

CELL = 10


def drawn(positive: np.ndarray, compared: np.ndarray, **settings: object) -> ElementTree.Element:
    return ElementTree.fromstring(pair_matrix(positive, compared, cell_px=CELL, **({"title": "a rule"} | settings)))


def kinds(svg: ElementTree.Element, shape: tuple[int, int]) -> np.ndarray:
    """+1, -1 or 0 of each cell, from the rectangles that the paths are made of; 9 where none covers the cell."""
    left, top = corner(svg)
    found = np.full(shape, 9)
    for colour, kind in ((POSITIVE, 1), (NEGATIVE, -1), (NEITHER, 0)):
        for path in (p for p in svg.iter("path") if p.get("fill") == colour):
            for x, y, width, height in re.findall(r"M([\d.]+) ([\d.]+)h(\d+)v(\d+)h-\d+z", path.get("d", "")):
                row, column = (float(y) - top) / CELL, (float(x) - left) / CELL
                cells = found[round(row) : round(row) + int(height) // CELL, round(column) :][:, : int(width) // CELL]
                assert (cells == 9).all(), "no cell is painted twice"
                cells[:] = kind
    return found


def corner(svg: ElementTree.Element) -> tuple[float, float]:
    """Left and top of the frame, the only closed outline that is not filled."""
    frame = next(p.get("d", "") for p in svg.iter("path") if p.get("fill") == "none" and p.get("d", "").count("L") == 4)
    x, y = frame.split(" L")[0].removeprefix("M").split()
    return float(x), float(y)


def a_rule(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    kind = rng.choice([-1, 0, 1], size=shape)
    return kind == 1, kind != 0


@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (9, 3)])
def test_every_cell_has_the_colour_of_its_kind(shape: tuple[int, int]) -> None:
    positive, compared = a_rule(np.random.default_rng(sum(shape)), shape)
    expected = np.where(positive, 1, np.where(compared, -1, 0))
    np.testing.assert_array_equal(kinds(drawn(positive, compared), shape), expected)


def test_colours_are_those_of_the_house_and_apart() -> None:
    assert hexadecimal(class_colour(7)) == POSITIVE
    assert len({POSITIVE, NEGATIVE, NEITHER}) == 3


def test_the_key_names_the_three_kinds_beside_their_colours() -> None:
    svg = drawn(np.eye(3, dtype=bool), np.ones((3, 3), dtype=bool))
    boxes = {(float(r.get("x", 0)) + 18, r.get("fill")) for r in svg.iter("rect")}
    names = {(float(t.get("x", 0)), t.text) for t in svg.iter("text")}
    for name, colour in (("positive", POSITIVE), ("negative", NEGATIVE), ("neither", NEITHER)):
        assert any((x, colour) in boxes for x, text in names if text == name)


def test_brackets_span_their_cells_and_carry_their_labels() -> None:
    levels = [
        [Bracket(label=f"v{k}", length=2) for k in (1, 2, 1)],
        [Bracket(label="A", length=4), Bracket(label="B", length=2)],
    ]
    square = np.ones((6, 6), dtype=bool)
    svg = drawn(np.eye(6, dtype=bool), square, anchor_brackets=levels, key_brackets=levels)
    left, top = corner(svg)
    texts = {(t.text, float(t.get("x", 0)), float(t.get("y", 0))) for t in svg.iter("text")}
    across = {(text, x) for text, x, y in texts if y < top}
    down = {(text, y) for text, x, y in texts if x < left}
    assert {("A", left + 2 * CELL), ("B", left + 5 * CELL), ("v2", left + 3 * CELL)} <= across
    assert {("A", top + 2 * CELL + 4), ("B", top + 5 * CELL + 4), ("v2", top + 3 * CELL + 4)} <= down
    spans = [p.get("d", "") for p in svg.iter("path") if p.get("fill") == "none"]
    over = [(float(a), float(b)) for d in spans for a, b in re.findall(r"^M([\d.]+) [\d.]+ v-4H([\d.]+)v4$", d)]
    assert (left + 2, left + 4 * CELL - 2) in over
    assert len(over) == 5
    strong = [line for line in svg.iter("line") if float(line.get("stroke-width", 0)) > 1]
    assert {(float(r.get("x1", 0)), float(r.get("x2", 0))) for r in strong} == {
        (left + 4 * CELL, left + 4 * CELL),  # down, between the images
        (left, left + 6 * CELL),  # across
    }


def test_a_label_that_is_longer_than_its_bracket_is_cut_over_the_matrix() -> None:
    level = [[Bracket(label="a patient with a name", length=1), Bracket(label="b", length=5)]]
    svg = drawn(np.eye(6, dtype=bool), np.ones((6, 6), dtype=bool), key_brackets=level)
    assert max(len(t.text or "") for t in svg.iter("text") if float(t.get("y", 0)) > 40 and t.text != "anchors") < 12


def test_nothing_is_drawn_outside_the_picture() -> None:
    svg = drawn(np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool), title="A rule with quite a long name, " * 4)
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    left, top = corner(svg)
    assert left + 2 * CELL < width
    assert top + 2 * CELL < height
    ends = [float(t.get("x", 0)) + 6 * len(t.text or "") for t in svg.iter("text") if t.get("text-anchor") != "middle"]
    assert max(ends) < width


def test_texts_are_text_and_never_markup() -> None:
    naughty = "<script>alert('x')</script>"
    level = [[Bracket(label=naughty, length=3)]]
    svg = pair_matrix(
        np.eye(3, dtype=bool), np.ones((3, 3), dtype=bool), title=naughty, key_title=naughty, anchor_title=naughty,
        anchor_brackets=level, key_brackets=level,
    )  # fmt: skip
    assert "<script" not in svg
    assert "://" not in svg
    assert sum(text.text == naughty for text in ElementTree.fromstring(svg).iter("text")) == 3


def test_a_positive_that_is_not_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="3 pairs are positive and not compared"):
        pair_matrix(np.eye(3, dtype=bool), np.zeros((3, 3), dtype=bool), title="t")


def test_brackets_that_do_not_cover_their_side_are_refused() -> None:
    square = np.ones((3, 3), dtype=bool)
    for side in ("anchor", "key"):
        with pytest.raises(ValueError, match=f"the {side} brackets cover 2 of 3 {side}s"):
            drawn(square, square, **{f"{side}_brackets": [[Bracket(label="a", length=2)]]})


def test_a_file_of_its_own_says_its_name_space_and_stays_the_same_drawing() -> None:
    inline = pair_matrix(np.eye(3, dtype=bool), np.ones((3, 3), dtype=bool), title="t")
    root = ElementTree.fromstring(standalone(inline))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].get("fill") == "#ffffff"
    own = [(element.tag.partition("}")[2], element.attrib) for element in list(root)[1:]]
    assert own == [(element.tag, element.attrib) for element in ElementTree.fromstring(inline)]
