"""What was measured of a contrast in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FEATURES: Final = "features"
"""The term of an observation that is of no contrast, but of the network's features, seen in a validation."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was measured of one term in one step; what could not be measured is not there.

    Attributes:
        step: the number given to `begin`.
        figures: `anchors_in_all` that have a positive; `positives` and `negatives` of an anchor on average, and
            `fewest_positives`, `fewest_negatives`; `groups` that the relation tells apart; `feature_std` as a share
            of that of evenly spread embeddings; `effective_rank`; `alignment`; `uniformity`; `gradient_spread`;
            `bank_filled`, the share of the memory's places that hold something. Of a prediction:
            `foreground_predicted`, a share of all pixels, and `foreground_labelled`, of those with a label. Of
            `FEATURES`: `feature_spread`, `effective_rank`, the `dimensions` there are, and `kmeans_purity` where there
            are labels.
        by_class: by the class's name `anchors`; `labelled`, 1 where the class occurs in the labels; `gradient_share`;
            `bank`, the share of the memory's places that hold the class.
    """

    step: int
    term: str
    figures: Mapping[str, float]
    by_class: Mapping[str, Mapping[str, float]]
