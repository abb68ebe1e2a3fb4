"""DenseCL: each cell of a view is found again where its features lie nearest in the other, and the image as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Final, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from scantling.contrast.bank import FIFOBank
from scantling.contrast.cells import cell_counts, cell_means, cell_points
from scantling.contrast.contrasting import contrast
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags, join
from scantling.contrast.relations import ACROSS_IMAGES, SameGroup, SamePoint
from scantling.data.plan import Plan
from scantling.networks import UNet
from scantling.networks.projection import ImageProjection, PixelProjection, chosen_tap, freeze_beyond
from scantling.recipes.pixel_contrast import PixelContrast, inside_image
from scantling.recipes.pretraining import (
    PretrainingConfig,
    by_view,
    deepest_tap,
    later_tap,
    network_of,
    require_few_cells,
    sample_tags,
    view_pairs,
    views_of,
)
from scantling.recipes.recipe import Recipe
from scantling.targets.momentum import MomentumTeacher
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch

_CELL: Final = 1
_WHOLE: Final = 0  # the mean of a view's cells, a negative of cells
_IMAGES: Final = PairRule(SamePoint().among(ACROSS_IMAGES, only="negatives"))
_CELLS: Final = PairRule(SamePoint().among(~SameGroup() & ACROSS_IMAGES, only="negatives"))

Cells = Float[Tensor, "batch view cell feature"]


class DenseCLConfig(PretrainingConfig):
    """Views, network, cells and losses; the defaults are the published ones.

    Attributes:
        tap: the feature map whose cells are compared; "" is the finest decoder level. The authors have an encoder
            alone and take its last level.
        grid: cells of a view along each axis, as many as pixels at most; a cell's feature is the mean of its pixels.
        temperature: divides the cosines.
        dense_share: weight of the cells' term; the image's term has the rest of 1.
        momentum: decay of the averaged copy that gives the keys.
        bank: keys of earlier images that are remembered for either term; 0 is none.
    """

    tap: str = ""
    grid: int = Field(default=7, ge=1)
    temperature: float = Field(default=0.2, gt=0)
    dense_share: float = Field(default=0.5, ge=0, le=1)
    momentum: float = Field(default=0.999, ge=0, lt=1)
    bank: int = Field(default=65_536, ge=0)


@final
class CellEncoder(nn.Module):
    """A network up to a tap, the projection of its cells, and that of the image from the coarsest encoder level."""

    def __init__(self, network: UNet, tap: str, config: DenseCLConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.network, self.tap, self.deepest = network, tap, deepest_tap(network)
        self.last = later_tap(network, tap, self.deepest)
        freeze_beyond(network, self.last)
        widths, taps = (config.hidden, config.embedding), network.taps
        self.of_cells = PixelProjection(taps[tap].channels, *widths, generator=generator)
        self.of_image = ImageProjection(taps[self.deepest].channels, *widths, generator=generator)

    def forward(
        self, images: Float[Tensor, "batch view channel *spatial"], counts: tuple[int, ...]
    ) -> tuple[Cells, Float[Tensor, "batch view cell embedding"], Float[Tensor, "batch view embedding"]]:
        """Features and embeddings of the cells, and the embedding of the image."""
        found = self.network.features(images.flatten(0, 1), stop_at=self.last)
        of_views, fine = images.shape[:2], found[self.tap]
        cells = cell_means(fine.reshape(*of_views, *fine.shape[1:]), counts)
        whole: Tensor = self.of_image(found[self.deepest])
        return cells, self.of_cells(cells), whole.reshape(*of_views, -1)


@final
class DenseCL(Recipe):
    """Two InfoNCE terms with keys of a momentum encoder: of whole images, and of cells.

    Views: two of each image; of more, the first with each other. Pixels: the cells of a grid. Pairs: a cell and the
    one of the other view whose features, before the projection, are the most alike; where things lie is not used.
    Negatives: whole views of other images, of the batch and of a bank; of the cells' term their mean cell. The
    image's term wants a network with batch normalisation, as that of `simclr` does.

    Source: Wang et al. 2021, "Dense contrastive learning for self-supervised visual pre-training", Eq. 1 to 4.
    Differs: both views ask and answer; keys of the batch are negatives before they enter the bank, so that there are
    some in the first step; what the bank holds of an anchor's own image is left out. Cells that lie outside the image
    take no part. The image's vector comes from the encoder, the cells from the decoder as well.
    """

    config_type: ClassVar[type[DenseCLConfig]] = DenseCLConfig
    learns: ClassVar = "features"
    uses_unlabelled: ClassVar[bool] = True
    run_defaults: ClassVar = PixelContrast.run_defaults

    def __init__(self, config: DenseCLConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        require_few_cells(config.grid, plan)
        self.config, self._views = config, views_of(config, plan)
        network = network_of(plan, generator)
        self.encoder = CellEncoder(network, chosen_tap(network, config.tap), config, generator)
        self.teacher = MomentumTeacher(self.encoder, decay=config.momentum)
        size, dim = config.bank, config.embedding
        self.images = FIFOBank(size, dim, tags=("image", "point")) if size else None
        self.means = FIFOBank(size, dim, tags=("image", "point", "group")) if size else None
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        n_batch, n_views = batch.images.shape[:2]
        counts = cell_counts(batch.view_shape, self.config.grid)
        usable = cell_points(batch, counts, among=inside_image(batch)).usable
        asked, answered = self.encoder(batch.images, counts), self.teacher(batch.images, counts)
        samples = by_view(sample_tags(batch), n_batch, n_views)
        queries, keys = (
            [Pixels(embeddings=whole[:, view], tags=samples[view]) for view in range(n_views)]
            for whole in (asked[2], answered[2])
        )
        means = [_mean_cell(answered[1][:, view], usable[:, view], samples[view]) for view in range(n_views)]
        image_terms, cell_terms = [], []
        for pair in view_pairs(n_views):
            for mine, other in (pair, pair[::-1]):
                image_terms.append(self._term("image_contrast", queries[mine], keys[other], _IMAGES, self.images))
                match = nearest_cells(asked[0][:, mine], answered[0][:, other], usable[:, other])
                found = answered[1][:, other].gather(1, match.unsqueeze(-1).expand_as(answered[1][:, other]))
                tags = _cell_tags(samples[mine], usable[:, mine] & usable[:, other].any(dim=1, keepdim=True))
                cells = Pixels(embeddings=asked[1][:, mine].flatten(0, 1), tags=tags)
                compared = join([Pixels(embeddings=found.flatten(0, 1), tags=tags), means[other]])
                cell_terms.append(self._term("cell_contrast", cells, compared, _CELLS, self.means))
        if self.images is not None and self.means is not None:
            self.images.push(join(keys))
            self.means.push(join(means))
        share = self.config.dense_share
        return {
            "image_contrast": (1 - share) * torch.stack(image_terms).mean(),
            "cell_contrast": share * torch.stack(cell_terms).mean(),
        }

    def after_step(self) -> None:
        self.teacher.update(self.encoder)

    def deployable(self) -> nn.Module:
        return self.encoder.network

    def _term(
        self, name: str, anchors: Pixels, keys: Pixels, rule: PairRule, bank: FIFOBank | None
    ) -> Float[Tensor, ""]:
        memory = None if bank is None else bank.pixels()
        if self.diagnostics is not None:
            self.diagnostics.observe(name, anchors, rule, memory, keys=keys)
        return contrast(anchors, keys, rule, temperature=self.config.temperature, memory=memory)


@torch.no_grad()
def nearest_cells(
    features: Float[Tensor, "batch cell feature"],
    others: Float[Tensor, "batch other feature"],
    usable: Bool[Tensor, "batch other"],
) -> Int[Tensor, "batch cell"]:
    """For each cell the usable one of the other view whose features have the largest cosine; 0 where none is usable.

    Source: Wang et al. 2021, Eq. 4.
    """
    with torch.autocast(features.device.type, enabled=False):
        alike = F.normalize(features.float(), dim=2) @ F.normalize(others.float(), dim=2).transpose(1, 2)
    return alike.masked_fill(~usable.unsqueeze(1), float("-inf")).argmax(dim=2)


def _cell_tags(samples: Tags, usable: Bool[Tensor, "batch cell"]) -> Tags:
    """Cells of one view of each sample; a cell has the number of what it is compared with."""
    image = samples.need("image").unsqueeze(1).expand_as(usable).flatten()
    numbers = torch.arange(len(image), device=image.device)
    return Tags(image=image, point=numbers, group=torch.full_like(image, _CELL), usable=usable.flatten())


def _mean_cell(
    embeddings: Float[Tensor, "batch cell embedding"], usable: Bool[Tensor, "batch cell"], samples: Tags
) -> Pixels:
    """The mean over the usable cells of one view of each sample: a negative, and nobody's positive."""
    weights = usable.to(embeddings.dtype).unsqueeze(-1)
    means = (embeddings * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    image = samples.need("image")
    tags = replace(
        samples,
        point=torch.full_like(image, -1),
        group=torch.full_like(image, _WHOLE),
        usable=usable.any(dim=1),
    )
    return Pixels(embeddings=means, tags=tags)
