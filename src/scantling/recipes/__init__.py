"""One file per method, the table of their names, and how a name becomes a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, Final, final

import torch

from scantling.config import Config, nearest
from scantling.errors import ConfigError
from scantling.recipes.recipe import Recipe


@final
class _Recipes(MutableMapping[str, type[Recipe]]):
    """Recipes by name; a recipe's file is imported when it is asked for, so that a run pays for its own alone."""

    def __init__(self, class_names: Mapping[str, str]) -> None:
        self._recipes: dict[str, str | type[Recipe]] = dict(class_names)

    def __getitem__(self, name: str) -> type[Recipe]:
        recipe = self._recipes[name]
        if isinstance(recipe, str):
            file, _, class_name = recipe.rpartition(".")
            found: type[Recipe] = getattr(import_module(f"{__name__}.{file or name}"), class_name)
            return found
        return recipe

    def __setitem__(self, name: str, recipe: type[Recipe]) -> None:
        self._recipes[name] = recipe

    def __delitem__(self, name: str) -> None:
        del self._recipes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)


RECIPES: Final[MutableMapping[str, type[Recipe]]] = _Recipes(
    {
        "supervised": "Supervised",
        "counterfactual_vae": "CounterfactualVAE",
        "dvd_cl": "DVDCL",
        "s_dvd_cl": "dvd_cl.SDVDCL",
        "mvd_cl": "MVDCL",
        "s_mvd_cl": "mvd_cl.SMVDCL",
        "simclr": "SimCLR",
        "vader": "VADeR",
        "densecl": "DenseCL",
        "pixpro": "PixPro",
        "ssdcl": "SSDCL",
        "segmentation": "Segmentation",
    }
)
"""The class of each recipe, in the file of the recipe's name or, as `file.Class`, in another one.

`RECIPES["mine"] = Mine` adds one in a process.
"""


def parse_settings(name: str, settings: Mapping[str, Any]) -> Config:
    """A recipe's settings: its defaults, and what differs.

    Raises:
        ConfigError: no such recipe, or a setting it does not have (both with the nearest known name).
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: not a recipe{nearest(name, RECIPES)}", code="E-CFG-20")
    return RECIPES[name].config_type.parse(settings, where=f"recipe {name}")


def build_recipe(name: str, settings: Mapping[str, Any], plan: Config, generator: torch.Generator) -> Recipe:
    """A recipe by its name, with what differs from its defaults.

    Args:
        plan: a `Plan`, or an `ImagePlan` for a recipe that learns images.

    Raises:
        ConfigError: as `parse_settings`.
    """
    config = parse_settings(name, settings)
    return RECIPES[name](config, plan, generator)


__all__ = ["RECIPES", "Recipe", "build_recipe", "parse_settings"]
