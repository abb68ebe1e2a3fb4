"""Facts as Markdown: lists, and texts of users that stay texts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any


def bullets(lines: Iterable[str]) -> str:
    """A list, one line each."""
    return "\n".join(f"- {line}" for line in lines)


def escaped(value: object) -> str:
    """Text of the user's as Markdown shows it, never as markup."""
    text = html.escape(str(value), quote=False)
    return "".join(f"\\{c}" if c in "\\`*[]|#" else " " if c in "\r\n" else c for c in text)


def known(facts: Mapping[str, Any], name: str) -> str:
    """A fact, or that it was not recorded."""
    return escaped(facts[name]) if facts.get(name) is not None else "not recorded"
