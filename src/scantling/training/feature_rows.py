"""Features of the pixels that are looked at, gathered from all processes: each computes those of its own cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scantling.contrast.points import gather
from scantling.contrast.sampling import shared_points
from scantling.data.dataset import PatchDataset
from scantling.data.plan import Plan
from scantling.data.store import PreparedCase, PreparedSet
from scantling.errors import IntegrityError
from scantling.evaluation.linear_probe import LinearProbe
from scantling.inference.device import autocast
from scantling.networks.unet import UNet
from scantling.processes import process_count, process_rank, sum_over_processes
from scantling.seeding import torch_generator
from scantling.training.feature_pixels import Looked, features_at, piece_features, probed_labels
from scantling.training.validation import overlap_counts
from scantling.views.maker import ViewConfig, make_views


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Whose features are read, where and how exactly; the network is in evaluation mode."""

    network: UNet
    tap: str
    device: torch.device
    precision: torch.dtype | None

    @property
    def dimensions(self) -> int:
        """Of a pixel's features."""
        return self.network.taps[self.tap].channels


def case_rows(
    reading: Reading, looked: Sequence[Looked], n_classes: int, probe: LinearProbe | None
) -> tuple[Float[np.ndarray, "pixel feature"], Float[np.ndarray, "three klass"]]:
    """Features of the drawn pixels of all cases, in order; and `overlap_counts` of a probe's labels over all pieces.

    Raises:
        IntegrityError: a feature is not finite.
    """
    sizes = [len(each.labels) for each in looked]
    rows = torch.zeros((sum(sizes), reading.dimensions))
    overlap = np.zeros((3, n_classes))
    for number in range(process_rank(), len(looked), process_count()):
        each, at = looked[number], sum(sizes[:number])
        for piece in each.pieces:
            found, covered = piece_features(
                reading.network, each.case, piece.place,
                tap=reading.tap, device=reading.device, precision=reading.precision,
            )  # fmt: skip
            rows[at : at + len(piece.labels)] = features_at(found, covered, piece.indices)
            at += len(piece.labels)
            if probe is not None and each.case.labels is not None:
                true = np.asarray(each.case.labels[piece.place])
                overlap += overlap_counts(probed_labels(probe, found, covered, true.shape), true, each.case.annotated)
    rows = _finite(sum_over_processes(rows), reading.tap)
    return rows.numpy(), sum_over_processes(torch.from_numpy(overlap)).numpy()


@torch.inference_mode()
def paired_rows(
    reading: Reading, cases: tuple[PreparedCase, ...], plan: Plan, views: ViewConfig, *, points: int, seed: int
) -> Float[np.ndarray, "view pixel feature"]:
    """Features of points that two views of a crop share, one random crop of each case.

    Args:
        points: in all, about; fewer where views share little.

    Raises:
        IntegrityError: a feature is not finite.
    """
    source = PatchDataset(
        PreparedSet(cases=cases, built=0, reused=0), plan, seed=seed, foreground_fraction=0.0, include_unlabelled=True
    )
    n = -(-points // len(cases))
    rows = torch.zeros((len(cases), 2, n, reading.dimensions))
    usable = torch.zeros((len(cases), n))
    for number in range(process_rank(), len(cases), process_count()):
        batch = make_views([source.sample(0, number)], views, plan.patch_size, seed=seed, device=reading.device)
        with autocast(reading.device, reading.precision):
            found = reading.network.features(batch.images[0], stop_at=reading.tap)[reading.tap]
        places = shared_points(batch, n, torch_generator(seed, "points looked at", number))
        rows[number] = gather(found.float()[None], places, batch.view_shape)[0].cpu()
        usable[number] = places.usable[0, 0].cpu()
    together = _finite(sum_over_processes(rows), reading.tap).movedim(1, 0)
    return together[:, sum_over_processes(usable) > 0].numpy()


def _finite(rows: Tensor, tap: str) -> Tensor:
    """The rows as they are; to be asked after they were exchanged, so that all processes end alike."""
    if not bool(rows.isfinite().all()):
        raise IntegrityError(
            f"network: its features at {tap} are not finite in evaluation mode; lower "
            "training.optimisation.learning_rate, or train in float32 (training.precision)",
            code="E-EVL-21",
        )
    return rows
