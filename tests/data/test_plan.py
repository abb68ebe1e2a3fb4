"""A plan is a file that people edit: what cannot be is refused by the name of its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.errors import ConfigError

WHOLE = Plan(
    dataset="set", modality="MR", image_axes=3, dimensions=2, channels=("T1", "T2"), axis_order=(1, 0, 2),
    classes=ClassPlan(names=("background", "lung"), stored=((0,), (1, 5))), spacing_mm=(None, 1.5, 1.5),
    patch_size=(64, 64), batch_size=4, intensities=(IntensityPlan(scheme="zscore"),) * 2, network=NetworkPlan(),
    mirror_axes=(1,), reasons={"batch_size": "as asked"},
)  # fmt: skip


def edited(**changes: Any) -> dict[str, Any]:
    return json.loads(WHOLE.model_dump_json()) | changes


def test_a_plan_comes_back_from_its_json_unchanged() -> None:
    assert Plan.parse(edited(), where="plan.json") == WHOLE


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 2}, "schema_version = 2: .*written by a newer release; update scantling"),
        ({"image_axes": 2, "dimensions": 3, "axis_order": [0, 1], "spacing_mm": [1, 1], "patch_size": [8, 8, 8]},
         "dimensions = 3: .*the images are pictures of 2 axes"),
        ({"axis_order": [1, 0]}, r"axis_order = \[1, 0\]: .*each axis from 0 to 2 once"),
        ({"axis_order": [0, 0, 2]}, "axis_order = .*once"),
        ({"spacing_mm": [1, 1]}, r"spacing_mm = \[1, 1\]: .*wanted 3 lengths above 0 mm, or null"),
        ({"spacing_mm": [0, 1, 1]}, "spacing_mm = .*above 0"),
        ({"spacing_mm": [1, -1, 1]}, "spacing_mm = .*above 0"),
        ({"patch_size": [64, 64, 64]}, "patch_size = .*wanted 2 whole numbers above 0"),
        ({"patch_size": [64, 0]}, "patch_size = .*above 0"),
        ({"batch_size": 0}, "batch_size = 0: "),
        ({"intensities": [{"scheme": "zscore"}]}, "intensities = .*wanted one for each of the 2 channels"),
        ({"mirror_axes": [2]}, r"mirror_axes = \[2\]: .*from 0 to 1"),
        ({"classes": {"names": ["background", "lung"], "stored": [[0], [0]]}}, "classes.stored = .*two classes"),
        ({"classes": {"names": ["lung"], "stored": [[1]]}}, "classes.stored = .*first class must be 'background'"),
        ({"patchsize": [8, 8]}, "unknown setting 'patchsize'; did you mean 'patch_size'"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"plan.json: .*{said}"):
        Plan.parse(edited(**changes), where="plan.json")


@pytest.mark.parametrize("values", [{"std": 0}, {"std": -1}, {"low_percentile": -1}, {"high_percentile": 101}])
def test_an_impossible_intensity_is_refused_by_name(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=rf"intensities\.0\.{name} = "):
        Plan.parse(edited(intensities=[{"scheme": "window", **values}, {"scheme": "zscore"}]), where="plan.json")
