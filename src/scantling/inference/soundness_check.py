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
from scantling.data.case import LabelKind
from scantling.data.image_io import MedicalImage
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.prepare import annotated_classes, read_matching_label
from scantling.errors import PlanMismatch
from scantling.inference.predictor import Predictor
from scantling.shapes import Images

Segment: TypeAlias = Callable[[SourceImage], Integer[np.ndarray, "*spatial"]]
"""Image -> label map of class indices on the image's own grid."""
Mask: TypeAlias = Callable[[SourceImage], Integer[np.ndarray, "*spatial"] | None]
"""The same by somebody else, or None where there is none; IGNORE where nobody looked."""


@final
class SoundnessCheck:
    """Measures counterfactuals of one source; what it has no means for is NaN.

    Args:
        judge: learnt from real images alone; None leaves effectiveness, what is kept, and realism unknown.
        judge_scores: its scores on unseen patients; attributes that it reads little better than by chance are not
            asked about. None asks about all.
        segment: of images and counterfactuals alike; None leaves identity unknown.
        mask: an image's label map by somebody else, such as a silver mask, which the counterfactual's is then compared
            with; the segmenter's own stands where it gives None. IGNORE does not count.
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
        mask: Mask | None = None,
    ) -> None:
        self.source, self.plan, self.graph = source, plan, graph
        self.judge, self.segment, self.mask = judge, segment, mask
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
        own = {case_id: self._anatomy(image) for case_id, image in distinct.items()}
        return [
            identity_dice(own[image.case_id], self.segment(other)) for image, other in zip(images, others, strict=True)
        ]

    def _anatomy(self, image: SourceImage) -> Integer[np.ndarray, "*spatial"]:
        """The label map that the counterfactual's must resemble."""
        assert self.segment is not None
        drawn = None if self.mask is None else self.mask(image)
        return self.segment(image) if drawn is None else drawn


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


def stored_masks(manifest: Manifest, plan: Plan, kinds: Sequence[LabelKind]) -> Mask:
    """The annotations of a data set as what `SoundnessCheck` compares with.

    Args:
        plan: of the segmenter, whose classes count; an annotation that was not made for all of them does not.
        kinds: best first.

    Raises:
        ConfigError: a class of the segmenter is none of the data set's.
    """
    cases = {case.case_id: case for case in manifest.real}
    classes = manifest.classes.subset(plan.classes.names)

    def mask(image: SourceImage) -> Integer[np.ndarray, "*spatial"] | None:
        case = cases.get(image.case_id)
        annotation = None if case is None else case.annotation(kinds)
        if annotation is None or annotation.kind == "none" or not all(annotated_classes(annotation, plan)):
            return None
        stored = read_matching_label(annotation, image.geometry)
        return classes.to_index(stored, ignore=annotation.ignore)

    return mask
