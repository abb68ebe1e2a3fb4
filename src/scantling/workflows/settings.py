"""From what a user said to the settings of a run: four layers, the weakest first."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from scantling.errors import ConfigError
from scantling.recipes import RECIPES
from scantling.training.config import RunConfig

DEFAULT_SECONDS: Final = 1200.0
"""Of a run whose length nobody gave."""
_FEATURE_DEFAULTS: Final = {"data": {"label_kinds": ["silver"]}}
"""Of a run that learns features: labels that a person drew are left for fine-tuning."""


def resolved(values: dict[str, Any]) -> RunConfig:
    """The settings of a run: `values` over what its recipe's defaults change of the defaults.

    Raises:
        ConfigError: a setting is wrong.
    """
    name = values.get("recipe", "supervised")
    if isinstance(name, str) and name in RECIPES:
        values = under(RECIPES[name].run_defaults, values)
        if RECIPES[name].learns == "features":
            values = under(_FEATURE_DEFAULTS, values)
    config = RunConfig.parse(values, where="train")
    if config.time_seconds is None and config.training.steps is None and config.training.seconds is None:
        return config.model_copy(update={"time_seconds": DEFAULT_SECONDS})
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", code="E-CFG-02") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})", code="E-CFG-02") from None


def lay(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested tables."""
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def under(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and of nested tables of defaults what they do not say."""
    merged = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = under(default, merged[name])
    return merged


def names_of(text: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The names in "a,b,c", or in a sequence."""
    if text is None:
        return None
    return tuple(part.strip() for part in (text.split(",") if isinstance(text, str) else text) if part.strip())


def pairs_of(items: Sequence[str]) -> dict[str, str]:
    """Columns and values of "column=value" texts.

    Raises:
        ConfigError: a text is none.
    """
    pairs = {}
    for item in items:
        column, separator, value = item.partition("=")
        if not separator or not column:
            raise ConfigError(f"{item!r}: wanted column=value, as in site=shenzhen", code="E-CFG-12")
        pairs[column.strip()] = value.strip()
    return pairs


def whole_number(fold: int | str) -> int:
    """The number of a fold.

    Raises:
        ConfigError: it is none.
    """
    try:
        return int(fold)
    except ValueError:
        raise ConfigError(f"fold {fold!r}: wanted a number from 0, or 'none'", code="E-CFG-13") from None
