"""Which pixels are compared, and which pairs of them belong together; nothing is imported before it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scantling.contrast.bank import ClassBank as ClassBank
    from scantling.contrast.bank import FIFOBank as FIFOBank
    from scantling.contrast.blocks import shuffled_blocks as shuffled_blocks
    from scantling.contrast.class_sampling import balanced_points as balanced_points
    from scantling.contrast.class_sampling import boundary_points as boundary_points
    from scantling.contrast.class_sampling import class_points as class_points
    from scantling.contrast.class_sampling import halves as halves
    from scantling.contrast.class_sampling import hardest_half as hardest_half
    from scantling.contrast.contrasting import contrast as contrast
    from scantling.contrast.counting import count_pairs as count_pairs
    from scantling.contrast.diagnostics import Diagnostics as Diagnostics
    from scantling.contrast.gathering import gather_pixels as gather_pixels
    from scantling.contrast.overlap import overlap_points as overlap_points
    from scantling.contrast.pairing import PairRule as PairRule
    from scantling.contrast.pixels import Pixels as Pixels
    from scantling.contrast.pixels import Tags as Tags
    from scantling.contrast.pixels import join as join
    from scantling.contrast.points import Points as Points
    from scantling.contrast.points import gather as gather
    from scantling.contrast.points import nearest_values as nearest_values
    from scantling.contrast.points import tags_of as tags_of
    from scantling.contrast.prototypes import ClassStatistics as ClassStatistics
    from scantling.contrast.prototypes import class_means as class_means
    from scantling.contrast.prototypes import class_means_of_maps as class_means_of_maps
    from scantling.contrast.relations import ACROSS_IMAGES as ACROSS_IMAGES
    from scantling.contrast.relations import ACROSS_PATIENTS as ACROSS_PATIENTS
    from scantling.contrast.relations import ACROSS_SITES as ACROSS_SITES
    from scantling.contrast.relations import ACROSS_VIEWS as ACROSS_VIEWS
    from scantling.contrast.relations import NOT_OF_ONE_PICTURE as NOT_OF_ONE_PICTURE
    from scantling.contrast.relations import Relation as Relation
    from scantling.contrast.relations import SameClass as SameClass
    from scantling.contrast.relations import SameGroup as SameGroup
    from scantling.contrast.relations import SameImage as SameImage
    from scantling.contrast.relations import SamePatient as SamePatient
    from scantling.contrast.relations import SamePoint as SamePoint
    from scantling.contrast.relations import SameSite as SameSite
    from scantling.contrast.relations import SameSliceBand as SameSliceBand
    from scantling.contrast.relations import SameView as SameView
    from scantling.contrast.relations import SliceWithin as SliceWithin
    from scantling.contrast.relations import Within as Within
    from scantling.contrast.sampling import grid_points as grid_points
    from scantling.contrast.sampling import random_points as random_points
    from scantling.contrast.sampling import shared_points as shared_points
    from scantling.contrast.watch import Watch as Watch

_PUBLIC = {
    "ACROSS_IMAGES": "relations",
    "ACROSS_PATIENTS": "relations",
    "ACROSS_SITES": "relations",
    "ACROSS_VIEWS": "relations",
    "ClassBank": "bank",
    "ClassStatistics": "prototypes",
    "Diagnostics": "diagnostics",
    "FIFOBank": "bank",
    "NOT_OF_ONE_PICTURE": "relations",
    "PairRule": "pairing",
    "Pixels": "pixels",
    "Points": "points",
    "Relation": "relations",
    "SameClass": "relations",
    "SameGroup": "relations",
    "SameImage": "relations",
    "SamePatient": "relations",
    "SamePoint": "relations",
    "SameSite": "relations",
    "SameSliceBand": "relations",
    "SameView": "relations",
    "SliceWithin": "relations",
    "Tags": "pixels",
    "Watch": "watch",
    "Within": "relations",
    "balanced_points": "class_sampling",
    "boundary_points": "class_sampling",
    "class_means": "prototypes",
    "class_means_of_maps": "prototypes",
    "class_points": "class_sampling",
    "contrast": "contrasting",
    "count_pairs": "counting",
    "gather": "points",
    "gather_pixels": "gathering",
    "grid_points": "sampling",
    "halves": "class_sampling",
    "hardest_half": "class_sampling",
    "join": "pixels",
    "nearest_values": "points",
    "overlap_points": "overlap",
    "random_points": "sampling",
    "shared_points": "sampling",
    "shuffled_blocks": "blocks",
    "tags_of": "points",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"scantling.contrast.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'scantling.contrast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
