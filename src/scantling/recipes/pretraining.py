"""What the baselines of pretraining share: settings, the network of the plan, its levels, and the tags of keys."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field, model_validator

from scantling.config import Config
from scantling.contrast.cells import cell_counts
from scantling.contrast.pixels import Tags
from scantling.contrast.points import Points, tags_of
from scantling.data.plan import Plan
from scantling.errors import ConfigError
from scantling.networks import UNet, build_network
from scantling.networks.projection import EMBEDDING, HIDDEN
from scantling.views.maker import ViewConfig
from scantling.views.published import lay_over, published_views
from scantling.views.view import ViewBatch

MOST_CELLS: Final = 4096
"""Cells of a view, of which each is compared with each: 64 MB a view in float32."""


class TransformedViews(Config):
    """Which views are drawn.

    Attributes:
        transforms: "published" draws views by the transforms that all methods were compared with; "plan" as
            supervised training does, mirrored where the plan allows it.
        views: what differs from these; `views.image_of_view = "each"` shows the case's counterfactuals from view 1 on.
    """

    transforms: Literal["published", "plan"] = "published"
    views: ViewConfig = published_views(2, "own")

    fewest_views: ClassVar[int] = 1

    @model_validator(mode="before")
    @classmethod
    def _views_differ_from_their_transforms(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        default: ViewConfig = cls.model_fields["views"].default
        if values.get("transforms") == "plan":
            default = ViewConfig(n_views=default.n_views, image_of_view=default.image_of_view)
        return {**values, "views": lay_over(default, values.get("views", {}))}

    @model_validator(mode="after")
    def _has_enough_views(self) -> TransformedViews:
        if self.views.n_views < self.fewest_views:
            raise ConfigError(
                f"recipe.views.n_views = {self.views.n_views}: views are compared with each other; give at least "
                f"{self.fewest_views}",
                code="E-CFG-65",
            )
        return self


class PretrainingConfig(TransformedViews):
    """Views and projection.

    Attributes:
        hidden, embedding: widths of the projection, which is not part of the network that is kept.
    """

    hidden: int = Field(default=HIDDEN, ge=1)
    embedding: int = Field(default=EMBEDDING, ge=1)

    fewest_views: ClassVar[int] = 2


def views_of(config: TransformedViews, plan: Plan) -> ViewConfig:
    """The views that the settings ask for."""
    mirrored = plan.mirror_axes if config.transforms == "plan" else ()
    return config.views.model_copy(update={"flip_axes": config.views.flip_axes or mirrored})


def network_of(plan: Plan, generator: torch.Generator) -> UNet:
    """The network that fine-tuning will go on with."""
    return build_network(
        plan.network,
        dimensions=plan.dimensions,
        in_channels=len(plan.channels),
        out_channels=len(plan.classes.names),
        generator=generator,
    )


def deepest_tap(network: UNet) -> str:
    """The coarsest encoder level, which sees most of the image."""
    return f"encoder.{len(network.encoder) - 1}"


def later_tap(network: UNet, first: str, second: str) -> str:
    """Of two taps the one that is computed after the other."""
    names = list(network.taps)
    return max(first, second, key=names.index)


def require_classes(name: str, plan: Plan) -> None:
    """Refuse a plan that has nothing to tell apart.

    Raises:
        ConfigError: naming the recipe.
    """
    if len(plan.classes.names) < 2:
        raise ConfigError(
            f"{name} learns from label maps, and the plan has no class but background; choose label kinds that the "
            "data has (--label-kinds silver), or a recipe without labels, such as dvd_cl or vader",
            code="E-CFG-66",
        )


def require_few_cells(per_axis: int, plan: Plan) -> None:
    """Refuse a grid whose cells are too many to be compared with one another.

    Raises:
        ConfigError: naming the setting and the finest grid there may be.
    """

    def cells(grid: int) -> int:
        return math.prod(cell_counts(plan.patch_size, grid))

    if cells(per_axis) > MOST_CELLS:
        finest = max(grid for grid in range(1, per_axis) if cells(grid) <= MOST_CELLS)
        raise ConfigError(
            f"recipe.grid = {per_axis}: {cells(per_axis)} cells in a view are too many to compare each with each; give "
            f"at most {finest}",
            code="E-CFG-67",
        )


def view_pairs(n_views: int, *, all_pairs: bool = False) -> list[tuple[int, int]]:
    """View 0 with each other view, or all pairs of views."""
    return list(itertools.combinations(range(n_views), 2)) if all_pairs else [(0, view) for view in range(1, n_views)]


def sample_tags(batch: ViewBatch) -> Tags:
    """Of whole views, in order (batch, view): the image they show, and one point for all views of a sample."""
    n_batch, n_views = batch.images.shape[:2]
    device = batch.images.device
    middle = torch.tensor([(n - 1) / 2 for n in batch.view_shape], device=device)
    points = Points(
        indices=middle.expand(n_batch, n_views, 1, -1),
        usable=torch.ones((n_batch, n_views, 1), dtype=torch.bool, device=device),
        point=torch.arange(n_batch, device=device)[:, None, None].expand(-1, n_views, 1),
    )
    return key_tags(tags_of(points, batch))


def key_tags(tags: Tags) -> Tags:
    """What keys need to be known by, and a memory to keep."""
    return Tags(image=tags.need("image"), point=tags.need("point"), usable=tags.need("usable"))


def by_view(tags: Tags, n_batch: int, n_views: int) -> list[Tags]:
    """The tags of each view, of tags in order (batch, view, place)."""
    image = tags.need("image")
    numbers = torch.arange(len(image), device=image.device).view(n_batch, n_views, -1)
    return [tags.pick(numbers[:, view].flatten()) for view in range(n_views)]
