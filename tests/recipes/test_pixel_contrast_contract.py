"""Dual- and multi-view contrast keep the contract of all recipes, in 2D and 3D, with counterfactuals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.contract import SHAPES, SOLIDS, Shapes, Solids, assert_contract

TASKS = {
    "2D": replace(SHAPES, source=Shapes(alternatives=1), falls_to=0.95),
    "3D": replace(SOLIDS, source=Solids(alternatives=1), falls_to=0.95),
}
SETTINGS: dict[str, Any] = {
    "points": 40, "hidden": 32, "embedding": 16, "temperature": 0.1,
    "views": {"n_views": 2, "crop_area": [0.4, 1.0]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("dvd_cl", "2D"),
        ("s_dvd_cl", "2D"),
        ("mvd_cl", "2D"),
        ("s_mvd_cl", "2D"),
        ("s_mvd_cl", "3D"),
        pytest.param("dvd_cl", "3D", marks=pytest.mark.slow),
        pytest.param("s_dvd_cl", "3D", marks=pytest.mark.slow),
        pytest.param("mvd_cl", "3D", marks=pytest.mark.slow),
    ],
)
def test_the_recipe_keeps_the_contract(name: str, dimensions: str, tmp_path: Path) -> None:
    assert_contract(name, tmp_path, SETTINGS, task=TASKS[dimensions], from_labels=name.startswith("s_"))
