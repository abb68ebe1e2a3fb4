"""The contrast by block kernels, interpreted on the CPU, beside the same by tiles: `fused_process.py`.

Prints the largest relative difference of loss and gradients of each problem. The interpreter must be chosen
before Triton is imported, which is why this is a process of its own.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor

from scantling.losses import fused, triton_kernels
from scantling.losses.contrastive import Directions, info_nce
from scantling.losses.pairs import Groups, PairBlock, Pairs


def never_asked(rows: slice, columns: slice) -> PairBlock:
    raise AssertionError("groups say all there is to know")


def problem(
    n: int, m: int | None, dim: int, own: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Pairs]:
    generator = torch.Generator().manual_seed(n + dim)

    def vectors(count: int) -> Tensor:
        return torch.randn(count, dim, generator=generator).to(dtype).requires_grad_()

    def marks(count: int) -> tuple[Tensor, Tensor, Tensor]:
        return (
            torch.randint(-1, 4, (count,), generator=generator),
            torch.rand(count, generator=generator) < 0.9,
            torch.rand(count, generator=generator),
        )

    groups, usable, trust = marks(n)
    key_groups, keys_usable, key_trust = (groups, usable, trust) if m is None else marks(m)
    pairs = Pairs(
        n_anchors=n, n_keys=m or n, block=never_asked, all_compared=True, own=own,
        groups=Groups(anchors=groups, keys=key_groups, n_groups=4),
        anchors_usable=usable, keys_usable=keys_usable, anchor_trust=trust, key_trust=key_trust,
    )  # fmt: skip
    return vectors(n), None if m is None else vectors(m), pairs


def loss_and_gradients(anchors: Tensor, keys: Tensor | None, pairs: Pairs, directions: Directions) -> list[Tensor]:
    loss = info_nce(anchors, keys, pairs, temperature=0.1, directions=directions)
    inputs = [anchors] if keys is None else [anchors, keys]
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def main() -> None:
    assert fused.largest_error(triton_kernels, torch.device("cpu"), torch.float32) < 1e-5
    by_tiles = fused.kernels_for
    for dtype in (torch.float32, torch.float16):
        for n, m, dim, own in ((200, None, 20, 0), (150, 170, 130, None), (90, 200, 16, 40), (1, 3, 5, None)):
            for directions in ("one", "both"):
                anchors, keys, pairs = problem(n, m, dim, own, dtype)
                fused.kernels_for = by_tiles
                expected = loss_and_gradients(anchors, keys, pairs, directions)
                fused.kernels_for = lambda vectors: triton_kernels
                actual = loss_and_gradients(anchors, keys, pairs, directions)
                differences = [
                    float((a.float() - e.float()).abs().max() / e.float().abs().max().clamp_min(1e-6))
                    for a, e in zip(actual, expected, strict=True)
                ]
                print(str(dtype).removeprefix("torch."), n, m, dim, own, directions, max(differences))  # noqa: T201


if __name__ == "__main__":
    main()
