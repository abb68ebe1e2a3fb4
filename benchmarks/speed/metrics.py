"""Dice, HD95, ASSD and NSD against MONAI, medpy and surface-distance: CPU time, peak memory, equality.

Run by hand: `OMP_NUM_THREADS=1 python benchmarks/speed/metrics.py [--acdc FOLDER] [--volume]`; peers that
cannot be imported are left out (extra `oracles`). Contestants take turns in one process with one thread, and the
median of the rounds is reported; medpy measures no NSD. Each peer is compared with us under its own convention,
and the command ends with 1 where a value differs by more than 1e-4. Without ACDC the cardiac cases are rings and
discs of the same size. Peak memory is the growth of the resident set of a fresh process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from scipy import ndimage

from scantling.data.case import ClassTable
from scantling.data.image_io import read_label
from scantling.evaluation.evaluate import evaluate_pair
from scantling.evaluation.surface import Average, Convention

TOLERANCE_MM = 1.0
TOLERATED = 1e-4
Pair = tuple[np.ndarray, np.ndarray, tuple[float, ...]]
Scores = dict[tuple[int, str], float]


def ours(pair: Pair, n_classes: int, convention: Convention = "monai", average: Average = "pooled") -> Scores:
    prediction, reference, spacing = pair
    table = ClassTable.of({f"class {k}": k for k in range(1, n_classes + 1)})
    rows = evaluate_pair(
        prediction, reference, spacing_mm=spacing, classes=table, tolerance_mm=TOLERANCE_MM,
        convention=convention, average=average,
    )  # fmt: skip
    wanted = {"dice", "hd95_mm", "assd_mm", "nsd"}
    return {
        (table.index(row.class_name), row.metric): row.value
        for row in rows
        if row.metric in wanted and row.class_name in table.names
    }


def ours_medpy(pair: Pair, n_classes: int) -> Scores:
    return ours(pair, n_classes, "medpy")


def ours_deepmind(pair: Pair, n_classes: int) -> Scores:
    return ours(pair, n_classes, "deepmind", "directed")


def monai(pair: Pair, n_classes: int) -> Scores:
    import torch
    from monai import metrics

    prediction, reference, spacing = pair
    one_hot = [
        torch.stack([torch.from_numpy(label_map == k) for k in range(n_classes + 1)])[None].float()
        for label_map in (prediction, reference)
    ]
    options = {"include_background": False, "spacing": spacing}
    dice = metrics.compute_dice(*one_hot, include_background=False)[0]
    hd95 = metrics.compute_hausdorff_distance(*one_hot, percentile=95, **options)[0]
    assd = metrics.compute_average_surface_distance(*one_hot, symmetric=True, **options)[0]
    nsd = metrics.compute_surface_dice(*one_hot, class_thresholds=[TOLERANCE_MM] * n_classes, **options)[0]
    columns = {"dice": dice, "hd95_mm": hd95, "assd_mm": assd, "nsd": nsd}
    return {(k + 1, name): float(values[k]) for name, values in columns.items() for k in range(n_classes)}


def medpy(pair: Pair, n_classes: int) -> Scores:
    from medpy.metric import binary

    prediction, reference, spacing = pair
    scores: Scores = {}
    for k in range(1, n_classes + 1):
        masks = prediction == k, reference == k
        scores[k, "dice"] = binary.dc(*masks)
        scores[k, "hd95_mm"] = binary.hd95(*masks, voxelspacing=spacing)
        scores[k, "assd_mm"] = binary.assd(*masks, voxelspacing=spacing)
    return scores


def surface_distance(pair: Pair, n_classes: int) -> Scores:
    import surface_distance as peer

    prediction, reference, spacing = pair
    scores: Scores = {}
    for k in range(1, n_classes + 1):
        masks = reference == k, prediction == k
        found = peer.compute_surface_distances(*masks, spacing)
        scores[k, "dice"] = peer.compute_dice_coefficient(*masks)
        scores[k, "hd95_mm"] = peer.compute_robust_hausdorff(found, 95)
        scores[k, "assd_mm"] = sum(peer.compute_average_surface_distance(found)) / 2
        scores[k, "nsd"] = peer.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)
    return scores


Contestant = Callable[[Pair, int], Scores]
PEERS: dict[str, tuple[str, Contestant, Contestant]] = {
    "MONAI": ("monai.metrics", monai, ours),
    "medpy": ("medpy.metric.binary", medpy, ours_medpy),
    "surface-distance": ("surface_distance", surface_distance, ours_deepmind),
}
"""Name -> module, the peer, and what is ours by the peer's convention."""


def importable_peers() -> dict[str, tuple[Contestant, Contestant]]:
    np.inf, np.nan = np.inf, np.nan  # type: ignore[attr-defined]  # surface-distance 0.1 needs them
    found = {}
    for name, (module, contestant, counterpart) in PEERS.items():
        try:
            __import__(module)
        except ImportError as error:
            print(f"{name}: left out ({error})")
        else:
            found[name] = (contestant, counterpart)
    return found


def cardiac_pairs(acdc: Path | None) -> list[Pair]:
    """Four cases of 10 slices with three classes; the prediction is the reference moved and bitten into."""
    paths = sorted(acdc.glob("*/*_gt.nii.gz"))[:4] if acdc else []
    references = [read_label(path) for path in paths]
    maps = [(stored.astype(np.int8), geometry.spacing_mm) for stored, geometry in references]
    return [degraded(reference, spacing) for reference, spacing in maps or [rings(k) for k in range(4)]]


def rings(number: int) -> tuple[np.ndarray, tuple[float, ...]]:
    z, y, x = np.ogrid[:10, :256, :216]
    label_map = np.zeros((10, 256, 216), dtype=np.int8)
    radius = 24 - 1.5 * np.abs(z - 4) + number
    label_map[(y - 128) ** 2 + (x - 70) ** 2 < (radius + 4) ** 2] = 1
    label_map[(y - 128) ** 2 + (x - 110) ** 2 < (radius + 8) ** 2] = 2
    label_map[(y - 128) ** 2 + (x - 110) ** 2 < radius**2] = 3
    return label_map, (10.0, 1.5625, 1.5625)


def degraded(reference: np.ndarray, spacing: tuple[float, ...]) -> Pair:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=reference.shape), (0, 3, 3))
    prediction = np.roll(reference, (2, 1), axis=(1, 2))
    prediction[noise > 0.12] = 0
    return prediction, reference, spacing


def volume_pair() -> Pair:
    """200 x 512 x 512 with five wavy organs of 6 % of the volume, moved and deformed by about a voxel."""
    shape = (200, 512, 512)
    z, y, x = (axis.astype(np.float32) for axis in np.ogrid[: shape[0], : shape[1], : shape[2]])
    organs = [
        ((90, 200, 150), (70, 90, 80)), ((110, 300, 360), (35, 40, 35)), ((110, 300, 160), (35, 40, 35)),
        ((60, 150, 350), (30, 40, 40)), ((120, 250, 256), (60, 12, 12)),
    ]  # fmt: skip
    maps = []
    for shift in (1.0, 0.0):
        label_map = np.zeros(shape, dtype=np.int8)
        wave = 1 + 0.03 * np.sin(x / 9 + shift) + 0.03 * np.cos(y / 7 + 2 * shift)
        wave = wave + 0.02 * np.sin(z / 5 - shift)
        for k, (centre, radius) in enumerate(organs, start=1):
            offsets = z - centre[0] - shift, y - centre[1] + shift, x - centre[2] - shift
            label_map[sum((d / r) ** 2 for d, r in zip(offsets, radius, strict=True)) < wave] = k
        maps.append(label_map)
    return maps[0], maps[1], (1.0, 0.8, 0.8)


def cpu_seconds(contestant: Contestant, pairs: Sequence[Pair], n_classes: int) -> float:
    began = time.process_time()
    for pair in pairs:
        contestant(pair, n_classes)
    return (time.process_time() - began) / len(pairs)


def worst_difference(pairs: Sequence[Pair], n_classes: int, peer: Contestant, counterpart: Contestant) -> float:
    """The largest relative difference (absolute below 1) between a peer's values and ours by its convention."""
    worst = 0.0
    for pair in pairs:
        theirs, mine = peer(pair, n_classes), counterpart(pair, n_classes)
        for key, value in theirs.items():
            worst = max(worst, abs(value - mine[key]) / max(1.0, abs(value)))
    return worst


def compare(title: str, pairs: Sequence[Pair], n_classes: int, rounds: int, peers: Sequence[str]) -> bool:
    """Print the table; whether every peer's values agree with ours."""
    print(f"\n{title}: CPU time a case, median of {rounds}")
    chosen = {name: contestants for name, contestants in importable_peers().items() if name in peers}
    contestants: dict[str, Contestant] = {"ours": ours}
    for name, (peer, counterpart) in chosen.items():
        contestants |= {name: peer, f"ours as {name}": counterpart}
    for contestant in contestants.values() if rounds > 1 else ():
        contestant(pairs[0], n_classes)  # warm-up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            times[name].append(cpu_seconds(contestant, pairs, n_classes))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(f"  {'ours':<18}{medians['ours'] * 1000:10.1f} ms")
    agree = True
    for name, (peer, counterpart) in chosen.items():
        difference = worst_difference(pairs, n_classes, peer, counterpart)
        agree &= difference <= TOLERATED
        mine = medians[f"ours as {name}"]
        print(
            f"  {name:<18}{medians[name] * 1000:10.1f} ms, {medians[name] / mine:6.1f} x ours by its convention "
            f"({mine * 1000:.1f} ms); values differ by at most {difference:.1e}"
        )
    return agree


def peak_growth_mib(contestant: Contestant, pair: Pair, n_classes: int) -> float:
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = before

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    contestant(pair, n_classes)
    done.set()
    watcher.join()
    return (max(peak, process.memory_info().rss) - before) / 2**20


def print_peaks(names: Sequence[str]) -> None:
    print("\n200 x 512 x 512, 5 classes: peak memory beside the two label maps")
    for name in names:
        command = [sys.executable, __file__, "--peak-of", name]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"  {name:<18}{float(answer):10.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acdc", type=Path, help="folder of the ACDC data set")
    parser.add_argument("--volume", action="store_true", help="also 200 x 512 x 512 with five classes (minutes)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--volume-rounds", type=int, default=1)
    parser.add_argument("--peak-of", choices=["ours", *PEERS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.peak_of:
        contestant = ours if arguments.peak_of == "ours" else importable_peers()[arguments.peak_of][0]
        contestant(cardiac_pairs(None)[0], 3)  # imports and buffers that any call needs
        print(peak_growth_mib(contestant, volume_pair(), 5))
        return 0
    agree = compare("10 slices, 3 classes", cardiac_pairs(arguments.acdc), 3, arguments.rounds, list(PEERS))
    if arguments.volume:
        peers = ["MONAI", "surface-distance"]  # medpy takes minutes a case
        agree &= compare("200 x 512 x 512, 5 classes", [volume_pair()], 5, arguments.volume_rounds, peers)
        print_peaks(["ours", *(name for name in importable_peers() if name in peers)])
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
