"""Which road a recipe takes."""

from __future__ import annotations

from scantling.recipes import RECIPES
from scantling.training.image_road import ImageRoad
from scantling.training.road import Road
from scantling.training.segmentation_road import SegmentationRoad


def road_of(recipe: str) -> type[Road]:
    """The road for what a recipe learns."""
    return ImageRoad if RECIPES[recipe].learns == "images" else SegmentationRoad
