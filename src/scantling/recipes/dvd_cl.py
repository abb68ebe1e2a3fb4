"""Dual-view contrast: the real image with each counterfactual of it, by place, or by the class of silver labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from scantling.contrast.contrasting import contrast
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.points import Points, tags_of
from scantling.contrast.relations import SamePoint, Within
from scantling.contrast.released import mirrored_class_contrast, released_tags, rounded_overlap_points
from scantling.contrast.sampling import shared_points
from scantling.data.plan import Plan
from scantling.recipes.pixel_contrast import (
    PixelContrast,
    PixelContrastConfig,
    anchor_labels,
    class_rule,
    inside_image,
    labelled,
    length_mm,
    one_length,
    quota_points,
    require_one_length,
)
from scantling.recipes.pretraining import view_pairs
from scantling.views.view import ViewBatch

OneWay = Callable[[Pixels, Pixels], Float[Tensor, ""]]


class DVDCLConfig(PixelContrastConfig):
    """Views, network, pixels and pairs.

    Attributes:
        all_pairs: also pairs of two counterfactuals; otherwise the real image (view 0) is one side of each.
        exclusion, exclusion_mm: places of the image nearer than this are no negatives, as a share of the image side or
            in mm; the same place remains the positive. 0: the next pixel is a full negative, as published.
    """

    all_pairs: bool = False
    exclusion: float | None = Field(default=0.1, ge=0)
    exclusion_mm: float | None = Field(default=None, gt=0)

    unreleased: ClassVar = {"all_pairs": False, "exclusion_mm": None, "exclusion": 0.0}

    @model_validator(mode="before")
    @classmethod
    def _mm_takes_the_place_of_the_share(cls, values: Any) -> Any:
        return one_length(values, "exclusion", "exclusion_mm")

    @model_validator(mode="after")
    def _excludes_one_length(self) -> DVDCLConfig:
        require_one_length(self.exclusion, self.exclusion_mm, name="exclusion")
        return self


class SDVDCLConfig(PixelContrastConfig):
    """Views, network, pixels and pairs.

    Attributes:
        all_pairs: also pairs of two counterfactuals; otherwise the real image (view 0) is one side of each.
        background_anchors: whether background pixels are anchors of each other; they are negatives of the classes in
            any case.
        class_balanced: draw each view's pixels from its classes alike, on average in equal numbers, and not at places
            that both views show.
    """

    all_pairs: bool = False
    background_anchors: bool = False
    class_balanced: bool = False

    unreleased: ClassVar = {"all_pairs": False, "class_balanced": False}


@final
class DVDCL(PixelContrast):
    """DVD-CL: a place in one view against all places of the other view, in both directions.

    Views: the real image and counterfactuals of it, each cropped, turned and recoloured. Pixels: places that both
    views of a pair show; where there are too few, others, which are negatives only. Pairs: the same place is positive,
    all other pixels of the other view, of all images, are negatives, but for near ones. Loss: InfoNCE, the mean of both
    directions and of all pairs of views.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning for medical image
        segmentation", DVD-CL.
    Differs: near places are no negatives by default; features are read at exact places and projected after, one draw
        serves both directions, and the directions are averaged. `compat = "released"` rounds places to pixels, draws
        for each direction, and adds the directions.
    """

    config_type: ClassVar[type[DVDCLConfig]] = DVDCLConfig

    def __init__(self, config: DVDCLConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config = config

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        c = self.config
        if c.compat == "released":
            rule = PairRule(SamePoint())
            return {"pixel_contrast": _released(self, batch, rng, _one_way(rule, c.temperature), rule)}
        among = inside_image(batch)
        pairs = view_pairs(c.views.n_views, all_pairs=c.all_pairs)
        points = [shared_points(batch, self.points, rng, views=pair, fill="outside", among=among) for pair in pairs]
        near = length_mm(c.exclusion, c.exclusion_mm, batch)
        same = SamePoint()
        rule = PairRule(same.among(~Within(near), only="negatives") if near > 0 else same)
        return {"pixel_contrast": _mean_over_pairs(self, batch, points, rule)}


@final
class SDVDCL(PixelContrast):
    """S-DVD-CL: DVD-CL with pixels of the same class, of any image, as positives.

    Targets: label maps, such as silver ones, each as far as it is trusted; a class that was not looked for in an image
    is not held against its background. A batch without labels gives a loss of 0.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning for medical image
        segmentation", S-DVD-CL.
    Differs: as DVD-CL; anchors and positives are weighed by trust. `compat = "released"` also fills a third of the
        pairs by a mirrored mask.
    """

    config_type: ClassVar[type[SDVDCLConfig]] = SDVDCLConfig
    uses_unlabelled: ClassVar[bool] = False
    from_labels: ClassVar[bool] = True

    def __init__(self, config: SDVDCLConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config = config
        self.n_classes = len(plan.classes.names)

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        c = self.config
        rule = class_rule(background_anchors=c.background_anchors)
        if c.compat == "released":
            without = () if c.background_anchors else (0,)

            def one_way(anchors: Pixels, keys: Pixels) -> Tensor:
                return mirrored_class_contrast(anchors, keys, temperature=c.temperature, without=without)

            return {"pixel_contrast": _released(self, batch, rng, one_way, PairRule(rule.relation))}
        pairs = view_pairs(c.views.n_views, all_pairs=c.all_pairs)
        among = labelled(batch)
        points = [
            quota_points(batch, self.points, rng, n_classes=self.n_classes, among=among, views=pair)
            if c.class_balanced
            else shared_points(batch, self.points, rng, views=pair, fill="outside", among=among)
            for pair in pairs
        ]
        labels = anchor_labels(batch, background_anchors=c.background_anchors)
        return {"pixel_contrast": _mean_over_pairs(self, batch, points, rule, labels)}


def _mean_over_pairs(
    recipe: DVDCL | SDVDCL, batch: ViewBatch, points: Sequence[Points], rule: PairRule, labels: Tensor | None = None
) -> Float[Tensor, ""]:
    """The mean of both directions and of all pairs of views."""
    terms = []
    for first, second in _sides(recipe, batch, points, [tags_of(part, batch) for part in points]):
        if recipe.diagnostics is not None:
            recipe.diagnostics.observe("pixel_contrast", first, rule, keys=second, labels=labels)
        terms.append(contrast(first, second, rule, temperature=recipe.config.temperature, directions="both"))
    return torch.stack(terms).mean()


def _released(
    recipe: DVDCL | SDVDCL, batch: ViewBatch, rng: torch.Generator, one_way: OneWay, rule: PairRule
) -> Float[Tensor, ""]:
    """The sum of both directions, each with pixels of its own, and the mean over the views beside the real one."""
    n_views = recipe.config.views.n_views
    ways = [way for view in range(1, n_views) for way in ((0, view), (view, 0))]
    points = [rounded_overlap_points(batch, recipe.points, rng, views=way) for way in ways]
    tags = [released_tags(part, batch) for part in points]
    terms = []
    for anchors, keys in _sides(recipe, batch, points, tags, "nearest"):
        if recipe.diagnostics is not None:
            recipe.diagnostics.observe("pixel_contrast", anchors, rule, keys=keys)
        terms.append(one_way(anchors, keys))
    return torch.stack(terms).sum() / (n_views - 1)


def _one_way(rule: PairRule, temperature: float) -> OneWay:
    return lambda anchors, keys: contrast(anchors, keys, rule, temperature=temperature)


def _sides(
    recipe: DVDCL | SDVDCL,
    batch: ViewBatch,
    points: Sequence[Points],
    tags: Sequence[Tags],
    interpolation: Literal["linear", "nearest"] = "linear",
) -> Iterator[tuple[Pixels, Pixels]]:
    """The pixels of both views of each pair; the feature maps are read once for all pairs."""
    everything = Points(
        indices=torch.cat([part.indices for part in points], dim=1),
        usable=torch.cat([part.usable for part in points], dim=1),
        views=tuple(view for part in points for view in part.views or ()),
    )
    embeddings = recipe.embedded(batch, everything, interpolation=interpolation)
    n_batch, _, n_points, _ = embeddings.shape
    places = torch.arange(n_batch * 2 * n_points, device=embeddings.device).view(n_batch, 2, n_points)
    for pair, known in enumerate(tags):
        first, second = (
            Pixels(embeddings=embeddings[:, 2 * pair + side].flatten(0, 1), tags=known.pick(places[:, side].flatten()))
            for side in (0, 1)
        )
        yield first, second
