"""Oracle: the supervised recipe, of which this is the form that others are compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.contract import BATCH, SHAPES, SOLIDS, assert_contract, build, small_plan
from scantling.data.plan import ClassPlan
from scantling.errors import ConfigError
from scantling.networks import untrained
from scantling.recipes import RECIPES
from scantling.seeding import torch_generator
from scantling.views.maker import ViewConfig, make_views
from scantling.views.published import published_views


@pytest.mark.parametrize("task", [pytest.param(SHAPES, id="2D"), pytest.param(SOLIDS, id="3D", marks=pytest.mark.slow)])
def test_the_recipe_keeps_the_contract(task, tmp_path: Path) -> None:
    assert_contract("segmentation", tmp_path, {"transforms": "plan"}, task=replace(task, falls_to=0.8))


@pytest.mark.parametrize("task", [SHAPES, SOLIDS], ids=["2D", "3D"])
def test_it_learns_what_the_supervised_recipe_learns_from_the_same_views(task) -> None:
    recipe, supervised = build("segmentation", {"dice_weight": 0.5}, task=task), build("supervised", task=task)
    supervised.load_state_dict(recipe.supervised.state_dict())
    batch = make_views([task.source.sample(0, i) for i in range(BATCH)], recipe.views(), task.patch, seed=0)
    batch = replace(
        batch, weights=batch.weights * torch.linspace(0.2, 1, BATCH).reshape(-1, *[1] * (1 + len(task.patch)))
    )
    terms = recipe.losses(batch, torch_generator(0, "recipe"))
    expected = supervised.losses(batch, torch_generator(0, "recipe"))
    torch.testing.assert_close(terms["dice"], 0.5 * expected["dice"])
    torch.testing.assert_close(terms["cross_entropy"], expected["cross_entropy"])


def test_it_is_a_start_for_fine_tuning_that_reads_labels_and_whose_heads_are_trained() -> None:
    recipe = RECIPES["segmentation"]
    assert (recipe.learns, recipe.from_labels, recipe.uses_unlabelled) == ("features", True, False)
    network = build("segmentation").deployable()
    assert untrained(network) == set()
    assert network.state_dict().keys() == build("supervised").deployable().state_dict().keys()


def test_its_views_are_those_of_the_published_fine_tuning_or_of_the_plan() -> None:
    views = build("segmentation").views()
    assert views == published_views(1, "own").model_copy(update={"crop_area": (0.5, 1.0)})
    assert views.intensity.solarise_probability == 0
    mirrored = replace(SHAPES, plan=small_plan(mirror_axes=(0,)))
    assert build("segmentation", {"transforms": "plan"}, task=mirrored).views() == ViewConfig(flip_axes=(0,))


def test_a_plan_without_classes_is_refused() -> None:
    alone = replace(SHAPES, plan=small_plan(classes=ClassPlan(names=("background",), stored=((0,),))))
    with pytest.raises(ConfigError, match="segmentation learns from label maps, and the plan has no class") as caught:
        build("segmentation", task=alone)
    assert caught.value.code == "E-CFG-66"
