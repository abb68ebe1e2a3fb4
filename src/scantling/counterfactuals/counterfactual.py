"""The same patient under another scanner, sex or finding: abduct, intervene, predict, on the image's own grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float

from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.hvae import HVAE, predict_counterfactual, with_smooth_tone
from scantling.counterfactuals.image_plan import ImagePlan
from scantling.counterfactuals.noise_effects import NoiseEffects
from scantling.counterfactuals.source_image import ModelImage, SourceImage, onto_source, read_source, to_model
from scantling.counterfactuals.sources import CounterfactualSource
from scantling.counterfactuals.table import Row
from scantling.data.case import Case
from scantling.errors import PlanMismatch
from scantling.seeding import torch_generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Counterfactual:
    """An image as it would be, and how it came about.

    Attributes:
        image: the result; its `row` holds the attributes after the intervention, descendants included.
        before: the attributes of the real image.
        do: what was set, as it stands in the table.
        difference: the result minus the real image, in stored units.
    """

    image: SourceImage
    before: Row
    do: Mapping[str, str]
    difference: Float[np.ndarray, "channel *source"]


@final
@dataclass(frozen=True, kw_only=True)
class CounterfactualGenerator:
    """A causal graph of attributes and a source of images.

    Attributes:
        plan: of the image model; of it other sources need only the number of channels.
        seed: of the noise behind attributes, which depends on it and on the case alone.
    """

    graph: FittedGraph
    source: CounterfactualSource
    plan: ImagePlan
    seed: int = 0

    def counterfactual(self, case: Case | SourceImage, do: Mapping[str, str | float]) -> Counterfactual:
        """One image under an intervention.

        Args:
            do: attribute -> value, such as `{"scanner": "B"}`.

        Raises:
            ConfigError: an unknown attribute, or a value that was never seen.
            DataError: the image cannot be read, or does not fit the plan.
        """
        return self._made([self._read(case)], do)[0]

    def counterfactuals(
        self,
        cases: Iterable[Case | SourceImage],
        do: Mapping[str, str | float],
        *,
        batch_size: int | None = None,
    ) -> Iterator[Counterfactual]:
        """Many images under one intervention, in their order; only one batch of them is in memory.

        Args:
            batch_size: None is the plan's; results do not depend on it but for rounding.

        Raises:
            ConfigError, DataError: as `counterfactual`, when the batch of the case is made.
        """
        size = self.plan.batch_size if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"batch_size must be > 0, got {size}")
        batch: list[SourceImage] = []
        for case in cases:
            batch.append(self._read(case))
            if len(batch) == size:
                yield from self._made(batch, do)
                batch = []
        if batch:
            yield from self._made(batch, do)

    def after(self, image: SourceImage, do: Mapping[str, str | float]) -> dict[str, str]:
        """The attributes of an image after an intervention; those that descend from what is set move along."""
        return self.graph.intervene(image.row, do, generator=torch_generator(self.seed, "abduct", image.case_id))

    def _read(self, case: Case | SourceImage) -> SourceImage:
        return case if isinstance(case, SourceImage) else read_source(case, len(self.plan.channels))

    def _made(self, images: Sequence[SourceImage], do: Mapping[str, str | float]) -> list[Counterfactual]:
        rows = [self.after(image, do) for image in images]
        made = self.source(images, rows)
        return [
            Counterfactual(
                image=result,
                before=image.row,
                do={name: row[name] for name in do},
                difference=_difference(image, result),
            )
            for image, row, result in zip(images, rows, made, strict=True)
        ]


@final
class ImageModelSource:
    """A hierarchical VAE of the image given its attributes, asked for the mean of what it abducts.

    Every image is encoded under its own attributes, decoded under its own and under the others, and the difference is
    written onto the stored image: nothing changes where no attribute does. Nothing is drawn at random.

    Args:
        network: on the device where it is to run.
        effects: of the attributes on the noise, where they were measured; noise moves by them.
        batch_size: images the network sees at once.

    Raises:
        PlanMismatch: the network was built for another size, number of channels or attributes.
    """

    name = "image model"

    def __init__(
        self,
        network: HVAE,
        plan: ImagePlan,
        graph: FittedGraph,
        *,
        effects: NoiseEffects | None = None,
        batch_size: int | None = None,
    ) -> None:
        built = network.size, network.in_channels, network.context_dim
        if built != (plan.size, len(plan.channels), len(plan.context)) or plan.attributes != graph.attributes:
            raise PlanMismatch(
                f"image model: the network is for size, channels and context {built}, the plan for "
                f"{(plan.size, len(plan.channels), len(plan.context))} and the attributes "
                f"{', '.join(a.name for a in plan.attributes)}, the graph for {', '.join(graph.parents)}; wanted all "
                "three from one run"
            )
        self.network, self.plan, self.graph, self.effects = network.eval(), plan, graph, effects
        self.batch_size = plan.batch_size if batch_size is None else batch_size

    def __call__(self, images: Sequence[SourceImage], after: Sequence[Row]) -> tuple[SourceImage, ...]:
        """Each image under other attributes, on its own grid and in its own type.

        Raises:
            DataError: an attribute has a value that the graph never saw.
            PlanMismatch: an image does not fit the plan.
            IntegrityError: the network gives values that are not finite.
        """
        if len(images) != len(after):
            raise ValueError(f"{len(images)} images and {len(after)} rows of attributes; wanted one for each")
        results: list[SourceImage] = []
        for start in range(0, len(images), self.batch_size):
            batch, rows = images[start : start + self.batch_size], after[start : start + self.batch_size]
            models = [to_model(image, self.plan) for image in batch]
            changes = self._changes(models, [image.row for image in batch], rows)
            for image, model, change, row in zip(batch, models, changes, rows, strict=True):
                results.append(replace(onto_source(image, model, change, self.plan), row=row))
        return tuple(results)

    @torch.inference_mode()
    def _changes(
        self, models: Sequence[ModelImage], before: Sequence[Row], after: Sequence[Row]
    ) -> Float[np.ndarray, "image channel *spatial"]:
        """What each image changes by, in the units of [-1, 1]."""
        device = next(self.network.parameters()).device
        images = torch.from_numpy(np.stack([model.values for model in models])).to(device)
        own, other = (self.graph.encode(rows).to(device) for rows in (before, after))
        latents = self.network.abduct(images, own)
        moved = latents if self.effects is None else self.effects.moved(latents, own, other)
        factual, wanted = self.network.decode(latents, own), self.network.decode(moved, other)
        made = predict_counterfactual(images, factual, with_smooth_tone(factual, wanted))
        changes: np.ndarray = (made - images).cpu().numpy()
        return changes


def _difference(image: SourceImage, result: SourceImage) -> Float[np.ndarray, "channel *source"]:
    pairs = zip(image.channels, result.channels, strict=True)
    return np.stack([(new.astype(np.float64) - old.astype(np.float64)).astype(np.float32) for old, new in pairs])
