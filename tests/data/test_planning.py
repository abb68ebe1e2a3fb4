from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from scantling.data.case import ClassTable
from scantling.data.fingerprint import CeilingFact, ChannelFacts, ClassFacts, Fingerprint, fingerprint
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.planning import derive_plan
from scantling.errors import ConfigError

MANIFEST = Manifest(root=Path(), name="made_up", layout="pairs", classes=ClassTable.of({"organ": 1}), cases=())


def channel(**changes):
    values = {
        "integer": True, "minimum": 0.0, "maximum": 900.0, "percentile_00_5": 1.0, "median": 100.0,
        "percentile_99_5": 800.0, "mean": 120.0, "std": 90.0, "zero_fraction": 0.0, "foreground_mean": 200.0,
        "foreground_std": 50.0, "foreground_percentile_00_5": 90.0, "foreground_percentile_99_5": 310.0,
    }  # fmt: skip
    return ChannelFacts(**(values | changes))


def facts(shape=(100, 120, 110), spacing=(1.0, 1.0, 1.0), ceiling=(), **changes):
    values = {
        "dataset": "made_up", "modality": "MR", "cases": 3, "measured": ("a", "b", "c"), "labelled": 3,
        "image_axes": len(shape), "axis_order": tuple(range(len(shape))), "file_types": ("nifti",),
        "spacing_known": True, "shapes": (shape,) * 3, "spacings_mm": (spacing,) * 3,
        "median_shape": tuple(map(float, shape)), "median_spacing_mm": spacing, "spacing_10_mm": spacing,
        "spacing_90_mm": spacing, "anisotropy": max(spacing) / min(spacing), "channels": (channel(),),
        "classes": (ClassFacts(name="organ", cases=3, voxel_fraction=0.1, volume_mm=9.0, extent_mm=spacing),),
        "foreground_extent_mm": tuple(n * mm for n, mm in zip(shape, spacing, strict=True)),
        "label_ceiling": tuple(CeilingFact(factor=f, mean_dice=d) for f, d in ceiling),
    }  # fmt: skip
    return Fingerprint.model_validate(values | changes)


FLAT_CEILING = ((1.25, 0.999), (1.5, 0.998), (2.0, 0.996), (2.5, 0.994), (3.0, 0.992))


@pytest.mark.parametrize(
    ("shape", "spacing", "dimensions"),
    [
        ((512, 400), (1.0, 1.0), 2),
        ((100, 120, 110), (1.0, 1.0, 1.0), 3),
        ((40, 256, 256), (3.0, 1.0, 1.0), 3),
        ((20, 256, 256), (3.6, 1.0, 1.0), 2),
        ((10, 256, 256), (10.0, 1.0, 1.0), 2),
        ((5, 256, 256), (1.0, 1.0, 1.0), 2),
    ],
)
def test_cubic_voxels_give_a_3d_network_and_thick_or_few_slices_a_2d_one(shape, spacing, dimensions):
    plan = derive_plan(facts(shape, spacing), MANIFEST)
    assert plan.dimensions == dimensions
    assert len(plan.patch_size) == len(plan.network.strides[0]) == dimensions
    assert plan.image_axes == len(shape) == len(plan.spacing_mm)
    assert f"{dimensions}D network" in plan.reasons["dimensions"]
    if dimensions < len(shape):
        assert plan.spacing_mm[0] is None


def test_an_anisotropic_3d_plan_takes_the_finer_slices_and_a_forced_2d_plan_keeps_them():
    thick = facts((40, 256, 256), (3.2, 1.0, 1.0), spacing_10_mm=(2.5, 0.9, 0.9))
    assert derive_plan(thick, MANIFEST, dimensions=3).spacing_mm == (2.5, 1.0, 1.0)
    plan = derive_plan(thick, MANIFEST, dimensions=2)
    assert plan.spacing_mm == (None, 1.0, 1.0)
    assert plan.reasons["dimensions"] == "2D network, as asked"


@pytest.mark.parametrize(
    ("side", "ceiling", "device", "factor"),
    [
        (512, FLAT_CEILING, "cpu", 2.5),
        (1024, FLAT_CEILING, "cpu", 3.0),
        (256, FLAT_CEILING, "cpu", 1.25),
        (160, FLAT_CEILING, "cpu", 1.0),
        (512, ((1.25, 0.99), (1.5, 0.98), (2.0, 0.97), (2.5, 0.96), (3.0, 0.95)), "cpu", 1.25),
        (512, ((1.25, 0.95), (1.5, 0.93), (2.0, 0.9), (2.5, 0.85), (3.0, 0.8)), "cpu", 1.0),
        (512, FLAT_CEILING, "cuda", 1.0),
        (512, (), "cpu", 1.0),
    ],
)
def test_a_cpu_plan_is_coarser_only_as_far_as_labels_and_size_allow(side, ceiling, device, factor):
    plan = derive_plan(facts((side, side), (0.5, 0.5), ceiling), MANIFEST, device_kind=device)
    assert plan.spacing_mm == (0.5 * factor, 0.5 * factor)
    assert ("for speed on a CPU" in plan.reasons["spacing_mm"]) == (factor > 1)


def test_intensities_follow_the_modality():
    def scheme(**changes):
        return derive_plan(facts(**changes), MANIFEST).intensities[0]

    ct = scheme(modality="CT")
    assert (ct.scheme, ct.low, ct.high, ct.mean, ct.std) == ("window", 90.0, 310.0, 200.0, 50.0)
    bare = channel(foreground_mean=None, foreground_std=None, foreground_percentile_00_5=None,
                   foreground_percentile_99_5=None)  # fmt: skip
    unlabelled = scheme(modality="CT", channels=(bare,))
    assert (unlabelled.low, unlabelled.high, unlabelled.mean, unlabelled.std) == (1.0, 800.0, 120.0, 90.0)
    assert scheme(modality="MR").scheme == "percentile"
    assert not scheme(modality="MR").nonzero_only
    assert scheme(modality="MR", channels=(channel(zero_fraction=0.6),)).nonzero_only
    picture = {"shape": (300, 300), "spacing": (1.0, 1.0), "file_types": ("png",), "modality": "CR"}
    assert scheme(**picture, channels=(channel(maximum=255.0),)).scheme == "range"
    assert scheme(**picture, channels=(channel(maximum=40_000.0),)).scheme == "percentile"


def test_channels_are_named_and_each_has_its_intensities():
    colour = derive_plan(facts((300, 300), (1.0, 1.0), channels=(channel(),) * 3), MANIFEST)
    assert colour.channels == ("red", "green", "blue")
    assert len(colour.intensities) == 3
    assert derive_plan(facts((300, 300), (1.0, 1.0), channels=(channel(),) * 2), MANIFEST).channels == (
        "channel_0", "channel_1",
    )  # fmt: skip


def test_what_is_asked_for_is_done_and_what_cannot_be_is_refused():
    plan = derive_plan(
        facts(), MANIFEST, spacing_mm=(2.0, None, 1.5), patch_size=(30, 40, 50), batch_size=5,
        label_kinds=("scribble", "full"),
    )  # fmt: skip
    assert plan.spacing_mm == (2.0, None, 1.5)
    assert plan.patch_size == (32, 40, 56)
    assert plan.batch_size == 5
    assert plan.label_kinds == ("scribble", "full")
    assert plan.reasons["spacing_mm"] == plan.reasons["batch_size"] == "as asked"
    flat = facts((300, 300), (1.0, 1.0))
    for wrong in ({"dimensions": 3}, {"dimensions": 4}, {"spacing_mm": (1.0,)}, {"spacing_mm": (1.0, -1.0)},
                  {"patch_size": (32,)}, {"batch_size": 0}):  # fmt: skip
        with pytest.raises(ConfigError, match=r"wanted|use dimensions"):
            derive_plan(flat, MANIFEST, **wrong)


def test_a_plan_is_json_that_reads_back_and_says_why():
    plan = derive_plan(facts(), MANIFEST, device_kind="cuda", memory_gb=24.0)
    assert Plan.parse(json.loads(plan.model_dump_json()), where="test") == plan
    decided = {"dimensions", "axis_order", "spacing_mm", "patch_size", "batch_size", "intensities", "network"}
    assert decided | {"mirror_axes"} == set(plan.reasons)
    assert plan.mirror_axes == ()


@pytest.mark.parametrize(
    ("name", "dimensions", "patch", "spacing"),
    [
        ("hippocampus", 3, (40, 56, 40), (1.0, 1.0, 1.0)),
        ("acdc", 2, None, (None, 1.5, 1.5)),
        ("cxr", 2, (208, 208), (2.5, 2.5)),
        ("retina", 2, (256, 256), (1.0, 1.0)),
    ],
)
def test_real_data_sets_get_the_plan_an_expert_would_choose(shared_data, name, dimensions, patch, spacing):
    manifest = open_dataset(shared_data / name)
    plan = derive_plan(fingerprint(manifest, manifest.labelled(("full",)), max_cases=12), manifest)
    assert plan.dimensions == dimensions
    for mm, wanted in zip(plan.spacing_mm, spacing, strict=True):
        assert mm == (None if wanted is None else pytest.approx(wanted, rel=0.1))
    if patch is not None:
        assert plan.patch_size == patch
    else:
        assert all(160 <= n <= 192 for n in plan.patch_size)
    assert math.prod(plan.patch_size) * plan.batch_size < 600_000
