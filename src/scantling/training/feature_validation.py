"""Representation health: what a network's features of held-back images are like, and what they know of the classes.

A linear probe is fitted on pixels of a few labelled cases and scored on others; clusters and centres are compared
with the classes; how features are spread, and whether two views of a point agree, is measured without any label. Beside
each figure stands that of a network with random weights: what was there before anything was learnt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import nn

from scantling.data.plan import Plan
from scantling.data.store import PreparedCase
from scantling.errors import DataError
from scantling.evaluation.embedding import (
    alignment,
    balanced_pixels,
    centre_distance_over_spread,
    effective_rank,
    feature_spread,
    purity,
    uniformity,
    unit_vectors,
)
from scantling.evaluation.kmeans import kmeans
from scantling.evaluation.linear_probe import LinearProbe, fit_linear_probe
from scantling.networks.build import build_network
from scantling.networks.unet import UNet
from scantling.processes import process_rank, sum_over_processes
from scantling.seeding import numpy_generator, torch_generator
from scantling.training.feature_pixels import Looked, draw_pixels
from scantling.training.feature_rows import Reading, case_rows, paired_rows
from scantling.training.loop_state import Validation
from scantling.views.maker import ViewConfig

MOST_REFERENCE: Final = 8
"""Cases the probe is fitted on: few, as for what is to be learnt from the features later."""
MOST_PROBE: Final = 16
"""Cases it is scored on."""
MOST_PAIRED: Final = 8
"""Cases of which two views are compared."""
REFERENCE_PIXELS: Final = 8192
CLUSTERED_PIXELS: Final = 4096
PAIRED_PIXELS: Final = 2048
"""Drawn in all, about."""
FEWEST_CLUSTERED: Final = 100
"""Pixels of a class; below this a rare class does not make the others as rare."""
MEASURES: Final = (
    "probe_dice",
    "kmeans_purity",
    "centre_distance_over_spread",
    "alignment",
    "uniformity",
    "effective_rank",
    "feature_spread",
)
"""What is measured of a network with random weights too, where the name has `untrained_` before it."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How healthy features are.

    Attributes:
        figures: `MEASURES`, NaN where the cases cannot say; the same of random weights, `untrained_...`; how many
            `dimensions` the features have, how many `classes` the clustered pixels, and from how many cases there
            were labels: `cases_fitted`, `cases_scored`.
        per_class: the probe's Dice of each foreground class.
        seconds: it took to find out.
    """

    figures: Mapping[str, float]
    per_class: Mapping[str, float]
    seconds: float

    def as_validation(self, *, chooses: bool = False) -> Validation:
        """For a loop: logged and watched; the probe's Dice, if there is one, chooses the checkpoint if it is to."""
        dice = self.figures["probe_dice"]
        score = dice if chooses and math.isfinite(dice) else None
        return Validation(score=score, measure="probe_dice", per_class=self.per_class, figures=self.figures)


def feature_validation(
    reference: Sequence[PreparedCase],
    probe: Sequence[PreparedCase],
    plan: Plan,
    *,
    tap: str | None = None,
    device: torch.device,
    precision: torch.dtype | None = None,
    seed: int = 0,
    views: ViewConfig | None = None,
) -> Callable[[nn.Module], Health]:
    """A function that examines the features of a network of the plan; the network is to be in evaluation mode.

    Of many cases some are drawn, once. Several processes share the cases; each gets the figures of all.

    Args:
        reference: training cases; the probe is fitted on those with labels.
        probe: others; it is scored on those with labels. Measures without labels are of these, or of the reference
            where there are none. Either may be empty.
        tap: whose features; by default the finest decoder level's.
        views: two of which are compared; by default those of supervised training.

    Raises:
        DataError: no case at all.
    """
    if not reference and not probe:
        raise DataError(
            "health of features: no case to look at; keep patients for validation (data.fold), or add images",
            code="E-EVL-20",
        )
    return _Examination(
        fitted=_looked(reference, plan, most=MOST_REFERENCE, pixels=REFERENCE_PIXELS, seed=seed, purpose="fitted"),
        scored=_looked(probe, plan, most=MOST_PROBE, pixels=CLUSTERED_PIXELS, seed=seed, purpose="scored"),
        paired=tuple(_some(probe or reference, MOST_PAIRED, seed, "paired")),
        plan=plan,
        tap=tap,
        device=device,
        precision=precision,
        seed=seed,
        views=(views or ViewConfig()).model_copy(update={"n_views": 2}),
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Examination:
    """What is looked at, and how. Every process holds all of it and computes the features of its own cases."""

    fitted: tuple[Looked, ...]
    scored: tuple[Looked, ...]
    paired: tuple[PreparedCase, ...]
    plan: Plan
    tap: str | None
    device: torch.device
    precision: torch.dtype | None
    seed: int
    views: ViewConfig
    untrained: dict[str, float] = field(default_factory=dict)

    def __call__(self, network: nn.Module) -> Health:
        """The health of a network's features.

        Raises:
            IntegrityError: they are not finite.
        """
        assert isinstance(network, UNet)
        began = time.monotonic()
        if not self.untrained:
            fresh = build_network(
                self.plan.network, dimensions=self.plan.dimensions, in_channels=network.in_channels,
                out_channels=network.out_channels, generator=torch_generator(self.seed, "untrained network"),
            )  # fmt: skip
            exactly = replace(self, precision=None)  # nothing has normalised it yet: half precision may overflow
            figures, _ = exactly._examine(fresh.to(self.device).eval())
            self.untrained.update({f"untrained_{name}": figures[name] for name in MEASURES})
        figures, per_class = self._examine(network)
        return Health(figures={**figures, **self.untrained}, per_class=per_class, seconds=time.monotonic() - began)

    def _examine(self, network: UNet) -> tuple[dict[str, float], dict[str, float]]:
        """All figures but those of random weights; the probe's Dice by class."""
        tap = self.tap or network.head_taps[0]
        reading = Reading(network=network, tap=tap, device=self.device, precision=self.precision)
        n_classes = len(self.plan.classes.names)
        probe = self._probe(reading) if self.fitted and self.scored else None
        clustered = self.scored or self.fitted
        rows, overlap = case_rows(reading, clustered, n_classes, probe)
        pairs = paired_rows(reading, self.paired, self.plan, self.views, points=PAIRED_PIXELS, seed=self.seed)
        labels = _labels(clustered)
        per_class = {} if probe is None else self._dice(overlap, probe)
        measured = _from_first(lambda: np.array([*self._of_classes(rows, labels), *_of_shape(pairs)]), 6)
        figures = {
            "probe_dice": float(np.mean(list(per_class.values()))) if per_class else math.nan,
            **dict(zip(MEASURES[1:], map(float, measured), strict=True)),
            "dimensions": float(reading.dimensions),
            "classes": float(len(np.unique(labels))),
            "cases_fitted": float(len(self.fitted)),
            "cases_scored": float(len(self.scored)),
        }
        return figures, per_class

    def _probe(self, reading: Reading) -> LinearProbe:
        """The linear probe of the first process, in every one: the last bits of a fit differ between machines."""
        rows, _ = case_rows(reading, self.fitted, len(self.plan.classes.names), None)
        labels, weights = _labels(self.fitted), np.concatenate([looked.weights for looked in self.fitted])
        classes = np.unique(labels)

        def flat() -> Float[np.ndarray, "number"]:
            fitted = fit_linear_probe(rows, labels, weights=_tempered(labels, weights))
            return np.concatenate([fitted.weight.ravel(), fitted.bias, [fitted.loss, fitted.gradient]])

        n, n_weights = len(classes), len(classes) * rows.shape[1]
        numbers = _from_first(flat, n_weights + n + 2)
        return LinearProbe(
            classes=classes,
            weight=numbers[:n_weights].reshape(n, -1),
            bias=numbers[n_weights : n_weights + n],
            loss=float(numbers[-2]),
            gradient=float(numbers[-1]),
        )

    def _of_classes(
        self, rows: Float[np.ndarray, "pixel feature"], labels: Int64[np.ndarray, "pixel"]
    ) -> tuple[float, float]:
        """Purity of the clusters, and the distance of the classes' centres; NaN of fewer than two classes."""
        n_classes = len(np.unique(labels))
        if n_classes < 2:
            return math.nan, math.nan
        rng = numpy_generator(self.seed, "clusters")
        fewest = int(np.unique(labels, return_counts=True)[1].min())
        even = balanced_pixels(labels, max(fewest, FEWEST_CLUSTERED), rng)
        unit, of_unit = unit_vectors(rows[even]), labels[even]
        clusters = kmeans(unit, n_classes, rng)
        return purity(clusters.assignment, of_unit), centre_distance_over_spread(unit, of_unit)

    def _dice(self, overlap: Float[np.ndarray, "three klass"], probe: LinearProbe) -> dict[str, float]:
        """Of each foreground class that occurs in the cases it was fitted on and in those it is scored on."""
        both, predicted, true = overlap
        return {
            name: float(2 * both[k] / (predicted[k] + true[k]))
            for k, name in enumerate(self.plan.classes.names)
            if k and true[k] > 0 and k in probe.classes
        }


def _of_shape(pairs: Float[np.ndarray, "view pixel feature"]) -> tuple[float, ...]:
    """Alignment of two views' pixels; uniformity, effective rank and spread of both together."""
    unit = unit_vectors(pairs.reshape(-1, pairs.shape[-1]))
    return alignment(pairs[0], pairs[1]), uniformity(unit), effective_rank(unit), feature_spread(unit)


def _looked(
    cases: Sequence[PreparedCase], plan: Plan, *, most: int, pixels: int, seed: int, purpose: str
) -> tuple[Looked, ...]:
    """Some of the cases that have labels, with their pixels."""
    chosen = _some([case for case in cases if case.label_kind is not None], most, seed, purpose)
    per_class = -(-pixels // (max(len(chosen), 1) * len(plan.classes.names)))
    looked = [draw_pixels(case, plan, per_class=per_class, seed=seed) for case in chosen]
    return tuple(each for each in looked if len(each.labels))


def _some(cases: Sequence[PreparedCase], most: int, seed: int, purpose: str) -> list[PreparedCase]:
    """Up to `most` cases, in their order."""
    drawn = numpy_generator(seed, "cases looked at", purpose).permutation(len(cases))[:most]
    return [cases[k] for k in sorted(drawn)]


def _labels(looked: Sequence[Looked]) -> Int64[np.ndarray, "pixel"]:
    return np.concatenate([each.labels for each in looked] or [np.empty(0, dtype=np.int64)])


def _tempered(labels: Int64[np.ndarray, "pixel"], weights: Float[np.ndarray, "pixel"]) -> Float[np.ndarray, "pixel"]:
    """Weights by which each class counts as the root of how often it occurs.

    As often as it occurs, weak features find background alone; all classes alike, good ones find too much of the rare.
    """
    shares, drawn = np.bincount(labels, weights=weights), np.bincount(labels)
    return np.asarray(np.sqrt(shares)[labels] / drawn[labels])


def _from_first(numbers: Callable[[], Float[np.ndarray, "number"]], count: int) -> Float[np.ndarray, "number"]:
    """What the first process computes, in every one."""
    own = torch.from_numpy(numbers()) if process_rank() == 0 else torch.zeros(count, dtype=torch.float64)
    return sum_over_processes(own).numpy()
