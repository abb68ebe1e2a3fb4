"""A trained model kept ready: images in, label maps on the images' own grids out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from scantling.data.image_io import ImageGeometry, MedicalImage, write_label_map
from scantling.data.prepare import PreparedGrid, class_table, prepare_image, turn
from scantling.errors import ResourceError
from scantling.inference.accumulator import Slab
from scantling.inference.canvas import StoredImage
from scantling.inference.device import mixed_precision, resolve_device
from scantling.inference.memory import prediction_batch
from scantling.inference.model_folder import LoadedModel, load_model
from scantling.inference.postprocess import Removal, keep_largest_components
from scantling.inference.restoring import RowRestorer
from scantling.inference.sliding_window import iterate_slabs, label_dtype, running_argmax
from scantling.sealed_folder import find_model_folder


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says about one image, on the image's own grid.

    Attributes:
        label_map: class indices; `stored` has the values that label files hold.
        probs: softmax over classes; None unless asked for.
        entropy: of the softmax, over its largest possible value, in [0, 1]; None unless asked for.
        removals: what post-processing took away; empty where none was asked for.
        notes: what was odd about the image, or could not be done, one sentence each.
    """

    label_map: Int[np.ndarray, "*spatial"]
    stored: Integer[np.ndarray, "*spatial"]
    geometry: ImageGeometry
    class_names: tuple[str, ...]
    probs: Float[np.ndarray, "klass *spatial"] | None = None
    entropy: Float[np.ndarray, "*spatial"] | None = None
    removals: tuple[Removal, ...] = ()
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the label map with stored values; its suffix decides the file type.

        Raises:
            DataError: a file type that cannot hold it.
        """
        write_label_map(path, self.stored, self.geometry)


@final
class Predictor:
    """Segments one image after another with the same network."""

    def __init__(self, model: LoadedModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self.plan = model.plan
        self.classes = class_table(model.plan.classes)
        self.network = model.network.to(device)

    @classmethod
    def load(cls, run_or_model: Path, *, device: str = "auto") -> Predictor:
        """From a run folder or a model folder, verified.

        Raises:
            DataError: there is no model.
            IntegrityError: it is damaged.
            ConfigError, ResourceError: the device is none, or not here.
        """
        where = resolve_device(device)
        return cls(load_model(find_model_folder(Path(run_or_model)), where), where)

    def predict(
        self,
        channels: Sequence[MedicalImage],
        *,
        tta: bool = False,
        probabilities: bool = False,
        uncertainty: bool = False,
        largest_component: bool = False,
    ) -> Prediction:
        """Segment one image, given as the files of its channels.

        Args:
            tta: average over copies mirrored along the axes that training mirrored.
            largest_component: keep only the largest component of each class.

        Raises:
            PlanMismatch: channels or axes are not those of the plan.
            GeometryError: the channels do not share one grid.
            IntegrityError: the network gave values that are not finite.
            ResourceError: memory does not suffice.
        """
        try:
            maps, grid = self._maps(channels, tta=tta, probabilities=probabilities, uncertainty=uncertainty)
        except (torch.OutOfMemoryError, MemoryError):
            size = " x ".join(map(str, channels[0].geometry.shape))
            raise ResourceError(
                f"image of {size}: the memory of {self.device} does not suffice; free some, or use --device cpu",
                code="E-RES-11",
            ) from None
        notes = tuple(note for channel in channels for note in channel.notes)
        if tta and not self.plan.mirror_axes:
            notes += ("training mirrored no axis, so averaging over mirrored copies was left out",)
        label_map = maps.label_map
        removals: tuple[Removal, ...] = ()
        if largest_component:
            label_map, removals = keep_largest_components(label_map, self.classes.names)
        return Prediction(
            label_map=label_map,
            stored=self.classes.to_stored(label_map),
            geometry=grid.source,
            class_names=self.classes.names,
            probs=maps.probs,
            entropy=maps.entropy,
            removals=removals,
            notes=notes,
        )

    def _maps(
        self, channels: Sequence[MedicalImage], *, tta: bool, probabilities: bool, uncertainty: bool
    ) -> tuple[_Maps, PreparedGrid]:
        """Predict on the prepared grid and take everything back to the image's own, row by row."""
        prepared = prepare_image(channels, self.plan)
        image = StoredImage(array=torch.from_numpy(prepared.array), scale=prepared.scale, offset=prepared.offset)
        rows = _own_rows(self._slabs(image, tta=tta), prepared.grid, probs=probabilities, entropy=uncertainty)
        maps = _collect(rows, prepared.grid, len(self.classes.names), probs=probabilities, entropy=uncertainty)
        return maps, prepared.grid

    def _slabs(self, image: StoredImage, *, tta: bool) -> Iterator[Slab]:
        plan = self.plan
        return iterate_slabs(
            self.network,
            image,
            patch_size=plan.patch_size,
            n_classes=len(self.classes.names),
            batch_size=prediction_batch(plan, device=self.device.type),
            mirror_axes=plan.mirror_axes if tta else (),
            amp=mixed_precision(self.device),
            slices=plan.dimensions < plan.image_axes,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Some rows of the result, as they lie in an array `[*S]` of the turned source; None was not asked for."""

    place: tuple[slice, ...]
    labels: Int[Tensor, "*rows"]
    probs: Float[Tensor, "klass *rows"] | None
    entropy: Float[Tensor, "*rows"] | None


@dataclass(frozen=True, kw_only=True)
class _Maps:
    label_map: Int[np.ndarray, "*spatial"]
    probs: Float[np.ndarray, "klass *spatial"] | None
    entropy: Float[np.ndarray, "*spatial"] | None


def normalised_entropy(probs: Float[Tensor, "klass *spatial"]) -> Float[Tensor, "*spatial"]:
    """Entropy over classes divided by log K: 0 where one class has it all, 1 where all are equal."""
    entropy: Tensor = torch.special.entr(probs).sum(dim=0) / math.log(len(probs))
    return entropy.clamp(0, 1)


def _own_rows(slabs: Iterator[Slab], grid: PreparedGrid, *, probs: bool, entropy: bool) -> Iterator[_Rows]:
    """Finished slabs at the source's resolution."""
    if grid.shape != grid.turned_shape:
        yield from _resampled_rows(slabs, grid, probs=probs, entropy=entropy)
        return
    for slab in slabs:
        softmax = slab.logits.softmax(dim=0) if probs or entropy else None
        yield _Rows(
            place=slab.place,
            labels=running_argmax(slab.logits),
            probs=softmax if probs else None,
            entropy=normalised_entropy(softmax) if entropy and softmax is not None else None,
        )


def _resampled_rows(slabs: Iterator[Slab], grid: PreparedGrid, *, probs: bool, entropy: bool) -> Iterator[_Rows]:
    """Interpolated probabilities and their largest: a resampled label map is only as smooth as the coarser grid."""
    restorer: RowRestorer | None = None
    for slab in slabs:
        restorer = restorer or RowRestorer(grid, slab.axis)
        softmax = slab.logits.softmax(dim=0)
        n_classes = len(softmax)
        maps = torch.cat([softmax, normalised_entropy(softmax)[None]]) if entropy else softmax
        for place, restored in restorer.add(maps.cpu().numpy()):
            own = torch.from_numpy(restored)
            yield _Rows(
                place=place,
                labels=running_argmax(own[:n_classes]),
                probs=own[:n_classes] if probs else None,
                entropy=own[n_classes] if entropy else None,
            )


def _collect(rows: Iterator[_Rows], grid: PreparedGrid, n_classes: int, *, probs: bool, entropy: bool) -> _Maps:
    """Whole maps on the source's grid; no logits of the whole image are held."""
    shape = grid.source.shape
    label_map = np.empty(shape, dtype=np.int8 if label_dtype(n_classes) == torch.int8 else np.int16)
    probs_map = np.empty((n_classes, *shape), dtype=np.float32) if probs else None
    entropy_map = np.empty(shape, dtype=np.float32) if entropy else None
    for part in rows:
        turn(label_map, grid)[part.place] = part.labels.cpu().numpy()
        if probs_map is not None and part.probs is not None:
            for of_class, values in zip(probs_map, part.probs.cpu().numpy(), strict=True):
                turn(of_class, grid)[part.place] = values
        if entropy_map is not None and part.entropy is not None:
            turn(entropy_map, grid)[part.place] = part.entropy.cpu().numpy()
    return _Maps(label_map=label_map, probs=probs_map, entropy=entropy_map)
