"""PixPro: what a cell gathers from those like it agrees with what an averaged copy says of its place elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from scantling.contrast.cells import cell_counts, cell_diagonals_mm, cell_means, cell_points
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.points import Points
from scantling.data.plan import Plan
from scantling.losses.pairs import PairBlock, Pairs
from scantling.losses.propagation import near_consistency, near_contrast, propagated
from scantling.networks import UNet
from scantling.networks.projection import PixelProjection, chosen_tap, dense_features, freeze_beyond
from scantling.processes import sum_over_processes
from scantling.recipes.pixel_contrast import PixelContrast, inside_image
from scantling.recipes.pretraining import PretrainingConfig, network_of, require_few_cells, view_pairs, views_of
from scantling.recipes.recipe import Recipe
from scantling.targets.momentum import MomentumTeacher
from scantling.views.correspondence import source_positions_mm
from scantling.views.geometry import distances_mm
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch


class PixProConfig(PretrainingConfig):
    """Views, network, cells and loss; the defaults are the published ones, but for the widths of the projection.

    Attributes:
        tap: the feature map whose cells are compared; "" is the finest decoder level. The authors take the last level
            of an encoder, whose pixels are their cells.
        grid: cells of a view along each axis, as many as pixels at most; a cell's feature is the mean of its pixels.
        threshold: cells of two views are a pair if their middles are no further apart in the image than this many
            diagonals of a cell, of the view that shows it larger.
        loss: "propagation" is PixPro: agreement without negatives. "contrast" is PixContrast: the near cells against
            all cells of the other view.
        sharpness: exponent of the cosine by which cells propagate; of "propagation".
        temperature: divides the cosines; of "contrast".
        momentum: decay of the averaged copy that gives the targets.
    """

    tap: str = ""
    grid: int = Field(default=7, ge=1)
    threshold: float = Field(default=0.7, gt=0)
    loss: Literal["propagation", "contrast"] = "propagation"
    sharpness: float = Field(default=2.0, gt=0)
    temperature: float = Field(default=0.3, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)


@final
class CellEncoder(nn.Module):
    """A network up to a tap, and the projection of the cells of its map."""

    def __init__(self, network: UNet, tap: str, projection: PixelProjection) -> None:
        super().__init__()
        self.network, self.tap, self.projection = network, tap, projection

    def forward(
        self, images: Float[Tensor, "batch view channel *spatial"], counts: tuple[int, ...]
    ) -> Float[Tensor, "batch view cell embedding"]:
        """Embeddings of all cells."""
        result: Tensor = self.projection(cell_means(dense_features(self.network, images, self.tap), counts))
        return result


@final
class PixPro(Recipe):
    """Pixel-to-propagation consistency, or pixel contrast, between two views of one image, in both directions.

    Views: two of each image; of more, the first with each other. Pixels: the cells of a grid. Pairs: cells that lie
    near each other in the image. Loss: 1 - cosine of what a cell's own kind says and the target, without negatives.
    Targets: a momentum encoder, without the propagation.

    Source: Xie et al. 2021, "Propagate yourself: exploring pixel-level consistency for unsupervised visual
    representation learning", Eq. 1 to 5.
    Differs: the momentum stays what it is; the projection is narrower and has no batch normalisation. Cells that lie
    outside the image take no part.
    """

    config_type: ClassVar[type[PixProConfig]] = PixProConfig
    learns: ClassVar = "features"
    uses_unlabelled: ClassVar[bool] = True
    run_defaults: ClassVar = PixelContrast.run_defaults

    def __init__(self, config: PixProConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        require_few_cells(config.grid, plan)
        self.config, self._views = config, views_of(config, plan)
        network = network_of(plan, generator)
        tap = chosen_tap(network, config.tap)
        freeze_beyond(network, tap)
        width = network.taps[tap].channels
        projection = PixelProjection(width, config.hidden, config.embedding, generator=generator)
        self.encoder = CellEncoder(network, tap, projection)
        self.teacher = MomentumTeacher(self.encoder, decay=config.momentum)
        self.transform = _linear(config.embedding, generator) if config.loss == "propagation" else None
        self.name = "pixel_consistency" if config.loss == "propagation" else "pixel_contrast"
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        c = self.config
        counts = cell_counts(batch.view_shape, c.grid)
        points = cell_points(batch, counts, among=inside_image(batch))
        asked, answered = self.encoder(batch.images, counts), self.teacher(batch.images, counts)
        terms = []
        for pair in view_pairs(batch.images.shape[1]):
            near = near_cells(batch, points, counts, pair, threshold=c.threshold)
            for mine, other, related in ((*pair, near), (*pair[::-1], near.transpose(1, 2))):
                said = self._said(asked[:, mine], points.usable[:, mine])
                self._show(said, answered[:, other], related, points.usable[:, mine], points.usable[:, other])
                terms.append(self._term(said, answered[:, other], related, points.usable[:, other]))
        return {self.name: torch.stack(terms).mean()}

    def after_step(self) -> None:
        self.teacher.update(self.encoder)

    def deployable(self) -> nn.Module:
        return self.encoder.network

    def _said(
        self, cells: Float[Tensor, "batch cell embedding"], usable: Bool[Tensor, "batch cell"]
    ) -> Float[Tensor, "batch cell embedding"]:
        """What a view's cells are compared by."""
        if self.transform is None:
            return cells
        return propagated(cells, self.transform(cells), usable=usable, sharpness=self.config.sharpness)

    def _term(self, said: Tensor, target: Tensor, near: Tensor, usable: Tensor) -> Float[Tensor, ""]:
        """One direction of one pair of views."""
        if self.transform is not None:
            return near_consistency(said, target, near, sum_over_processes=sum_over_processes)
        return near_contrast(
            said, target, near,
            usable=usable, temperature=self.config.temperature, sum_over_processes=sum_over_processes,
        )  # fmt: skip

    def _show(self, said: Tensor, target: Tensor, near: Tensor, usable: Tensor, others_usable: Tensor) -> None:
        if self.diagnostics is not None:
            anchors = Pixels(embeddings=said.flatten(0, 1), tags=Tags(usable=usable.flatten()))
            keys = Pixels(embeddings=target.flatten(0, 1), tags=Tags(usable=others_usable.flatten()))
            self.diagnostics.observe(self.name, anchors, _NearPairs(near), keys=keys)


def near_cells(
    batch: ViewBatch, points: Points, counts: tuple[int, ...], pair: tuple[int, int], *, threshold: float
) -> Bool[Tensor, "batch cell other"]:
    """Which usable cells of one view lie near which of the other, in diagonals of the larger cell.

    Source: Xie et al. 2021, Eq. 1.
    """
    first, second = pair
    positions = source_positions_mm(batch, points.indices)
    diagonals = cell_diagonals_mm(batch, counts)
    larger = torch.maximum(diagonals[:, first], diagonals[:, second])
    apart = distances_mm(positions[:, first], positions[:, second]) / larger[:, None, None]
    both = points.usable[:, first].unsqueeze(2) & points.usable[:, second].unsqueeze(1)
    return (apart <= threshold) & both


@dataclass(frozen=True)
class _NearPairs:
    """The pairs of cells that lie near each other, as the diagnostics ask for them."""

    near: Bool[Tensor, "batch cell other"]

    def pairs(self, anchors: Tags, keys: Tags | None = None, own: int | None = None) -> Pairs:
        n_batch, n_cells, n_others = self.near.shape
        device = self.near.device

        def block(a: slice, k: slice) -> PairBlock:
            mine = torch.arange(n_batch * n_cells, device=device)[a, None]
            theirs = torch.arange(n_batch * n_others, device=device)[None, k]
            same_image = mine // n_cells == theirs // n_others
            near = self.near[mine // n_cells, mine % n_cells, theirs % n_others] & same_image
            return PairBlock(near, same_image)

        return Pairs(
            n_anchors=n_batch * n_cells,
            n_keys=n_batch * n_others,
            block=block,
            symmetric=False,
            anchors_usable=anchors.usable,
            keys_usable=None if keys is None else keys.usable,
        )


def _linear(width: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose weights depend on the generator alone, of variance 1 over its width."""
    with torch.device("meta"):
        layer = nn.Linear(width, width)
    layer.to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.normal_(0.0, 1 / math.sqrt(width), generator=generator)
        layer.bias.zero_()
    return layer
