"""Charts are read back as XML: axes, ticks, escaping and positions are checked on the drawing itself."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scantling.figures.axes import (
    Scale,
    decade_ticks,
    divided_decade_ticks,
    finite_range,
    nice_ticks,
    tick_label,
)
from scantling.figures.curves import Line, line_chart, reliability_chart
from scantling.figures.strips import Strip, strip_chart

NAUGHTY = "<script>alert('x')</script> & \"quoted\""


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter("text")]


def loss_chart(**settings: object) -> str:
    line = Line(name="loss", x=[0, 1, 2, 3], y=[1.0, 0.5, 0.3, 0.25], colour="#0072b2")
    return line_chart([line], **({"x_label": "epoch", "y_label": "loss", "title": "Training"} | settings))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), about=st.integers(3, 9))
def test_ticks_cover_the_range_evenly_with_round_steps(low, span, about):
    ticks = nice_ticks(low, low + span, about=about)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + span - 1e-6 * step
    assert 2 <= len(ticks) <= about + 3
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(mantissa == pytest.approx(nice, rel=1e-3) for nice in (1, 2, 5, 10))


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, math.inf), (math.nan, 1)])
def test_an_empty_or_infinite_range_has_no_ticks(low, high):
    with pytest.raises(ValueError, match="wanted low < high"):
        nice_ticks(low, high)


def test_decades_cover_the_range_and_stay_few():
    assert decade_ticks(0.02, 3.0) == pytest.approx([0.01, 0.1, 1, 10])
    many = decade_ticks(1e-12, 1.0)
    assert len(many) <= 7
    assert many[0] <= 1e-12
    assert many[-1] >= 1.0
    assert len(decade_ticks(1.0, 1.0)) == 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1000, 40_000, [1000, 2000, 5000, 10_000, 20_000, 50_000]),
        (0.03, 0.3, [0.02, 0.05, 0.1, 0.2, 0.5]),
        (2, 2, [2, 5]),
        (1, 10, [1, 2, 5, 10]),
    ],
)
def test_divided_decades_cover_the_range_with_ones_twos_and_fives(low, high, ticks):
    assert divided_decade_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (0.85, "0.85"), (1200, "1200"), (1e-4, "1e-4"), (2.5e6, "2.5e6"), (-0.5, "-0.5")],
)
def test_tick_labels_are_short(value, label):
    assert tick_label(value) == label


def test_a_flat_or_empty_series_still_has_a_range():
    assert finite_range([3.0, 3.0]) == pytest.approx((2.7, 3.3))
    assert finite_range([math.nan]) == (0.0, 1.0)
    assert finite_range([math.nan, 1.0, 4.0]) == (1.0, 4.0)


def test_scales_map_both_ends_and_the_middle():
    linear = Scale(low=0, high=10, start=100, end=0)
    assert [linear(v) for v in (0, 5, 10)] == [100, 50, 0]
    logarithmic = Scale(low=0.01, high=1, start=0, end=100, logarithmic=True)
    assert [logarithmic(v) for v in (0.01, 0.1, 1)] == pytest.approx([0, 50, 100])


def test_a_chart_has_title_axes_with_units_and_ticks():
    shown = texts(loss_chart())
    assert {"Training", "epoch", "loss"} <= set(shown)
    assert {"0", "1", "2", "3"} <= set(shown)


def test_points_fall_where_the_axes_say():
    svg = parse(loss_chart(y_limits=(0.0, 1.0)))
    moves = next(p.get("d") for p in svg.iter("path") if p.get("stroke") == "#0072b2")
    points = [tuple(map(float, part[1:].split())) for part in moves.replace(" L", "|L").split("|")]
    label = {t.text: t for t in svg.iter("text")}
    assert points[3][0] == pytest.approx(float(label["3"].get("x")), abs=0.01)  # x = 3 stands above its label
    low, high = (float(label[text].get("y")) for text in ("0.2", "0.8"))  # labels hang 4 px below their line
    expected = [low - 4 + (y - 0.2) / 0.6 * (high - low) for y in (1.0, 0.5, 0.3, 0.25)]
    assert [y for _, y in points] == pytest.approx(expected, abs=0.02)


def test_missing_values_break_the_line():
    line = Line(name="dice", x=[0, 1, 2, 3], y=[0.1, math.nan, 0.3, 0.4], colour="#111111")
    svg = parse(line_chart([line], x_label="epoch", y_label="Dice", title="t"))
    moves = next(p.get("d") for p in svg.iter("path") if p.get("stroke") == "#111111")
    assert moves.count("M") == 2
    assert moves.count("L") == 1


def test_a_single_point_is_drawn_as_a_dot():
    line = Line(name="dice", x=[5], y=[0.5], colour="#111111")
    assert len(list(parse(line_chart([line], x_label="e", y_label="d", title="t")).iter("circle"))) == 1


def test_nothing_to_show_is_an_empty_frame_and_no_error():
    assert "NaN" not in line_chart([], x_label="e", y_label="d", title="t").upper().replace("TITLE", "")
    assert "nan" not in line_chart([], x_label="e", y_label="d", title="t", logarithmic_x=True).lower()
    line = Line(name="a", x=[0, 1], y=[math.nan, math.inf], colour="#111111")
    assert "nan" not in line_chart([line], x_label="epoch", y_label="d", title="t").lower()
    assert not list(parse(strip_chart([], x_label="Dice", title="t")).iter("circle"))


def test_a_logarithmic_axis_leaves_out_what_has_no_logarithm():
    line = Line(name="rate", x=[0, 1, 2, 3], y=[1e-2, 0.0, 1e-3, 1e-4], colour="#111111")
    svg = line_chart([line], x_label="epoch", y_label="rate", title="t", logarithmic=True)
    assert {"0.01", "0.001", "1e-4"} <= set(texts(svg))
    assert next(p.get("d") for p in parse(svg).iter("path") if p.get("stroke") == "#111111").count("M") == 2


def test_on_two_logarithmic_axes_a_power_law_is_straight_and_its_slope_is_the_power():
    n = [1000.0, 2000.0, 10_000.0, 40_000.0]
    line = Line(name="memory", x=[0.0, *n], y=[1.0, *(k**2 for k in n)], colour="#111111", markers=True)
    options = {"logarithmic": True, "logarithmic_x": True, "title": "t"}
    svg = parse(line_chart([line], x_label="n", y_label="MiB", **options))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert len(dots) == 4  # zero has no logarithm
    at = {t.text: (float(t.get("x")), float(t.get("y"))) for t in svg.iter("text")}
    decade_x = at["10000"][0] - at["1000"][0]
    decade_y = (at["1e10"][1] - at["1e6"][1]) / 4
    slopes = [(b[1] - a[1]) / decade_y / ((b[0] - a[0]) / decade_x) for a, b in pairwise(dots)]
    assert slopes == pytest.approx([2.0] * 3, abs=0.01)
    assert dots[0][0] == pytest.approx(at["1000"][0], abs=0.01)


def test_several_lines_get_a_legend_that_wraps():
    lines = [Line(name=f"a rather long loss name {k}", x=[0, 1], y=[k, 1], colour="#111111") for k in range(6)]
    svg = parse(line_chart(lines, x_label="e", y_label="l", title="t", width=480))
    names = [t for t in svg.iter("text") if (t.text or "").startswith("a rather")]
    assert len(names) == 6
    assert len({t.get("y") for t in names}) > 1
    assert max(float(t.get("x")) for t in names) < 480 - 100


def test_a_line_without_a_name_is_drawn_and_not_in_the_legend():
    lines = [Line(name=name, x=[0, 1], y=[0, 1], colour=colour) for name, colour in (("a", "#111111"), ("", "#222333"))]
    svg = parse(line_chart([*lines, lines[0]], x_label="e", y_label="l", title="t"))
    assert sum(p.get("stroke") == "#222333" for p in svg.iter("path")) == 1
    assert not any(p.get("stroke") == "#222333" for p in svg.iter("line"))
    assert sum(p.get("stroke") == "#111111" for p in svg.iter("line")) == 2


def test_the_last_label_of_the_x_axis_is_not_cut_off():
    svg = parse(
        line_chart([Line(name="a", x=[0, 40_000], y=[0, 1], colour="#111111")], x_label="", y_label="", title="")
    )
    last = next(t for t in svg.iter("text") if t.text == "40000")
    assert float(last.get("x")) + 0.5 * 7 * 5 < 640


def test_strips_hold_one_dot_a_finite_case_and_their_mean():
    strip = Strip(name="heart", values=[0.5, 0.75, math.nan, 1.0], colour="#009e73", mean=0.75, interval=(0.6, 0.9))
    svg = parse(strip_chart([strip], x_label="Dice", title="Dice per case"))
    dots = sorted(float(c.get("cx")) for c in svg.iter("circle"))
    assert len(dots) == 3
    assert dots[1] == pytest.approx((dots[0] + dots[2]) / 2, abs=0.01)
    diamond = next(svg.iter("polygon")).get("points").split()
    assert float(diamond[1].split(",")[0]) == pytest.approx(dots[1], abs=0.01)


def test_boxes_are_drawn_from_four_cases_on():
    def rectangles(n: int) -> list[ElementTree.Element]:
        strip = Strip(name="a", values=[k / 10 for k in range(n)], colour="#009e73")
        return list(parse(strip_chart([strip], x_label="Dice", title="t")).iter("rect"))

    assert not rectangles(3)
    assert len(rectangles(4)) == 1


def test_many_equal_values_do_not_hide_each_other_completely():
    strip = Strip(name="a", values=[0.9] * 5, colour="#009e73")
    dots = {(c.get("cx"), c.get("cy")) for c in parse(strip_chart([strip], x_label="Dice", title="t")).iter("circle")}
    assert len(dots) == 5


def test_a_perfect_reliability_lies_on_the_diagonal():
    svg = parse(reliability_chart([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], [0.2, 0.3, 0.5], title="t", size=300))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    slope = (dots[1][1] - dots[0][1]) / (dots[1][0] - dots[0][0])
    assert (dots[2][1] - dots[1][1]) / (dots[2][0] - dots[1][0]) == pytest.approx(slope, abs=1e-3)
    assert len(list(parse(reliability_chart([0.1], [math.nan], [0.5], title="t")).iter("circle"))) == 0


@pytest.mark.parametrize(
    "draw",
    [
        lambda: loss_chart(title=NAUGHTY, x_label=NAUGHTY, y_label=NAUGHTY),
        lambda: line_chart(
            [Line(name=NAUGHTY, x=[0, 1], y=[0, 1], colour="#111111")] * 2,
            x_label="a",
            y_label="b",
            title="c",
        ),
        lambda: strip_chart([Strip(name=NAUGHTY, values=[0.5], colour="#111111")], x_label=NAUGHTY, title=NAUGHTY),
        lambda: reliability_chart([0.5], [0.5], [1.0], title=NAUGHTY),
    ],
)
def test_names_are_text_and_never_markup(draw):
    svg = draw()
    assert "<script" not in svg
    assert any("<script>" in (text or "") for text in [*texts(svg), parse(svg).get("aria-label")])


def test_charts_refer_to_nothing_outside_themselves():
    svg = loss_chart() + strip_chart([], x_label="a", title="b") + reliability_chart([], [], [], title="c")
    assert "://" not in svg
    assert "href" not in svg
    assert "url(" not in svg
