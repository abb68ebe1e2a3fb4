"""What all baselines of pretraining share; each has a file of its own for the rest."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.contract import SHAPES, SOLIDS, build, small_plan
from recipes.shared_pretraining import looks
from scantling.contrast.points import nearest_values, tags_of
from scantling.contrast.sampling import random_points
from scantling.errors import ConfigError
from scantling.recipes import RECIPES, parse_settings
from scantling.recipes.pretraining import by_view, sample_tags
from scantling.seeding import torch_generator
from scantling.training.config import RunConfig
from scantling.views.maker import ViewConfig, make_views
from scantling.views.published import published_views
from two_processes import run_two

BASELINES = ("simclr", "vader", "densecl", "pixpro", "ssdcl")
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_two_processes_learn_what_one_would_that_had_the_whole_batch(tmp_path: Path) -> None:
    run_two(Path(__file__).with_name("shared_pretraining.py"), tmp_path)
    alone, first, second = looks(0, 1), *(torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, expected in alone.items():
        assert any(key.startswith("gradient") for key in expected)
        for found in (first[name], second[name]):
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(
                    found[key], value, rtol=2e-4, atol=2e-6, msg=lambda m, at=f"{name} {key}": f"{at}: {m}"
                )
    assert sum(key.startswith("memory") for found in alone.values() for key in found) == 3


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_features_for_a_network_of_the_plan(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.learns == "features"
    assert recipe.from_labels == (not recipe.uses_unlabelled) == (name == "ssdcl")
    assert recipe.run_defaults["training"]["optimisation"]["learning_rate"] == 3e-3
    assert recipe.run_defaults["training"]["optimisation"]["average_decay"] == 0
    network = build(name).deployable()
    assert network.state_dict().keys() == build("supervised").deployable().state_dict().keys()


@pytest.mark.parametrize("name", BASELINES)
def test_views_are_the_published_ones_or_those_of_the_plan(name: str) -> None:
    turned, cropped = name not in ("vader", "ssdcl"), name != "ssdcl"
    assert build(name).views() == published_views(2, "own", rotation=turned, crop=cropped)
    mirrored = replace(SHAPES, plan=small_plan(mirror_axes=(1,)))
    plain = build(name, {"transforms": "plan", "views": {"rotation_deg": 3}}, task=mirrored).views()
    assert plain == ViewConfig(n_views=2, rotation_deg=3, flip_axes=(1,))
    assert build(name, task=mirrored).views().flip_axes == ()
    shown = build(name, {"views": {"image_of_view": "each", "n_views": 4}}).views()
    assert (shown.n_views, shown.image_of_view, shown.crop_probability) == (4, "each", float(cropped))


@pytest.mark.parametrize("name", BASELINES)
def test_resolved_settings_read_back_are_the_same(name: str, tmp_path: Path) -> None:
    for given in ({}, {"transforms": "plan"}, {"views": {"n_views": 3, "intensity": {"blur_probability": 0.0}}}):
        settings = parse_settings(name, given)
        settings.save(tmp_path / "settings.toml")
        assert type(settings).load(tmp_path / "settings.toml") == settings


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("task", [SHAPES, SOLIDS], ids=["2D", "3D"])
def test_four_views_of_counterfactuals_are_learnt_from_as_well(name: str, task: object) -> None:
    shown = replace(task, source=replace(task.source, alternatives=2))  # type: ignore[attr-defined]
    settings = {"hidden": 8, "embedding": 4, "views": {"n_views": 4, "image_of_view": "each"}}
    settings |= {"bank": 64} if name in ("vader", "densecl") else {}
    recipe = build(name, settings, task=shown).train()
    batch = make_views([shown.source.sample(0, i) for i in range(3)], recipe.views(), shown.patch, seed=0)
    assert batch.image_numbers.tolist() == [[0, 1, 2, 0]] * 3
    torch.stack(list(recipe.losses(batch, torch_generator(0, "recipe")).values())).sum().backward()
    unused = [key for key, p in recipe.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    assert all(p.grad.isfinite().all() for p in recipe.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["simclr", "vader", "densecl", "pixpro"])
def test_one_view_has_nothing_to_be_compared_with(name: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe.views.n_views = 1: views are compared with .* at least 2") as caught:
        parse_settings(name, {"views": {"n_views": 1}})
    assert caught.value.code == "E-CFG-65"
    assert parse_settings("ssdcl", {"views": {"n_views": 1}}).views.n_views == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["densecl", "pixpro"])
@pytest.mark.parametrize(("patch", "finest"), [((96, 80), 64), ((32, 32, 32), 16), ((4, 64, 64), 32)])
def test_a_grid_of_too_many_cells_is_refused_with_the_finest_one(
    name: str, patch: tuple[int, ...], finest: int
) -> None:
    task = SHAPES if len(patch) == 2 else SOLIDS
    wide = replace(task, plan=task.plan.model_copy(update={"patch_size": patch}))
    with pytest.raises(ConfigError, match=rf"recipe.grid = {finest + 1}: .* at most {finest} ") as caught:
        build(name, {"grid": finest + 1}, task=wide)
    assert caught.value.code == "E-CFG-67"
    build(name, {"grid": finest}, task=wide)


@pytest.mark.parametrize("name", ["vader", "densecl", "pixpro", "ssdcl"])
def test_a_tap_that_the_network_does_not_have_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe.tap = 'decoder.9'"):
        build(name, {"tap": "decoder.9"})


def test_views_of_a_sample_share_a_point_and_images_keep_their_numbers() -> None:
    recipe = build("simclr")
    batch = make_views([SHAPES.source.sample(0, i) for i in (4, 1, 4)], recipe.views(), SHAPES.patch, seed=0)
    tags = sample_tags(batch)
    assert tags.need("point").tolist() == [0, 0, 1, 1, 2, 2]
    assert tags.need("image").view(3, 2)[:, 0].unique().tolist() == sorted({*tags.need("image").tolist()})
    assert len({*tags.need("image").tolist()}) == 2
    assert tags.klass is None


def test_tags_of_each_view_are_in_the_order_of_its_places() -> None:
    recipe = build("simclr")
    batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
    points = random_points(batch, 5, torch_generator(0, "places"))
    labels = nearest_values(batch.label_maps, points, batch.view_shape)
    for view, tags in enumerate(by_view(tags_of(points, batch), 3, 2)):
        assert tags.need("view").tolist() == [view] * 15
        assert tags.need("klass").tolist() == labels[:, view].flatten().tolist()


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_names_a_recipe_and_settings_that_it_has(path: Path) -> None:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    values["data"] = {"path": "data", **values.get("data", {})}
    config = RunConfig.parse(values, where=path.name)
    build(config.recipe, config.settings)
