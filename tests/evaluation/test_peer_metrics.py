"""Dice, HD95, ASSD and NSD of other tools on the same masks (extra `oracles`)."""

from __future__ import annotations

import importlib
import types
import warnings

import numpy as np
import pytest

from evaluation import surface_oracle as oracle
from scantling.evaluation.overlap import dice
from scantling.evaluation.surface import (
    average_surface_distance,
    hausdorff_distance,
    surface_dice,
    surface_distances,
)
from scantling.evaluation.surface_area import area_table

N_PAIRS = 60


def peer(name: str) -> types.ModuleType:
    """A peer's module; its own warnings are not ours to answer for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0], exc_type=ImportError)
        return importlib.import_module(name)


def pairs() -> list[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    rng = np.random.default_rng(40)
    found = []
    for number in range(N_PAIRS):
        shape = [(12, 9), (5, 8, 7), (10, 12, 12)][number % 3]
        spacing = tuple(float(mm) for mm in rng.choice([0.8, 1.0, 1.5625, 10.0], len(shape)))
        found.append((oracle.random_mask(rng, shape), oracle.random_mask(rng, shape), spacing))
    return found


@pytest.mark.filterwarnings("ignore")
def test_monai_gives_the_same_dice_hd95_assd_and_nsd() -> None:
    metrics, torch = peer("monai.metrics"), peer("torch")
    for first, second, spacing in pairs():
        a, b = (torch.from_numpy(mask)[None, None].float() for mask in (first, second))
        found = surface_distances(first, second, spacing)
        counts = (first & second).sum(), (first & ~second).sum(), (~first & second).sum()
        assert dice(*counts) == pytest.approx(float(metrics.compute_dice(a, b)), rel=1e-4)
        hd95 = metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
        assert hausdorff_distance(found) == pytest.approx(float(hd95), rel=1e-4, abs=1e-6)
        nsd = metrics.compute_surface_dice(a, b, class_thresholds=[1.2], include_background=True, spacing=spacing)
        assert surface_dice(found, tolerance_mm=1.2) == pytest.approx(float(nsd), abs=1e-4)
        assd = metrics.compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
        assert average_surface_distance(found) == pytest.approx(float(assd), rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_medpy_gives_the_same_hd95_and_assd() -> None:
    binary = peer("medpy.metric.binary")
    for first, second, spacing in pairs():
        found = surface_distances(first, second, spacing, convention="medpy")
        assert hausdorff_distance(found) == pytest.approx(binary.hd95(first, second, voxelspacing=spacing), rel=1e-4)
        assert average_surface_distance(found) == pytest.approx(
            binary.assd(first, second, voxelspacing=spacing), rel=1e-4
        )


@pytest.mark.filterwarnings("ignore")
def test_surface_distance_gives_the_same_hd95_averages_and_nsd(monkeypatch: pytest.MonkeyPatch) -> None:
    for old, new in (("Inf", np.inf), ("NaN", np.nan)):  # release 0.1 needs names NumPy 2 has dropped
        monkeypatch.setattr(np, old, new, raising=False)
    module = peer("surface_distance")
    for first, second, spacing in pairs():
        if first.ndim == 2:  # release 0.1 knows volumes only
            continue
        theirs = module.compute_surface_distances(second, first, spacing)
        found = surface_distances(first, second, spacing, convention="deepmind")
        assert hausdorff_distance(found) == pytest.approx(module.compute_robust_hausdorff(theirs, 95), rel=1e-4)
        directed = module.compute_average_surface_distance(theirs)
        assert average_surface_distance(found, average="directed") == pytest.approx(sum(directed) / 2, rel=1e-4)
        nsd = module.compute_surface_dice_at_tolerance(theirs, 1.2)
        assert surface_dice(found, tolerance_mm=1.2) == pytest.approx(nsd, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_surface_distance_has_the_same_area_for_each_of_the_256_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for old, new in (("Inf", np.inf), ("NaN", np.nan)):
        monkeypatch.setattr(np, old, new, raising=False)
    tables = peer("surface_distance.lookup_tables")
    order = np.asarray(tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL).ravel().tolist()
    for spacing in ((1.0, 1.0, 1.0), (10.0, 1.5625, 1.5625), (0.5, 3.0, 2.0)):
        theirs = np.asarray(tables.create_table_neighbour_code_to_surface_area(spacing))
        ours = area_table(spacing)
        for code in range(256):
            their_code = sum(int(order[bit]) for bit in range(8) if code >> bit & 1)
            assert ours[code] == pytest.approx(theirs[their_code], rel=1e-6)
