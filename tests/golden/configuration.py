"""Writes docs/reference/configuration.md from the models themselves: python tests/golden/configuration.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

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
    parts = [HEAD, *_model("A run", RunConfig, "")]
    for name, recipe in RECIPES.items():
        parts += _model(f"Recipe {name}", recipe.config_type, "settings.")
    return "\n".join(parts)


def _model(title: str, model: type[BaseModel], prefix: str) -> Iterator[str]:
    nested: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
        else:
            rows.append(f"| `{prefix}{name}` | {_type(field)} | {_default(field)} |")
    said = inspect.getdoc(model) or ""
    yield (
        f"## {title}\n\n```text\n{said}\n```\n\n| name | type | default |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )
    for name, inner in nested:
        yield from _model(f"{title}: {prefix}{name}", inner, f"{prefix}{name}.")


def _type(field: FieldInfo) -> str:
    shown = getattr(field.annotation, "__name__", "") if inspect.isclass(field.annotation) else ""
    return (shown or str(field.annotation)).replace("typing.", "").replace("|", "or")


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
