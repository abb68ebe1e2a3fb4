"""Measure whether counterfactuals are sound: by their source, an independent judge, a segmenter, and the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float, Integer

from scantling.counterfactuals.attribute_predictor import AttributePredictor
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.image_plan import ImagePlan
from scantling.counterfactuals.judging import judge_counterfactuals, read_attributes, readable
from scantling.counterfactuals.soundness import Soundness
from scantling.counterfactuals.soundness_measures import (
    Ranges,
    change,
    composition,
    identity_dice,
    reversibility,
    structure,
)
from scantling.counterfactuals.source_image import ModelImage, SourceImage, to_model
from scantling.counterfactuals.sources import CounterfactualSource, FolderSource
from scantling.data.image_io import MedicalImage
from scantling.errors import PlanMismatch
from scantling.inference.predictor import Predictor
from scantling.shapes import Images

Segment: TypeAlias = Callable[[SourceImage], Integer[np.ndarray, "*spatial"]]
"""Image -> label map of class indices on the image's own grid."""


@final
class SoundnessCheck:
    """Measures counterfactuals of one source; what it has no means for is NaN.

    Args:
        judge: learnt from real images alone; None leaves effectiveness, what is kept, and realism unknown.
        judge_scores: its scores on unseen patients; attributes that it reads little better than by chance are not
            asked about. None asks about all.
        segment: of images and counterfactuals alike; None leaves identity unknown.
    """

    def __init__(
        self,
        source: CounterfactualSource,
        plan: ImagePlan,
        graph: FittedGraph,
        *,
        judge: AttributePredictor | None = None,
        judge_scores: Mapping[str, float] | None = None,
        segment: Segment | None = None,
    ) -> None:
        self.source, self.plan, self.graph = source, plan, graph
        self.judge, self.segment = judge, segment
        self.asked: Collection[str] | None = None
        if judge is not None and judge_scores is not None:
            self.asked = readable(judge_scores, graph.attributes)

    def __call__(self, images: Sequence[SourceImage], counterfactuals: Sequence[SourceImage]) -> tuple[Soundness, ...]:
        """What is known of each counterfactual.

        Args:
            images: the real one of each counterfactual; one that stands several times is looked at once.
        """
        distinct = {image.case_id: image for image in images}
        in_model = {case_id: to_model(image, self.plan) for case_id, image in distinct.items()}
        ranges = {case_id: image.ranges for case_id, image in in_model.items()}
        own_ranges = [ranges[image.case_id] for image in images]
        composed = self._composition(distinct, ranges)
        back = self._reversibility(images, counterfactuals, own_ranges)
        seen = _stacked([in_model[image.case_id] for image in images])
        effective, kept = self._judged(images, counterfactuals, seen)
        dice = self._identity(distinct, images, counterfactuals)
        return tuple(
            Soundness(
                composition=composed[image.case_id],
                reversibility=back[index],
                effectiveness=effective[index],
                kept=kept[index],
                identity_dice=dice[index],
                structure=structure(image.channels, other.channels, own),
                change=change(image.channels, other.channels, own),
            )
            for index, (image, other, own) in enumerate(zip(images, counterfactuals, own_ranges, strict=True))
        )

    def features(self, images: Sequence[SourceImage]) -> Float[np.ndarray, "image feature"]:
        """What the judge sees in images, for the distance between groups of them.

        Raises:
            ValueError: there is no judge.
        """
        if self.judge is None:
            raise ValueError("features of images are a judge's, and there is none")
        return read_attributes(self.judge, _stacked([to_model(image, self.plan) for image in images])).features.numpy()

    def _composition(self, images: Mapping[str, SourceImage], ranges: Mapping[str, Ranges]) -> dict[str, float]:
        if isinstance(self.source, FolderSource):  # ready-made images of what was asked, and of nothing else
            return dict.fromkeys(images, math.nan)
        values = composition(self.source, list(images.values()), [ranges[case_id] for case_id in images])
        return dict(zip(images, map(float, values), strict=True))

    def _reversibility(
        self, images: Sequence[SourceImage], counterfactuals: Sequence[SourceImage], ranges: Sequence[Ranges]
    ) -> list[float]:
        if isinstance(self.source, FolderSource):
            return [math.nan] * len(images)
        return [float(value) for value in reversibility(self.source, images, counterfactuals, ranges)]

    def _judged(
        self, images: Sequence[SourceImage], counterfactuals: Sequence[SourceImage], seen: Images
    ) -> tuple[list[float], list[float]]:
        if self.judge is None:
            return [math.nan] * len(images), [math.nan] * len(images)
        judgement = judge_counterfactuals(
            self.judge,
            seen,
            _stacked([to_model(image, self.plan) for image in counterfactuals]),
            self.graph.encode([image.row for image in images]),
            self.graph.encode([image.row for image in counterfactuals]),
            asked=self.asked,
        )
        return judgement.effectiveness.tolist(), judgement.kept.tolist()

    def _identity(
        self, distinct: Mapping[str, SourceImage], images: Sequence[SourceImage], others: Sequence[SourceImage]
    ) -> list[float]:
        if self.segment is None:
            return [math.nan] * len(images)
        own = {case_id: self.segment(image) for case_id, image in distinct.items()}
        return [
            identity_dice(own[image.case_id], self.segment(other)) for image, other in zip(images, others, strict=True)
        ]


def _stacked(images: Sequence[ModelImage]) -> Images:
    return torch.from_numpy(np.stack([image.values for image in images]))


def segment_with(predictor: Predictor, plan: ImagePlan) -> Segment:
    """A trained segmentation network as what `SoundnessCheck` asks for.

    Raises:
        PlanMismatch: it was trained on images with other channels or axes.
    """
    wanted = predictor.plan
    if len(wanted.channels) != len(plan.channels) or wanted.image_axes != plan.image_axes:
        raise PlanMismatch(
            f"segmenter: learnt from {wanted.image_axes}D images of {len(wanted.channels)} channels, the image model "
            f"on {plan.image_axes}D images of {len(plan.channels)}; give one that was trained on images like these",
            code="E-GEN-05",
        )

    def segment(image: SourceImage) -> Integer[np.ndarray, "*spatial"]:
        whole = MedicalImage(array=np.stack(image.channels), geometry=image.geometry)
        return predictor.predict([whole]).label_map

    return segment
