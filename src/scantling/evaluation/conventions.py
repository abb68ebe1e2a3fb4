"""What is measured, and what happens where there is nothing to measure: the rules, in writing.

| status | prediction | reference | dice, iou, nsd | precision | recall | distances | counted as |
| --- | --- | --- | --- | --- | --- | --- | --- |
| ok | has the class | has the class | value | value | value | value | scored |
| both_empty | empty | empty | NaN | NaN | NaN | NaN | absent: in no mean and not in n |
| missed | empty | has the class | 0 | NaN | 0 | NaN | failed |
| false_positive | has the class | empty | 0 | 0 | NaN | NaN | failed |
| missing_file, unreadable, grid_mismatch | cannot be used | - | 0 | 0 | 0 | NaN | failed |
| not_annotated | - | class not looked for | NaN | NaN | NaN | NaN | in no mean and not in n |

A mean is over the values that are not NaN. It always comes with "failed k of n", because a tool that misses
half of the structures has fine distances on the other half. `hd95_with_failures_mm` puts the longest
distance the image has room for in place of a failure's HD95, so that its mean cannot hide them. Size
differences are NaN where both are empty or the prediction cannot be used.

Pixels the reference labels IGNORE count nowhere and belong to neither surface. A prediction's value that no
class names counts as background and is noted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from scantling.errors import ConfigError
from scantling.evaluation.surface import Average, Convention

Status = Literal[
    "ok",
    "both_empty",
    "missed",
    "false_positive",
    "missing_file",
    "unreadable",
    "grid_mismatch",
    "not_annotated",
]
Unusable = Literal["missing_file", "unreadable", "grid_mismatch"]
Post = Literal["raw", "largest_component"]
Better = Literal["higher", "lower", "nearer to 0"]

FAILURES: Final[tuple[Status, ...]] = (
    "missing_file",
    "unreadable",
    "grid_mismatch",
    "missed",
    "false_positive",
)
"""From the worst: the mean over classes takes the first of these that one of its classes has."""

MEAN_FOREGROUND: Final = "mean_foreground"
"""Stands as the class of a case's mean over its foreground classes."""

ALL_CLASSES: Final = "all_classes"
"""Stands as the class of what is measured on all classes at once: calibration of the winning class."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured quantity.

    Attributes:
        unit: "" for ratios.
        better: the direction of improvement.
        unusable: its value where a prediction is missing or cannot be read.
    """

    title: str
    unit: str
    better: Better
    unusable: float = math.nan


METRICS: Final[dict[str, Metric]] = {
    "dice": Metric(title="Dice", unit="", better="higher", unusable=0.0),
    "iou": Metric(title="IoU", unit="", better="higher", unusable=0.0),
    "precision": Metric(title="precision", unit="", better="higher", unusable=0.0),
    "recall": Metric(title="recall", unit="", better="higher", unusable=0.0),
    "volume_difference_ml": Metric(title="volume difference", unit="ml", better="nearer to 0"),
    "volume_error_ml": Metric(title="absolute volume difference", unit="ml", better="lower"),
    "area_difference_mm2": Metric(title="area difference", unit="mm2", better="nearer to 0"),
    "area_error_mm2": Metric(title="absolute area difference", unit="mm2", better="lower"),
    "size_error_relative": Metric(title="relative size error", unit="", better="lower"),
    "hd95_mm": Metric(title="HD95", unit="mm", better="lower"),
    "hd95_with_failures_mm": Metric(title="HD95 with failures", unit="mm", better="lower"),
    "assd_mm": Metric(title="ASSD", unit="mm", better="lower"),
    "nsd": Metric(title="NSD", unit="", better="higher", unusable=0.0),
    "ece": Metric(title="ECE", unit="", better="lower"),
    "brier": Metric(title="Brier score", unit="", better="lower"),
}
"""Every metric by the name it has in `metrics.csv`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How everything is measured; kept with the results.

    Attributes:
        tolerance_mm: of the normalised surface Dice (NSD).
        convention: of surfaces and percentiles, see `scantling.evaluation.surface`.
        average: of the ASSD: pooled over both surfaces, or the mean of the two directed means.
        distances: whether HD95, ASSD and NSD are measured at all.
        hd95_with_failures: adds HD95 with failures counted as the longest distance in the image.
        largest_component: adds every row again for the largest component of each predicted class.
        resamples, level, seed: of the bootstrap over patients.
    """

    tolerance_mm: float = 1.0
    convention: Convention = "monai"
    average: Average = "pooled"
    distances: bool = True
    hd95_with_failures: bool = False
    largest_component: bool = True
    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tolerance_mm >= 0:
            raise ConfigError(
                f"tolerance_mm = {self.tolerance_mm}: wanted a distance in mm, 0 or more", code="E-EVL-02"
            )
        if not 0 < self.level < 1:
            raise ConfigError(f"level = {self.level}: wanted a probability between 0 and 1, as 0.95", code="E-EVL-02")
        if self.resamples < 1:
            raise ConfigError(f"resamples = {self.resamples}: wanted at least 1, usually 2000", code="E-EVL-02")

    def metrics(self, dimensions: int) -> tuple[str, ...]:
        """Names of what is measured on a pair of label maps, in the order of the columns."""
        size = (
            ("area_difference_mm2", "area_error_mm2")
            if dimensions == 2
            else ("volume_difference_ml", "volume_error_ml")
        )
        overlap = ("dice", "iou", "precision", "recall", *size, "size_error_relative")
        if not self.distances:
            return overlap
        failures = ("hd95_with_failures_mm",) if self.hd95_with_failures else ()
        return (*overlap, "hd95_mm", *failures, "assd_mm", "nsd")
