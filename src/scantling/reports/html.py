"""HTML that cannot be broken by its contents: whatever is not markup already is escaped on its way in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Final

_VOID: Final = frozenset({"img", "meta", "br", "hr"})


class Markup(str):
    """Text that is HTML already; only this module and the charts make it."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def element(tag: str, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """`<tag attributes>children</tag>`; children and attribute values are escaped unless they are `Markup`.

    Attribute names lose a trailing underscore (`class_`), and other underscores become hyphens; None and
    False leave an attribute out, True gives it no value.
    """
    written = []
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {key}")
        elif value is not None and value is not False:
            written.append(f' {key}="{escape(str(value))}"')
    start = f"<{tag}{''.join(written)}>"
    return Markup(start if tag in _VOID else f"{start}{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """Children one after another, each escaped unless it is `Markup`; None adds nothing."""
    return Markup("".join(_written(child) for child in children))


def table(
    header: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    text_columns: Collection[int] = (0,),
    class_: str = "",
) -> Markup:
    """A table whose columns are numbers, right-aligned, except for `text_columns`."""

    def cells(tag: str, row: Sequence[Child]) -> Markup:
        kinds = ("text" if position in text_columns else "number" for position in range(len(row)))
        return element("tr", [element(tag, cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)])

    head = element("thead", cells("th", header))
    body = element("tbody", [cells("td", row) for row in rows])
    return element("div", element("table", head, body), class_=f"scroll {class_}".strip())


def section(title: str, *children: Child) -> Markup:
    """A section with its heading."""
    return element("section", element("h2", title), *children)


def definitions(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """A list of names and what they are."""
    return element("dl", [join(element("dt", name), element("dd", value)) for name, value in pairs])


def paragraphs(texts: Iterable[Child], *, class_: str | None = None) -> Markup:
    """Each text as its own paragraph."""
    return join(*(element("p", text, class_=class_) for text in texts))


def _written(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, str | int | float):
        return escape(str(child))
    return "".join(_written(each) for each in child)
