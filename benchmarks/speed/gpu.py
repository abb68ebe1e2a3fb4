"""G1 and G2: the contrast of pixels on a CUDA device, checked and timed; without one it says so and ends with 0.

G1 is the dual-view contrast of 8000 points against DVD-CL's formula on the same device, in whatever precision that is
fastest in. G2 is the contrast of all pixels of 8 images of 112 x 112 in two views, N = 100,352, which the dense form
would need about 450 GiB for. Ours runs by the block kernels and by tiles, in two precisions each; the goals are
those of the fastest. Each is checked against the float64 form at the size that is timed. Times are medians of CUDA
events over rounds in which each contestant runs once, after kernels were compiled; memory is what the allocator
handed out beyond the inputs.

`--rehearse` runs all of it small on the processor and records nothing.
"""

from measuring import Row, record  # isort: skip  (sets the number of threads first)

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from contrast import OFFICIAL_DUAL, DualView, Outcome
from scantling.losses import fused

ROUNDS = 30
WARMUPS = 5
ALL_PIXELS = 8 * 112 * 112


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of our ways to the same loss.

    Attributes:
        embeddings: their type; the kernels multiply in it.
        kernels: by the block kernels, else by tiles.
        products: what `torch.set_float32_matmul_precision` is told, for the tiles.
        tolerated: the largest difference from float64 that the precision explains.
    """

    embeddings: torch.dtype = torch.float32
    kernels: bool = True
    products: str = "highest"
    tolerated: float = 1e-5


WAYS = {
    "float32 kernels": Way(),
    "bfloat16 kernels": Way(embeddings=torch.bfloat16, tolerated=2e-2),
    "float32 tiles": Way(kernels=False),
    "TF32 tiles": Way(kernels=False, products="high", tolerated=5e-3),
}


@contextmanager
def told(way: Way) -> Iterator[None]:
    """Under the settings of a way."""
    before, kernels_for = torch.get_float32_matmul_precision(), fused.kernels_for
    torch.set_float32_matmul_precision(way.products)
    if not way.kernels:
        fused.kernels_for = lambda vectors: None
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        fused.kernels_for = kernels_for


def ours(n: int, device: str) -> dict[str, Callable[[], Outcome]]:
    """Our contrast in each way that this device has."""

    def contestant(problem: DualView, way: Way) -> Callable[[], Outcome]:
        def run() -> Outcome:
            with told(way):
                return problem.ours()

        return run

    found = {}
    for name, way in WAYS.items():
        problem = DualView(n, device, way.embeddings)
        if way.kernels and fused.kernels_for(problem.anchors) is None:
            print(f"{name}: left out, the kernels are not used on this device", flush=True)
        else:
            found[name] = contestant(problem, way)
    return found


def peers(n: int, device: str) -> dict[str, Callable[[], Outcome]]:
    """The dense form as it comes, with TF32 products, and under float16 autocast, which is how it was trained."""
    problem = DualView(n, device)

    def in_tf32() -> Outcome:
        with told(Way(products="high")):
            return problem.official()

    def in_half() -> Outcome:
        with torch.autocast(device, dtype=torch.float16):
            return problem.official()

    return {"peer, float32": problem.official, "peer, TF32": in_tf32, "peer, float16 autocast": in_half}


def milliseconds(contestants: Mapping[str, Callable[[], Outcome]], device: str, rounds: int) -> dict[str, float]:
    """The median of each over rounds in which each runs once; compiling and filling of caches come before."""
    for contestant in contestants.values():
        for _ in range(WARMUPS):
            contestant()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            times[name].append(_one_run(contestant, device))
    return {name: statistics.median(each) for name, each in times.items()}


def _one_run(contestant: Callable[[], Outcome], device: str) -> float:
    if device == "cpu":
        began = time.perf_counter()
        contestant()
        return 1000 * (time.perf_counter() - began)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    contestant()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def extra_peak_mib(contestant: Callable[[], Outcome], device: str) -> float:
    """What is allocated at most beyond what was before; 0 on the processor."""
    if device == "cpu":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contestant()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def distances(n: int, device: str, contestants: Mapping[str, Callable[[], Outcome]]) -> dict[str, float]:
    """How far each way's loss and gradients are from the float64 form's on the same embeddings."""
    found: dict[str, float] = {}
    for name, contestant in contestants.items():
        expected = DualView(n, device, WAYS[name].embeddings).reference()
        found[name] = contestant().distance(expected)
        print(said(name, found[name]), flush=True)
    return found


def said(name: str, distance: float) -> str:
    return f"{name}: loss and gradients within {distance:.0e} of float64 (tolerated {WAYS[name].tolerated:.0e})"


def against_the_dense_form(n: int, device: str, rounds: int) -> list[Row]:
    """G1: time and extra peak of ours in each way, against the fastest of the peer's."""
    mine, theirs = ours(n, device), peers(n, device)
    far = distances(n, device, mine)
    times = milliseconds(mine | theirs, device, rounds)
    fastest, best_peer = min(mine, key=times.__getitem__), min(theirs, key=times.__getitem__)
    peaks = {name: extra_peak_mib(each, device) for name, each in (mine | theirs).items()}
    print("  ".join(f"{name} {ms:.3f} ms {peaks[name]:.0f} MiB" for name, ms in times.items()), flush=True)
    rows = []
    for name in mine:
        goal = ("15", "40") if name == fastest else ("", "")
        check = f"{said(name, far[name])}; {best_peer}"
        equal = far[name] <= WAYS[name].tolerated
        what = f"dual-view contrast of {n} points, {name}"
        rows += [
            Row(
                bar="G1",
                what=what,
                peer=OFFICIAL_DUAL,
                ours=times[name],
                theirs=times[best_peer],
                unit="ms",
                ratio=times[best_peer] / times[name],
                floor=goal[0],
                target=goal[1],
                check=check,
                equal=equal,
            ),
            Row(
                bar="G1",
                what=f"{what}: extra peak memory",
                peer=OFFICIAL_DUAL,
                ours=peaks[name],
                theirs=peaks[best_peer],
                unit="MiB",
                ratio=peaks[best_peer] / max(peaks[name], 1e-9),
                floor="",
                target="",
                check=check,
                equal=equal,
            ),
        ]
    return rows


def all_pixels(n: int, device: str, rounds: int) -> list[Row]:
    """G2: milliseconds of one step of the loss over all pixels."""
    mine = ours(n, device)
    far = distances(n, device, mine)
    times = milliseconds(mine, device, rounds)
    fastest = min(mine, key=times.__getitem__)
    rows = []
    for name, each in mine.items():
        peak = extra_peak_mib(each, device)
        goal = ("<= 80", "<= 40") if name == fastest else ("", "")
        rows.append(
            Row(
                bar="G2",
                what=f"contrast of all pixels, {n} in each view, {name}",
                peer="(absolute)",
                ours=times[name],
                theirs=times[name],
                unit="ms",
                ratio=times[name],
                floor=goal[0],
                target=goal[1],
                check=f"{said(name, far[name])}; extra peak {peak:.0f} MiB",
                equal=far[name] <= WAYS[name].tolerated,
            )
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="small, on the processor, nothing is recorded")
    options = parser.parse_args()
    if options.rehearse:
        rows = [*against_the_dense_form(512, "cpu", 2), *all_pixels(2048, "cpu", 2)]
        print(*rows, sep="\n")
        return 0 if all(row.equal for row in rows) else 1
    if not torch.cuda.is_available():
        print("G1 and G2 need a CUDA device and this machine has none: nothing was measured, nothing was recorded")
        return 0
    rows = [*against_the_dense_form(8000, "cuda", ROUNDS), *all_pixels(ALL_PIXELS, "cuda", 10)]
    return record(rows, accelerator=torch.cuda.get_device_name())


if __name__ == "__main__":
    sys.exit(main())
