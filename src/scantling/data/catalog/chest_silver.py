"""Silver labels of the chest phantom: masks as an automatic method gets them wrong, and how wrong."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Integer, UInt8
from scipy.ndimage import shift

from scantling.data.catalog.chest_anatomy import ChestAnatomy, chest_label_map
from scantling.data.catalog.chest_render import Finding, hidden_by_fluid
from scantling.data.simulate import displaced, dropped, leaked, smoothed
from scantling.seeding import numpy_generator

FAILURE_RATES: Final = {
    "stops_at_fluid": 0.8,  # of the cases with an effusion
    "leaks_below": 0.25,  # of the other cases with an effusion, and of those without one a fifth as often
    "missing_part": 0.08,
    "shifted": 0.08,
    "merged_lungs": 0.06,
    "over_smoothed": 0.12,
}


def silver_chest_label_map(
    anatomy: ChestAnatomy, *, finding: Finding = "none", key: str, size: int = 128
) -> tuple[UInt8[np.ndarray, "y x"], float]:
    """A silver label map and its true quality: the mean Dice of its three classes, in [0, 1].

    Every border is slightly off. Some masks also fail as a method does that only sees air: the lung ends at
    the fluid, leaks into the abdomen, loses a part, is shifted, runs together with the other lung, or is
    smoothed until its angles are gone.

    Args:
        finding: what the method saw; the truth does not depend on it.
        key: names the draws; usually seed and case.
    """
    truth = chest_label_map(anatomy, size=size)
    rng = numpy_generator(0, "chest-silver", key, size)
    pixel = size / 128
    fails = {name: bool(rng.random() < rate) for name, rate in FAILURE_RATES.items()}
    wanted = truth.astype(np.int16)
    has_fluid = finding == "effusion"

    if has_fluid and fails["stops_at_fluid"]:
        wanted[hidden_by_fluid(anatomy, size=size) & (wanted != 3)] = 0
    elif fails["leaks_below"] and (has_fluid or rng.random() < 0.2):
        wanted = leaked(wanted, rng, value=int(rng.integers(1, 3)), radius_px=float(rng.uniform(8, 18)) * pixel)
    if fails["missing_part"]:
        wanted = dropped(wanted, rng, value=int(rng.integers(1, 4)), share=float(rng.uniform(0.25, 0.7)))
    if fails["merged_lungs"]:
        other = int(rng.integers(1, 3))
        wanted[_bridge(wanted, rng)] = other
    if fails["shifted"]:
        wanted = shift(wanted, rng.uniform(-6, 6, 2) * pixel, order=0, mode="constant")
    wanted = displaced(wanted, rng, displacement_px=float(rng.uniform(0.5, 1.4)) * pixel, smoothness_px=7 * pixel)
    sigma_px = float(rng.uniform(3.0, 5.0) if fails["over_smoothed"] else rng.uniform(0.6, 1.2)) * pixel
    silver = smoothed(wanted, sigma_px=sigma_px).astype(np.uint8)
    return silver, mean_dice(silver, truth)


def mean_dice(first: Integer[np.ndarray, "y x"], second: Integer[np.ndarray, "y x"]) -> float:
    """Mean Dice of classes 1 to 3; a class absent from both counts 1."""
    scores = []
    for value in (1, 2, 3):
        one, other = first == value, second == value
        total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
        scores.append(2 * int(np.count_nonzero(one & other)) / total if total else 1.0)
    return sum(scores) / len(scores)


def _bridge(label_map: Integer[np.ndarray, "y x"], rng: np.random.Generator) -> np.ndarray:
    """The gap between the lungs over a third of their height, plus a strip of one of them."""
    lungs = (label_map == 1) | (label_map == 2)
    rows = np.flatnonzero(lungs.any(axis=1))
    bridge = np.zeros_like(lungs)
    if rows.size:
        first = int(rows[0] + rng.uniform(0, 0.6) * rows.size)
        for row in range(first, min(int(rows[-1]), first + rows.size // 3)):
            right, left = np.flatnonzero(label_map[row] == 1), np.flatnonzero(label_map[row] == 2)
            if right.size and left.size and right[-1] < left[0]:
                reach = max(1, right.size // 4)
                bridge[row, max(0, right[-1] - reach) : left[0] + reach] = True
    return np.asarray(bridge)
