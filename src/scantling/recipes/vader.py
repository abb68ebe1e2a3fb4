"""VADeR: a place in one view against itself in the other and pixels of other images; keys are of an averaged copy."""

from __future__ import annotations

from typing import ClassVar, Final, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from scantling.contrast.bank import FIFOBank
from scantling.contrast.contrasting import contrast
from scantling.contrast.diagnostics import Diagnostics
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, join
from scantling.contrast.points import Points, gather, tags_of
from scantling.contrast.relations import ACROSS_IMAGES, SamePoint
from scantling.contrast.sampling import shared_points
from scantling.data.plan import Plan
from scantling.networks import UNet
from scantling.networks.projection import PixelProjection, chosen_tap, dense_features, freeze_beyond
from scantling.recipes.pixel_contrast import PixelContrast, inside_image
from scantling.recipes.pretraining import PretrainingConfig, by_view, key_tags, network_of, view_pairs, views_of
from scantling.recipes.recipe import Recipe
from scantling.targets.momentum import MomentumTeacher
from scantling.views.maker import ViewConfig
from scantling.views.published import published_views
from scantling.views.view import ViewBatch

_VIEWS: Final = published_views(2, "own", rotation=False)


class VADeRConfig(PretrainingConfig):
    """Views, network, pixels and pairs; the defaults are the method as its authors describe it.

    As it was run beside dual-view contrast it had no key encoder, no bank, 1,000 points, all negatives, and a
    temperature of 0.7 (`experiments/vader_as_run.toml`).

    Attributes:
        views: cropped and recoloured, not turned, as in both.
        tap: the feature map that is contrasted; "" is the finest decoder level.
        points: places of each pair of views.
        temperature: divides the cosines.
        key_encoder: keys are what an averaged copy says, without gradient; otherwise what the network itself says of
            the other view, with gradient.
        momentum: decay of that average.
        bank: keys of earlier batches that are remembered; 0 is none.
        negatives: pixels of other images, or all pixels of the other view, those of the same image included.
    """

    views: ViewConfig = _VIEWS
    tap: str = ""
    points: int = Field(default=32, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    key_encoder: bool = True
    momentum: float = Field(default=0.999, ge=0, lt=1)
    bank: int = Field(default=65_536, ge=0)
    negatives: Literal["other_images", "all"] = "other_images"


@final
class PixelEncoder(nn.Module):
    """A network up to a tap, and the projection of some of its pixels."""

    def __init__(self, network: UNet, tap: str, projection: PixelProjection) -> None:
        super().__init__()
        self.network, self.tap, self.projection = network, tap, projection

    def forward(self, batch: ViewBatch, points: Points) -> Float[Tensor, "batch viewed point embedding"]:
        """Embeddings of places."""
        features = dense_features(self.network, batch.images, self.tap)
        result: Tensor = self.projection(gather(features, points, batch.view_shape))
        return result


@final
class VADeR(Recipe):
    """A place against itself in another view and pixels of other images, in both directions.

    Views: two of each image; of more, the first with each other. Pixels: places that both views show. Pairs: the same
    place; negatives are keys of other images, of the batch and of a bank. Targets: a momentum encoder.

    Source: Pinheiro et al. 2020, "Unsupervised learning of dense visual representations".
    Differs: both views ask and answer; keys of the batch are negatives before they enter the bank, so that there are
    some in the first step; what the bank holds of an anchor's own image is left out, since small data sets come by
    again soon; places are exact, and read before they are projected.
    """

    config_type: ClassVar[type[VADeRConfig]] = VADeRConfig
    learns: ClassVar = "features"
    uses_unlabelled: ClassVar[bool] = True
    run_defaults: ClassVar = PixelContrast.run_defaults

    def __init__(self, config: VADeRConfig, plan: Plan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config, self._views = config, views_of(config, plan)
        network = network_of(plan, generator)
        tap = chosen_tap(network, config.tap)
        freeze_beyond(network, tap)
        width = network.taps[tap].channels
        projection = PixelProjection(width, config.hidden, config.embedding, generator=generator)
        self.encoder = PixelEncoder(network, tap, projection)
        self.teacher = MomentumTeacher(self.encoder, decay=config.momentum) if config.key_encoder else None
        tags = ("image", "point")
        self.bank = FIFOBank(config.bank, config.embedding, tags=tags) if config.bank else None
        same = SamePoint()
        all_negatives = config.negatives == "all"
        self.rule = PairRule(same if all_negatives else same.among(ACROSS_IMAGES, only="negatives"))
        self.diagnostics = Diagnostics(plan.classes.names)

    def views(self) -> ViewConfig:
        return self._views

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        c, among = self.config, inside_image(batch)
        fill: Literal["none", "outside"] = "outside" if c.negatives == "all" else "none"
        points = [
            shared_points(batch, c.points, rng, views=pair, fill=fill, among=among)
            for pair in view_pairs(c.views.n_views)
        ]
        everywhere = Points(
            indices=torch.cat([part.indices for part in points], dim=1),
            usable=torch.cat([part.usable for part in points], dim=1),
            views=tuple(view for part in points for view in part.views or ()),
        )
        asked = self.encoder(batch, everywhere)
        answered = asked if self.teacher is None else self.teacher(batch, everywhere)
        memory = None if self.bank is None else self.bank.pixels()
        terms, pushed = [], []
        for number, part in enumerate(points):
            sides = []
            for side, tags in enumerate(by_view(tags_of(part, batch), len(batch.images), 2)):
                view = 2 * number + side
                own = Pixels(embeddings=asked[:, view].flatten(0, 1), tags=tags)
                sides.append((own, Pixels(embeddings=answered[:, view].flatten(0, 1), tags=key_tags(tags))))
            (first, first_keys), (second, second_keys) = sides
            terms += [self._term(first, second_keys, memory), self._term(second, first_keys, memory)]
            pushed += [first_keys.detach(), second_keys.detach()]
        if self.bank is not None:
            self.bank.push(join(pushed))
        return {"pixel_contrast": torch.stack(terms).mean()}

    def after_step(self) -> None:
        if self.teacher is not None:
            self.teacher.update(self.encoder)

    def deployable(self) -> nn.Module:
        return self.encoder.network

    def _term(self, anchors: Pixels, keys: Pixels, memory: Pixels | None) -> Float[Tensor, ""]:
        """One direction of one pair of views."""
        if self.diagnostics is not None:
            self.diagnostics.observe("pixel_contrast", anchors, self.rule, memory, keys=keys)
        return contrast(anchors, keys, self.rule, temperature=self.config.temperature, memory=memory)
