"""P6: alignment of neighbouring pixels of two views, against the formula over all pairs of pixels.

The work is that of PixPro: feature maps of 4 images, 56 x 56 pixels of 64 features, two crops of different place and
size. Positives lie closer than 0.7 diagonals of the first map's pixel in the source; the loss is the mean over
pixels that have a positive of the mean over their positives of 1 - cosine. The formula over all pairs is written
here from that sentence: one matrix of distances, one mask, one of cosines. Loss and gradients must agree. Memory is
the growth of a fresh process, forward and backward.
"""

from measuring import Row, child_peak_mib, peak_growth_mib, record, take_turns  # isort: skip  (one thread)

import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scantling.losses.alignment import window_alignment

BATCH, CHANNELS, SIDE = 4, 64, 56
BINS = 0.7
"""Radius in diagonals of a pixel of the first map: PixPro's."""
TOLERATED = 1e-5


def scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two feature maps, and for each view the matrix from an index of its map to mm in the source."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn((BATCH, CHANNELS, SIDE, SIDE), generator=generator) for _ in range(2))
    matrices = []
    for _ in range(2):
        scale = 1 + 0.5 * torch.rand((BATCH, 2), generator=generator, dtype=torch.float64)
        place = 12 * torch.rand((BATCH, 2), generator=generator, dtype=torch.float64)
        matrix = torch.eye(3, dtype=torch.float64).repeat(BATCH, 1, 1)
        matrix[:, :2, :2] = torch.diag_embed(scale)
        matrix[:, :2, 2] = place
        matrices.append(matrix)
    return first.requires_grad_(), second.requires_grad_(), *matrices


def radius(source_from_first: Tensor) -> float:
    """One for the batch: of the mean diagonal."""
    return BINS * float(torch.linalg.vector_norm(source_from_first.diagonal(dim1=1, dim2=2)[:, :2], dim=1).mean())


def over_all_pairs(first: Tensor, second: Tensor, source_from_first: Tensor, source_from_second: Tensor) -> Tensor:
    mm = []
    for matrix in (source_from_first, source_from_second):
        index = torch.stack(torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64)] * 2, indexing="ij"), dim=-1)
        mm.append((index.reshape(1, -1, 2) @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2]).float())
    with torch.no_grad():
        squared = (mm[0][:, :, None, 0] - mm[1][:, None, :, 0]) ** 2 + (
            mm[0][:, :, None, 1] - mm[1][:, None, :, 1]
        ) ** 2
        positive = (squared.sqrt_() < radius(source_from_first)).float()
        del squared
    anchors, keys = (F.normalize(part.flatten(2), dim=1) for part in (first, second))
    cosines = torch.bmm(anchors.mT, keys)
    counts = positive.sum(dim=2)
    per_anchor = 1 - (cosines * positive).sum(dim=2) / counts.clamp_min(1)
    return (per_anchor * (counts > 0)).sum() / (counts > 0).sum().clamp_min(1)


def in_windows(first: Tensor, second: Tensor, source_from_first: Tensor, source_from_second: Tensor) -> Tensor:
    return window_alignment(
        first,
        second,
        second_index_from_first_index=torch.linalg.inv(source_from_second) @ source_from_first,
        source_from_second_index=source_from_second,
        radius_mm=radius(source_from_first),
    )


CONTESTANTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "ours": in_windows,
    "all pairs": over_all_pairs,
}


def step(name: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients."""
    loss = CONTESTANTS[name](*inputs)
    return loss.detach(), *torch.autograd.grad(loss, inputs[:2])


def disagreement(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The largest difference of a part over the largest value in it."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def main() -> int:
    torch.set_num_threads(1)
    inputs = scene()
    if sys.argv[1:2] == ["--peak-of"]:
        small = (*(part.detach()[:, :, :4, :4].clone().requires_grad_() for part in inputs[:2]), *inputs[2:])
        in_windows(*small).backward()  # what torch keeps for itself at first use is nobody's
        print(peak_growth_mib(lambda: step(sys.argv[2], inputs)))
        return 0
    seconds, results = take_turns({name: lambda name=name: step(name, inputs) for name in CONTESTANTS}, rounds=7)
    difference = disagreement(results["ours"], results["all pairs"])
    peaks = {
        name: statistics.median(child_peak_mib(__file__, "--peak-of", name) for _ in range(3)) for name in CONTESTANTS
    }
    work = f"neighbour alignment, B={BATCH}, {SIDE}^2, C={CHANNELS}"
    check = f"loss and gradients differ by {difference:.0e}"
    shared = {"peer": "formula over N x N pairs", "check": check, "equal": difference <= TOLERATED}
    return record(
        [
            Row(
                bar="P6",
                what=work,
                ours=seconds["ours"] * 1000,
                theirs=seconds["all pairs"] * 1000,
                unit="ms",
                ratio=seconds["all pairs"] / seconds["ours"],
                floor="30",
                target="45",
                **shared,
            ),
            Row(
                bar="P6m",
                what=f"{work}, peak memory",
                ours=peaks["ours"],
                theirs=peaks["all pairs"],
                unit="MiB",
                ratio=peaks["all pairs"] / peaks["ours"],
                floor="30",
                target="40",
                **shared,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
