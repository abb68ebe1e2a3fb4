"""Crops of prepared cases as `Sample`s, each drawn from a generator keyed by (seed, epoch, position).

So a sample is the same whichever worker makes it, however many there are, and after a resume.
"""

from __future__ import annotations

import math
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils.data import Dataset

from scantling.data.plan import Plan
from scantling.data.prepare import normalised_values
from scantling.data.sample import Sample
from scantling.data.store import PreparedCase, PreparedSet
from scantling.data.store_entry import PreparedFiles
from scantling.errors import DataError
from scantling.seeding import numpy_generator
from scantling.shapes import IGNORE

DEFAULT_MARGIN: Final = 1.25
"""How much longer than the patch a crop is, per axis: what a rotation or a smaller scale can still see."""
FOREGROUND_FRACTION: Final = 0.33
"""Share of the samples centred on a labelled structure (one third: Isensee et al. 2021, nnU-Net)."""

Key = tuple[int, int]


@final
class PatchDataset(Dataset[Sample]):
    """Random crops of prepared cases; indexed by (epoch, position), not by one running number.

    In each round through the cases every case comes once, in an order drawn anew; within a round no case is
    preferred. The patch lies inside the image where the image is larger, holds all of it where it is smaller;
    the crop is the patch plus a margin, filled up with image 0, label IGNORE and weight 0 outside. A case's
    alternatives are cut by the same window; where they come in decides no draw.

    Args:
        samples_per_epoch: how many positions an epoch has; by default one for each case.
        margin: length of the crop over length of the patch, >= 1.
        foreground_fraction: chance in [0, 1] that a patch is centred on a labelled voxel of a class drawn
            evenly among those the case has; in a partly labelled case background counts as one of them.
        include_unlabelled: also draw cases without label; their label maps are IGNORE everywhere and their
            weight inside the image is 1.

    Raises:
        DataError: there is no case to draw from.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        plan: Plan,
        *,
        seed: int,
        samples_per_epoch: int | None = None,
        margin: float = DEFAULT_MARGIN,
        foreground_fraction: float = FOREGROUND_FRACTION,
        include_unlabelled: bool = False,
    ) -> None:
        if margin < 1.0 or not 0.0 <= foreground_fraction <= 1.0 or samples_per_epoch == 0:
            raise ValueError(
                f"wanted margin >= 1, foreground_fraction in [0, 1] and samples_per_epoch >= 1, "
                f"got {margin}, {foreground_fraction} and {samples_per_epoch}"
            )
        self.cases = prepared.cases
        self.plan = plan
        self.seed = seed
        self.foreground_fraction = foreground_fraction
        self.crop_size = tuple(max(n, math.ceil(n * margin)) for n in plan.patch_size)
        self.pool = tuple(
            index for index, case in enumerate(self.cases) if include_unlabelled or case.label_kind is not None
        )
        if not self.pool:
            raise DataError(
                f"no training case has a label of kind {' or '.join(plan.label_kinds)}; add labels, or "
                "choose another label kind",
                code="E-DAT-20",
            )
        self.samples_per_epoch = samples_per_epoch or len(self.pool)
        patients = list(dict.fromkeys(case.patient_id for case in self.cases))
        self._patient_index = {patient: index for index, patient in enumerate(patients)}

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, key: Key) -> Sample:
        return self.sample(*key)

    def sample(self, epoch: int, position: int) -> Sample:
        """The sample at a position of an epoch; the same whenever and wherever it is asked for."""
        case_index = self.case_at(epoch, position)
        case = self.cases[case_index]
        rng = numpy_generator(self.seed, "patch", epoch, position)
        slice_index, start = self._patch_start(case, rng)
        return self._cut(case, case_index, slice_index, start, (epoch, position))

    def case_at(self, epoch: int, position: int) -> int:
        """Index of the case at a position of an epoch."""
        round_, place = divmod(position, len(self.pool))
        order = numpy_generator(self.seed, "order", epoch, round_).permutation(len(self.pool))
        return self.pool[int(order[place])]

    def case_name(self, epoch: int, position: int) -> str:
        """Id of the case at a position of an epoch."""
        return self.cases[self.case_at(epoch, position)].case_id

    def _spacing_mm(self, case: PreparedCase) -> tuple[float, ...]:
        """The plan's grid where it names one: a case's own differs by a fraction of a voxel over its length
        (or by the 1 % that is not resampled), and all samples of a batch share it."""
        pairs = zip(case.grid.spacing_mm, self.plan.spacing_mm, strict=True)
        return tuple(own if wanted is None else wanted for own, wanted in pairs)

    @property
    def _slices(self) -> bool:
        return self.plan.dimensions < self.plan.image_axes

    def _patch_start(self, case: PreparedCase, rng: np.random.Generator) -> tuple[int | None, tuple[int, ...]]:
        """Slice (2D plan on volumes) and first voxel of the patch, which may lie outside the image."""
        point = self._foreground_point(case, rng)
        shape = case.grid.shape
        slice_index = None
        if self._slices:
            if point is not None:
                slice_index = int(point[0])
                point = point[1:]
            elif case.known_slices:
                slice_index = int(rng.choice(case.known_slices))
            else:
                slice_index = int(rng.integers(shape[0]))
            shape = shape[1:]
        start = []
        for axis, (n, size) in enumerate(zip(shape, self.plan.patch_size, strict=True)):
            low, high = min(0, n - size), max(0, n - size)
            if point is None or n <= size:
                start.append(int(rng.integers(low, high + 1)))
            else:
                start.append(int(np.clip(point[axis] - size // 2, low, high)))
        return slice_index, tuple(start)

    def _foreground_point(self, case: PreparedCase, rng: np.random.Generator) -> Int[np.ndarray, "axis"] | None:
        wanted = rng.random() < self.foreground_fraction
        present = [k for k, n in enumerate(case.point_counts) if n]
        if not wanted or not present:
            return None
        points = case.foreground[int(rng.choice(present))]
        return np.asarray(points[int(rng.integers(len(points)))], dtype=np.int64)

    def _cut(
        self,
        case: PreparedCase,
        case_index: int,
        slice_index: int | None,
        patch_start: tuple[int, ...],
        key: Key,
    ) -> Sample:
        spacing_mm = self._spacing_mm(case) if slice_index is None else self._spacing_mm(case)[1:]
        start = tuple(
            first - (crop - patch) // 2
            for first, crop, patch in zip(patch_start, self.crop_size, self.plan.patch_size, strict=True)
        )
        source, target = _overlap(case.grid.shape[-len(start) :], start, self.crop_size)
        stored_at: tuple[int | slice, ...] = source if slice_index is None else (slice_index, *source)
        anatomy: tuple[PreparedFiles, ...] = (case, *case.alternatives)
        images = np.zeros((len(anatomy), len(case.scale), *self.crop_size), dtype=np.float32)
        for image, shown in zip(images, anatomy, strict=True):
            values = normalised_values(shown.image[(slice(None), *stored_at)], shown.scale, shown.offset)
            image[(slice(None), *target)] = values
        label_map = np.full(self.crop_size, IGNORE, dtype=np.int64)
        if (labels := case.labels) is not None:
            label_map[target] = labels[stored_at]
        weight = np.zeros(self.crop_size, dtype=np.float32)
        weight[target] = case.weight
        if slice_index is not None:
            along = (slice_index + 0.5) / case.grid.shape[0]
        elif len(self.crop_size) == 3:
            along = (start[0] + (self.crop_size[0] - 1) / 2 + 0.5) / case.grid.shape[0]
        else:
            along = 0.5
        return Sample(
            image=torch.from_numpy(images[0]),
            label_map=torch.from_numpy(label_map),
            weight=torch.from_numpy(weight),
            annotated=torch.from_numpy(case.annotated.copy()),
            spacing_mm=spacing_mm,
            source_from_sample=_translation(start, spacing_mm),
            case_index=case_index,
            patient_index=self._patient_index[case.patient_id],
            slice_position=min(max(along, 0.0), 1.0),
            key=key,
            alternatives=torch.from_numpy(images[1:]) if case.alternatives else None,
        )


def _overlap(
    shape: tuple[int, ...], start: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Which part of an image a window covers, and where in the window that part lies; both may be empty."""
    source, target = [], []
    for n, first, length in zip(shape, start, size, strict=True):
        low, high = min(max(first, 0), n), max(min(first + length, n), 0)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - first, max(low, high) - first))
    return tuple(source), tuple(target)


def _translation(start: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Float[torch.Tensor, "row column"]:
    matrix = torch.eye(len(start) + 1)
    matrix[:-1, -1] = torch.tensor([first * mm for first, mm in zip(start, spacing_mm, strict=True)])
    return matrix
