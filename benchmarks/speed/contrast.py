"""P1 to P5: the contrast of pixels under a pair rule, against the dense forms of the published losses.

Dual view: 8 images x 1000 points in two views, of which 89 % lie in both; P1 is against DVD-CL's formula with its
masks, P2 against a cross-entropy along both sides of one N x N product. Multi view: points of 8 images in 5 views as
one pool, positives closer than a tenth of the image; P3 is against MVD-CL's formula. Forward and backward with
gradients at the embeddings, 128 channels, temperature 0.7. Each loss and its gradients are compared with the peer's
and with those of a float64 form that is a third statement of the formula. P4 is how the memory grows with N, P5 a pool
of 40,000 points, which the dense form would need 60 GiB for.
"""

from measuring import Row, child_peak_mib, peak_growth_mib, record, take_turns  # isort: skip  (one thread)

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from dense_peers import cross_entropy_both_ways, dual_view, multi_view, reference
from torch import Tensor

from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Tags
from scantling.contrast.relations import SamePoint, Within
from scantling.losses.contrastive import info_nce

IMAGES = 8
VIEWS = 5
CHANNELS = 128
TEMPERATURE = 0.7
ALIGNED = 0.89
SIDE_MM = 224
RADIUS_MM = 22.4  # no distance between pixels of a grid of whole mm, so all agree on who is nearer
TOLERATED = 1e-5
GOALS = ("P1", "P1m", "P2", "P3", "P4", "P5")
OFFICIAL_DUAL, CROSS_ENTROPY, OFFICIAL_MULTI = "DVD-CL, re-stated", "N x N cross-entropy", "MVD-CL, re-stated"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A loss and its gradients at the embeddings."""

    loss: Tensor
    gradients: tuple[Tensor, ...]

    def distance(self, other: "Outcome") -> float:
        """The largest difference of the losses, or of the entries of a gradient, relative to the largest of it."""
        mine, theirs = (self.loss, *self.gradients), (other.loss, *other.gradients)
        pairs = [(a.double(), b.double()) for a, b in zip(mine, theirs, strict=True)]
        return float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())


class DualView:
    """Points of two views of each image, and the contestants on them."""

    def __init__(self, n: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(n, CHANNELS, generator=generator)
        second = first + torch.randn(n, CHANNELS, generator=generator)
        self.anchors, self.keys = (each.to(device, dtype).requires_grad_() for each in (first, second))
        self.image = (torch.arange(n) * IMAGES // n).to(device)
        self.aligned = (torch.rand(n, generator=generator) < ALIGNED).to(device)
        self.tags = Tags(image=self.image, point=torch.where(self.aligned, torch.arange(n, device=device), -1))
        self.contestants: dict[str, Callable[[], Outcome]] = {
            "ours": self.ours,
            OFFICIAL_DUAL: self.official,
            CROSS_ENTROPY: self.cross_entropy,
        }

    def ours(self) -> Outcome:
        pairs = PairRule(SamePoint()).pairs(self.tags, self.tags)
        loss = info_nce(self.anchors, self.keys, pairs, temperature=TEMPERATURE, directions="both")
        return self._differentiated(2 * loss)  # the peers add the directions

    def official(self) -> Outcome:
        return self._differentiated(dual_view(self.anchors, self.keys, self.image, self.aligned, TEMPERATURE))

    def cross_entropy(self) -> Outcome:
        return self._differentiated(cross_entropy_both_ways(self.anchors, self.keys, self.aligned, TEMPERATURE))

    def reference(self) -> Outcome:
        forth, (first, second) = reference(self.anchors, self.keys, self._positive, TEMPERATURE)
        back, (second_too, first_too) = reference(self.keys, self.anchors, self._positive, TEMPERATURE)
        return Outcome(loss=forth + back, gradients=(first + first_too, second + second_too))

    def _positive(self, rows: slice) -> Tensor:
        mask = torch.zeros(rows.stop - rows.start, len(self.keys), dtype=torch.bool, device=self.keys.device)
        mask.diagonal(rows.start).copy_(self.aligned[rows])
        return mask

    def _differentiated(self, loss: Tensor) -> Outcome:
        return Outcome(loss=loss.detach(), gradients=torch.autograd.grad(loss, (self.anchors, self.keys)))


class MultiView:
    """Points of all views of each image in one pool, and the contestants on them."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.arange(n) * IMAGES // n
        view = torch.arange(n) * IMAGES * VIEWS // n
        corner = torch.randint(0, SIDE_MM // 3, (IMAGES * VIEWS, 2), generator=generator)  # each view sees a part
        place = corner[view] + torch.randint(0, SIDE_MM - SIDE_MM // 3, (n, 2), generator=generator)
        self.position = place.float()
        self.embeddings = torch.randn(n, CHANNELS, generator=generator).requires_grad_()
        self.tags = Tags(image=self.image, view=view % VIEWS, position_mm=self.position)
        self.contestants: dict[str, Callable[[], Outcome]] = {"ours": self.ours, OFFICIAL_MULTI: self.official}

    def ours(self) -> Outcome:
        pairs = PairRule(Within(RADIUS_MM)).pairs(self.tags)
        loss = info_nce(self.embeddings, None, pairs, temperature=TEMPERATURE)
        return self._differentiated(loss)

    def official(self) -> Outcome:
        loss = multi_view(self.embeddings, self.image, self.position, RADIUS_MM, TEMPERATURE)
        return self._differentiated(loss)

    def reference(self) -> Outcome:
        loss, gradients = reference(self.embeddings, None, self._positive, TEMPERATURE)
        return Outcome(loss=loss, gradients=gradients)

    def _positive(self, rows: slice) -> Tensor:
        offsets = self.position[rows, None, :] - self.position[None, :, :]
        return (offsets.square().sum(dim=-1) < RADIUS_MM**2) & (self.image[rows, None] == self.image[None, :])

    def _differentiated(self, loss: Tensor) -> Outcome:
        return Outcome(loss=loss.detach(), gradients=torch.autograd.grad(loss, (self.embeddings,)))


WORK: dict[str, Callable[[int], Any]] = {"dual": DualView, "multi": MultiView}


def extra_peak_mib(work: str, contestant: str, n: int) -> float:
    """The peak of one step of a contestant beyond its inputs, in a process of its own."""
    return child_peak_mib(__file__, "--peak-of", work, contestant, str(n))


def compared(names: dict[str, Outcome], peer: str) -> tuple[str, bool]:
    """What is to be said of our loss and gradients against a peer's and the float64 form's, and whether they agree."""
    to_peer, to_reference = (names["ours"].distance(names[other]) for other in (peer, "reference"))
    text = f"loss and gradients within {to_peer:.0e} of the peer's, {to_reference:.0e} of float64"
    return text, max(to_peer, to_reference) <= TOLERATED


def against(
    work: str, n: int, what: str, goals: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]], rounds: int
) -> list[Row]:
    """Time and extra peak of ours against each peer.

    Args:
        goals: peer -> (goal, floor, target) of the time and of the memory.
    """
    problem = WORK[work](n)
    seconds, outcomes = take_turns({name: problem.contestants[name] for name in ("ours", *goals)}, rounds=rounds)
    outcomes["reference"] = problem.reference()
    peaks = {name: extra_peak_mib(work, name, n) for name in ("ours", *goals)}
    rows = []
    for name, of_time_and_memory in goals.items():
        check, equal = compared(outcomes, name)
        for (bar, floor, target), unit, figures, suffix in zip(
            of_time_and_memory, ("s", "MiB"), (seconds, peaks), ("", ": extra peak memory"), strict=True
        ):
            rows.append(
                Row(
                    bar=bar,
                    what=what + suffix,
                    peer=name,
                    ours=figures["ours"],
                    theirs=figures[name],
                    unit=unit,
                    ratio=figures[name] / figures["ours"],
                    floor=floor,
                    target=target,
                    check=check,
                    equal=equal,
                )
            )
    return rows


def dual(n: int, rounds: int) -> list[Row]:
    goals = {
        OFFICIAL_DUAL: (("P1", "10", "13"), ("P1m", "100", "150")),
        CROSS_ENTROPY: (("P2", "2.5", "3.3"), ("P2", "40", "60")),
    }
    return against("dual", n, f"dual-view contrast of {n} points", goals, rounds)


def multi(n: int, rounds: int) -> list[Row]:
    goals = {OFFICIAL_MULTI: (("P3", "6", "10"), ("P3", "50", "70"))}
    return against("multi", n, f"multi-view contrast of {n} points", goals, rounds)


def growth(sizes: tuple[int, ...]) -> list[Row]:
    """By how much the extra peak of the dual-view contrast grows where N doubles; the worst doubling counts."""
    peaks = {n: extra_peak_mib("dual", "ours", n) for n in sizes}
    worst = max(sizes[1:], key=lambda n: peaks[n] / peaks[n // 2])
    curve = ", ".join(f"{n}: {peak:.1f}" for n, peak in peaks.items())
    problem = DualView(sizes[0])
    distance = problem.ours().distance(problem.reference())
    return [
        Row(
            bar="P4",
            what=f"dual-view contrast, growth of the extra peak where N doubles, {sizes[0]} to {sizes[-1]}",
            peer="itself at half the points",
            ours=peaks[worst],
            theirs=peaks[worst // 2],
            unit="MiB",
            ratio=peaks[worst] / peaks[worst // 2],
            floor="<= 2.1",
            target="<= 2.0",
            check=f"MiB by N: {curve}; within {distance:.0e} of float64 at {sizes[0]}",
            equal=distance <= TOLERATED,
        )
    ]


def large(n: int) -> list[Row]:
    peak = extra_peak_mib("multi", "ours", n) / 1024
    problem = MultiView(n)
    seconds, outcomes = take_turns({"ours": problem.ours}, rounds=1, warmups=0)
    distance = outcomes["ours"].distance(problem.reference())
    return [
        Row(
            bar="P5",
            what=f"multi-view contrast of {n} points: extra peak memory",
            peer="(absolute)",
            ours=peak,
            theirs=peak,
            unit="GiB",
            ratio=peak,
            floor="<= 1",
            target="<= 0.3",
            check=f"loss and gradients within {distance:.0e} of float64; {seconds['ours']:.1f} s a step",
            equal=distance <= TOLERATED,
        )
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "goals", nargs="*", metavar="GOAL", help=f"some of: {', '.join(GOALS)}; all where none is named"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", nargs=3, metavar=("WORK", "CONTESTANT", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        work, contestant, n = options.peak_of
        WORK[work](256).contestants[contestant]()  # what any call needs once
        print(peak_growth_mib(WORK[work](int(n)).contestants[contestant]))
        return 0
    if unknown := set(options.goals) - set(GOALS):
        parser.error(f"no such goal: {', '.join(sorted(unknown))}")
    goals = options.goals or GOALS
    rows: list[Row] = []
    if {"P1", "P1m", "P2"} & set(goals):
        rows += dual(8000, options.rounds)
    if "P3" in goals:
        rows += multi(6000, options.rounds)
    if "P4" in goals:
        rows += growth((4000, 8000, 16_000, 32_000))
    if "P5" in goals:
        rows += large(40_000)
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
