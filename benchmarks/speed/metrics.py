"""P17, P18, P18m: Dice, HD95, ASSD and NSD against MONAI, medpy and surface-distance.

Each peer is compared with us under its own convention, and its values must agree to 1e-4; medpy measures no NSD.
The cardiac cases are four frames of ACDC (rings and discs of the same size where it is absent), the prediction is
the reference moved and bitten into; the large volume is 200 x 512 x 512 with five classes. Peak memory is the growth
of the resident set of a fresh process beside the two label maps. MONAI takes half a minute on the volume, so that
one has no warm-up round of its own.
"""

from measuring import ROOT, Row, child_peak_mib, peak_growth_mib, peer, record, take_turns  # isort: skip  (one thread)

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
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


GOALS = {
    ("P17", "MONAI"): ("8", "12"),
    ("P17", "medpy"): ("20", "30"),
    ("P17", "surface-distance"): ("2.5", "3.5"),
    ("P18", "MONAI"): ("50", "100"),
    ("P18", "surface-distance"): ("3", "5"),
}


def importable_peers() -> list[str]:
    if not hasattr(np, "Inf"):
        # surface-distance 0.1 was written for NumPy 1 and stops at names that NumPy 2 no longer has
        for name, value in (("Inf", np.inf), ("NaN", np.nan)):
            setattr(np, name, value)
        print("surface-distance: numpy.Inf and numpy.NaN are set for it")
    return [name for name, (module, _, _) in PEERS.items() if peer(module) is not None]


def cardiac_pairs() -> list[Pair]:
    """Four cases of about 10 slices with three classes."""
    data = Path(os.environ.get("SCANTLING_DATA", ROOT.parent / "shared" / "data"))
    paths = sorted((data / "acdc").glob("*/*_gt.nii.gz"))[:4]
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


def rings_pair() -> Pair:
    return degraded(*rings(0))


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


def worst_difference(pairs: Sequence[Pair], theirs: Sequence[Scores], mine: Sequence[Scores]) -> float:
    """The largest relative difference (absolute below 1) between a peer's values and ours by its convention."""
    return max(
        abs(value - own[key]) / max(1.0, abs(value))
        for other, own in zip(theirs, mine, strict=True)
        for key, value in other.items()
    )


def compare(
    bar: str, what: str, pairs: Sequence[Pair], n_classes: int, *, rounds: int, warmups: int, names: Sequence[str]
) -> list[Row]:
    contestants: dict[str, Contestant] = {}
    for name in names:
        _, contestant, counterpart = PEERS[name]
        contestants |= {f"ours as {name}": counterpart, name: contestant}
    seconds, results = take_turns(
        {name: lambda each=each: [each(pair, n_classes) for pair in pairs] for name, each in contestants.items()},
        rounds=rounds,
        warmups=warmups,
    )
    rows = []
    for name in names:
        theirs, ours = (seconds[each] * 1000 / len(pairs) for each in (name, f"ours as {name}"))
        difference = worst_difference(pairs, results[name], results[f"ours as {name}"])
        floor, target = GOALS[bar, name]
        rows.append(
            Row(
                bar=bar,
                what=what,
                peer=name,
                ours=ours,
                theirs=theirs,
                unit="ms a case",
                ratio=theirs / ours,
                floor=floor,
                target=target,
                check=f"values differ by at most {difference:.0e}",
                equal=difference <= TOLERATED,
            )
        )
    return rows


def peaks(names: Sequence[str], agreeing: Sequence[str]) -> list[Row]:
    growth = {name: child_peak_mib(__file__, "--peak-of", name) for name in ("ours", *names)}
    return [
        Row(
            bar="P18m",
            what="metrics of 200 x 512 x 512, 5 classes: peak memory",
            peer=name,
            ours=growth["ours"],
            theirs=growth[name],
            unit="MiB",
            ratio=growth[name] / growth["ours"],
            floor="15" if name == "MONAI" else "",
            target="40" if name == "MONAI" else "",
            check="values agree (P18)" if name in agreeing else "values DIFFER (P18)",
            equal=name in agreeing,
        )
        for name in names
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cardiac-only", action="store_true", help="leave out the large volume, which takes minutes")
    parser.add_argument("--peak-of", choices=["ours", *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = importable_peers()
    if options.peak_of:
        contestant = ours if options.peak_of == "ours" else PEERS[options.peak_of][1]
        contestant(rings_pair(), 3)  # imports and buffers that any call needs
        pair = volume_pair()
        print(peak_growth_mib(lambda: contestant(pair, 5)))
        return 0
    rows = compare("P17", "metrics, cardiac, 3 classes", cardiac_pairs(), 3, rounds=7, warmups=1, names=names)
    if not options.cardiac_only:
        large = [name for name in names if name != "medpy"]  # it takes minutes a case
        what = "metrics, 200 x 512 x 512, 5 classes"
        rows += compare("P18", what, [volume_pair()], 5, rounds=5, warmups=0, names=large)
        rows += peaks(large, [row.peer for row in rows if row.bar == "P18" and row.equal])
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
