"""Which road a recipe takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from scantling.recipes import RECIPES
from scantling.training.feature_road import FeatureRoad
from scantling.training.image_road import ImageRoad
from scantling.training.road import Road
from scantling.training.segmentation_road import SegmentationRoad

ROADS: Final[Mapping[str, type[Road]]] = MappingProxyType(
    {"segmentation": SegmentationRoad, "images": ImageRoad, "features": FeatureRoad}
)
"""By what is learnt."""


def road_of(recipe: str) -> type[Road]:
    """The road for what a recipe learns."""
    return ROADS[RECIPES[recipe].learns]
