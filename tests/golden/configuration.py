"""Writes docs/reference/configuration.md from the models themselves: python tests/golden/configuration.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scantling.recipes import RECIPES
from scantling.training.config import RunConfig

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
HEAD = """# Configuration

Written from the configuration models themselves. Every name can be given as `--set name=value` or in a TOML file
(`--config`); `config.toml` of a run holds the resolved values. An unknown name is an error that suggests the right
one. `None` leaves the decision to the plan, or switches the thing off.
"""


def text() -> str:
    """The page."""
    told: dict[type[BaseModel], str] = {}
    parts = [HEAD, *_model("A run", RunConfig, "", None, told)]
    for name, recipe in RECIPES.items():
        parts += _model(f"Recipe {name}", recipe.config_type, "settings.", None, told)
    return "\n".join(parts)


def _model(
    title: str, model: type[BaseModel], prefix: str, values: BaseModel | None, told: dict[type[BaseModel], str]
) -> Iterator[str]:
    """A table of a model's settings, then those of the models in it; of one told before only what is otherwise here."""
    first = told.setdefault(model, title)
    nested: list[tuple[str, type[BaseModel], BaseModel | None]] = []
    rows = []
    for name, field in model.model_fields.items():
        value = _given(field, name, values)
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation, None if value is ... else value))
        elif first == title or value != _given(field, name, None):
            rows.append(f"| `{prefix}{name}` | {_type(field)} | {'required' if value is ... else f'`{value}`'} |")
    table = "| name | type | default |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    if first == title:
        yield f"## {title}\n\n```text\n{inspect.getdoc(model) or ''}\n```\n\n{table}"
    elif rows:
        yield f'## {title}\n\nAs under "{first}", but:\n\n{table}'
    elif not nested:
        yield f'## {title}\n\nAs under "{first}".\n'
    for name, inner, value in nested:
        yield from _model(f"{title}: {prefix}{name}", inner, f"{prefix}{name}.", value, told)


def _given(field: FieldInfo, name: str, values: BaseModel | None) -> Any:
    """The value here, else the field's default; `...` where there is none."""
    if values is not None:
        return getattr(values, name)
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _type(field: FieldInfo) -> str:
    shown = getattr(field.annotation, "__name__", "") if inspect.isclass(field.annotation) else ""
    return (shown or str(field.annotation)).replace("typing.", "").replace("|", "or")


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
