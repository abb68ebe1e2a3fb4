"""Markup is made in one place, and nothing that comes from outside gets through it as markup."""

import pytest

from scantling.reports.html import Markup, definitions, element, join, paragraphs, section, table


def test_children_and_attributes_are_escaped():
    made = element("p", "a < b & c", title='"quoted" <i>')
    assert made == '<p title="&quot;quoted&quot; &lt;i&gt;">a &lt; b &amp; c</p>'


def test_markup_is_kept_and_nests():
    assert element("div", element("b", 1), [2.5, None, "x"]) == "<div><b>1</b>2.5x</div>"


def test_attribute_names_lose_underscores_and_false_ones_are_left_out():
    made = element("details", "x", class_="a", aria_label="b", open=True, hidden=False, id=None)
    assert made == '<details class="a" aria-label="b" open>x</details>'


def test_elements_without_content_have_no_end():
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_joining_makes_markup_of_text():
    joined = join("<", Markup("<b>"))
    assert isinstance(joined, Markup)
    assert joined == "&lt;<b>"


def test_tables_align_numbers_and_escape_cells():
    made = table(("name", "n"), [("<x>", 3)])
    assert '<td class="text">&lt;x&gt;</td><td class="number">3</td>' in made
    assert '<th class="text">name</th><th class="number">n</th>' in made


@pytest.mark.parametrize("build", [lambda t: section(t, t), lambda t: definitions([(t, t)]), lambda t: paragraphs([t])])
def test_every_helper_escapes(build):
    assert "<img" not in build("<img src=x onerror=alert(1)>")
