from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from counterfactuals.toy_image_model import MICRO, graph, greys, manifest, plan, write_pictures
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.counterfactuals.image_plan import MOST_VOXELS, ChannelScaling, ImagePlan, derive_image_plan
from scantling.data.case import Case
from scantling.errors import ConfigError, DataError


def preset(name: str) -> HVAEConfig:
    return HVAEConfig.parse({"preset": name}, where="test")


def volumes(folder: Path, shape: tuple[int, int, int], dtype: Any = np.int16) -> tuple[Case, ...]:
    cases = []
    for index in range(3):
        values = 40 * greys(shape, index, np.int32) - 4000
        image = nib.Nifti1Image(np.ascontiguousarray(values.astype(dtype).T), np.diag([1.0, 1.0, 5.0, 1.0]))
        nib.save(image, folder / f"v{index}.nii.gz")
        cases.append(Case(case_id=f"v{index}", images=(folder / f"v{index}.nii.gz",)))
    return tuple(cases)


@pytest.mark.parametrize(("name", "side"), [("tiny", 64), ("small", 128), ("published", 224)])
def test_pictures_get_the_resolution_of_the_preset(tmp_path: Path, name: str, side: int) -> None:
    cases = write_pictures(tmp_path, [greys((20, 30), i) for i in range(3)])
    made = derive_image_plan(manifest(tmp_path, cases), cases, graph(), preset(name))
    assert made.size == made.patch_size == (side, side)
    assert (made.dimensions, made.axis_order, made.channels) == (2, (0, 1), ("image",))
    assert made.context == graph().column_names
    assert made.attributes == graph().attributes
    assert 2 <= made.batch_size <= 32


def test_eight_bit_pictures_share_one_range_and_other_depths_have_their_own(tmp_path: Path) -> None:
    eight = write_pictures(tmp_path / "8", [greys((16, 16), i) for i in range(3)])
    sixteen = write_pictures(tmp_path / "16", [greys((16, 16), i, np.uint16) * 200 for i in range(3)])
    plans = [derive_image_plan(manifest(tmp_path, c), c, graph(), preset("tiny")) for c in (eight, sixteen)]
    assert plans[0].scaling == (ChannelScaling(scheme="fixed", low=0, high=255),)
    assert plans[1].scaling == (ChannelScaling(scheme="own"),)


def test_colours_are_three_channels(tmp_path: Path) -> None:
    cases = write_pictures(tmp_path, [np.stack([greys((16, 16), i + c) for c in range(3)], axis=-1) for i in range(3)])
    made = derive_image_plan(manifest(tmp_path, cases), cases, graph(), preset("tiny"))
    assert made.channels == ("red", "green", "blue")
    assert len(made.scaling) == 3


def test_volumes_keep_close_to_their_shape_and_below_the_limit(tmp_path: Path) -> None:
    cases = volumes(tmp_path, (9, 60, 80))
    made = derive_image_plan(manifest(tmp_path, cases), cases, graph(), preset("tiny"))
    assert made.size == (16, 64, 80)  # multiples of 16; the least there is along the first axis
    wide = derive_image_plan(manifest(tmp_path, cases), cases, graph(), preset("small"))
    assert wide.size == (32, 64, 64)
    assert np.prod(wide.size) <= MOST_VOXELS


def test_a_large_volume_shrinks_without_losing_its_proportions(tmp_path: Path) -> None:
    cases = volumes(tmp_path, (40, 120, 160))
    size = derive_image_plan(manifest(tmp_path, cases), cases, graph(), preset("tiny")).size
    assert np.prod(size) <= MOST_VOXELS
    shares = [n / own for n, own in zip(size, (40, 120, 160), strict=True)]
    assert max(shares) / min(shares) < 1.7  # in steps of 16


def test_ct_has_one_range_from_all_images_and_mr_each_its_own(tmp_path: Path) -> None:
    cases = volumes(tmp_path, (6, 24, 24))
    stored = np.concatenate([np.asarray(nib.load(case.images[0]).dataobj).ravel() for case in cases])
    low, high = np.percentile(stored, (0.5, 99.5))
    scaling = derive_image_plan(manifest(tmp_path, cases, modality="CT"), cases, graph(), preset("tiny")).scaling[0]
    assert scaling.scheme == "fixed"
    assert (scaling.low, scaling.high) == pytest.approx((low, high), abs=0.02 * (high - low))
    own = derive_image_plan(manifest(tmp_path, cases, modality="MR"), cases, graph(), preset("tiny")).scaling[0]
    assert own == ChannelScaling(scheme="own")


def test_what_is_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    cases = write_pictures(tmp_path, [greys((16, 16), i) for i in range(3)])
    data = manifest(tmp_path, cases)
    micro = HVAEConfig.parse(MICRO, where="test")
    made = derive_image_plan(data, cases, graph(), micro, size=(12, 8), batch_size=7)
    assert (made.size, made.batch_size) == ((12, 8), 7)
    with pytest.raises(ConfigError, match="divides every axis by 2"):
        derive_image_plan(data, cases, graph(), micro, size=(9, 8))
    with pytest.raises(ConfigError, match="the images have 2 axes"):
        derive_image_plan(data, cases, graph(), micro, size=(8, 8, 8))
    with pytest.raises(ConfigError, match="batch_size = 0"):
        derive_image_plan(data, cases, graph(), micro, batch_size=0)
    with pytest.raises(DataError, match="no case"):
        derive_image_plan(data, (), graph(), micro)


def test_a_plan_comes_back_from_json_as_it_was() -> None:
    made = plan(scaling=(ChannelScaling(scheme="own"), ChannelScaling(scheme="fixed", low=-1.5, high=7)))
    assert ImagePlan.parse(json.loads(json.dumps(made.model_dump(mode="json"))), where="test") == made


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": (8,)}, "wanted 2 whole numbers"),
        ({"size": (8, 0)}, "wanted 2 whole numbers"),
        ({"axis_order": (1, 0)}, "those of a picture in their order"),
        ({"channels": ("a", "b")}, "one for each of the 2 channels"),
        ({"attributes": ()}, "at least 1"),
        ({"schema_version": 99}, "newer release"),
        ({"kind": "segmentation"}, "image_model"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], sentence: str) -> None:
    values = {**plan().model_dump(mode="json"), **changes}
    with pytest.raises(ConfigError, match=sentence):
        ImagePlan.parse(values, where="test")


@pytest.mark.parametrize(
    "values",
    [
        {"scheme": "fixed"},
        {"scheme": "fixed", "low": 3, "high": 3},
        {"scheme": "fixed", "low": 0, "high": float("inf")},
        {"scheme": "own", "low": 0, "high": 1},
        {"scheme": "own", "low_percentile": 50, "high_percentile": 50},
    ],
)
def test_impossible_ranges_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ChannelScaling.parse(values, where="test")
