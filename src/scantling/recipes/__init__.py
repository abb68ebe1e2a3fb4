"""One file per method, the table of their names, and how a name becomes a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from scantling.config import Config, nearest
from scantling.data.plan import Plan
from scantling.errors import ConfigError
from scantling.recipes.recipe import Recipe
from scantling.recipes.supervised import Supervised

RECIPES: Final[dict[str, type[Recipe]]] = {
    "supervised": Supervised,
}


def parse_settings(name: str, settings: Mapping[str, Any]) -> Config:
    """A recipe's settings: its defaults, and what differs.

    Raises:
        ConfigError: no such recipe, or a setting it does not have (both with the nearest known name).
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: not a recipe{nearest(name, RECIPES)}", code="E-CFG-20")
    return RECIPES[name].config_type.parse(settings, where=f"recipe {name}")


def build_recipe(name: str, settings: Mapping[str, Any], plan: Plan, generator: torch.Generator) -> Recipe:
    """A recipe by its name, with what differs from its defaults.

    Raises:
        ConfigError: as `parse_settings`.
    """
    config = parse_settings(name, settings)
    return RECIPES[name](config, plan, generator)


__all__ = ["RECIPES", "Recipe", "Supervised", "build_recipe", "parse_settings"]
