"""What dual- and multi-view contrast share: settings, what is trained, what is shown to the diagnostics."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from contrast.view_batches import plain_batch
from recipes.contract import PATCH, SHAPES, SOLIDS, Shapes, build, small_plan
from recipes.pixel_contrasts import SMALL, unlabelled, with_counterfactuals
from recipes.shared_pixel_contrast import CASES, SAMPLES, terms_and_gradients
from scantling.config import Config
from scantling.data.plan import ClassPlan, NetworkPlan
from scantling.errors import ConfigError
from scantling.networks import UNet
from scantling.recipes import RECIPES, Recipe, parse_settings
from scantling.recipes.pixel_contrast import length_mm, points_of
from scantling.seeding import torch_generator
from scantling.training.config import RunConfig
from scantling.views.maker import ViewConfig, make_views
from scantling.views.published import published_views
from scantling.views.view import ViewBatch
from two_processes import run_two

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NAMES = ["dvd_cl", "s_dvd_cl", "mvd_cl", "s_mvd_cl"]
DEEP = small_plan(
    network=NetworkPlan(
        features=(4, 6, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3, deep_supervision=True
    )
)


def batch_for(recipe: Recipe, n_samples: int = 2, task: Any = SHAPES) -> ViewBatch:
    return make_views([task.source.sample(0, i) for i in range(n_samples)], recipe.views(), task.patch, seed=0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_name_of_the_table_is_a_recipe_with_settings(name: str) -> None:
    recipe = RECIPES[name]
    assert issubclass(recipe, Recipe)
    assert issubclass(recipe.config_type, Config)
    assert isinstance(parse_settings(name, {}), recipe.config_type)


@pytest.mark.parametrize("task", [SHAPES, SOLIDS], ids=["2D", "3D"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_encoder_decoder_and_projection_and_the_frozen_heads_have_none(name: str, task: Any) -> None:
    recipe = build(name, SMALL, task=task)
    recipe.losses(batch_for(recipe, task=task), torch_generator(0, "recipe"))["pixel_contrast"].backward()
    for parameter_name, parameter in recipe.named_parameters():
        if parameter_name.startswith("network.heads"):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert parameter.grad.any(), parameter_name
    assert {name.split(".")[0] for name, _ in recipe.named_parameters()} == {"network", "projection"}


@pytest.mark.parametrize("name", NAMES)
def test_a_coarser_tap_trains_nothing_beyond_it(name: str) -> None:
    task = dataclasses.replace(SHAPES, plan=DEEP)
    recipe = build(name, {**SMALL, "tap": "decoder.0"}, task=task)
    recipe.losses(batch_for(recipe), torch_generator(0, "recipe"))["pixel_contrast"].backward()
    trained = {name for name, p in recipe.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in recipe.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("network.decoder.1", "network.heads")) for name in trained)
    assert any(name.startswith("network.decoder.0") for name in trained)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_the_network_of_the_plan(name: str) -> None:
    recipe = build(name)
    kept = recipe.deployable()
    assert isinstance(kept, UNet)
    assert kept(torch.zeros(1, 1, *PATCH)).shape == (1, 3, *PATCH)
    assert (recipe.learns, recipe.uses_unlabelled, recipe.from_labels) == (
        "features", not name.startswith("s_"), name.startswith("s_"),
    )  # fmt: skip


def test_small_views_are_as_densely_drawn_as_the_published_ones_and_large_ones_no_dearer() -> None:
    config: Any = parse_settings("mvd_cl", {})
    assert points_of(config, small_plan(patch_size=(96, 96))) == 184  # 1000 * 96^2 / 224^2
    assert points_of(config, small_plan(patch_size=(512, 512))) == 1000
    assert points_of(parse_settings("mvd_cl", {"points": 50}), small_plan(patch_size=(512, 512))) == 50
    assert points_of(parse_settings("mvd_cl", {"compat": "released"}), small_plan(patch_size=(96, 96))) == 1000


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_the_published_run_but_for_boxes_tap_and_temperature(name: str) -> None:
    config: Any = parse_settings(name, {})
    assert config.views == published_views(4, "each").model_copy(update={"crop_area": (0.5, 1.0)})
    assert (config.tap, config.temperature, config.hidden, config.embedding) == ("1/4", 0.1, 256, 128)
    assert points_of(config, small_plan(patch_size=(224, 224))) == 1000
    assert config.compat == "intended"
    run = RunConfig.model_validate({"data": {"path": "x"}, **RECIPES[name].run_defaults})
    optimisation = run.training.optimisation
    assert (optimisation.learning_rate, optimisation.weight_decay, optimisation.gradient_clip) == (3e-3, 0.01, 1.0)
    assert (optimisation.warmup_fraction, optimisation.average_decay) == (0.25, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_released_brings_the_published_ones_back_where_nothing_else_is_given(name: str) -> None:
    released: Any = parse_settings(name, {"compat": "released"})
    assert released.views == published_views(4, "each")
    assert (released.tap, released.temperature) == ("", 0.7)
    assert parse_settings(name, released.model_dump()) == released
    other: Any = parse_settings(
        name, {"compat": "released", "temperature": 0.3, "tap": "encoder.1", "views": {"crop_area": [0.2, 1.0]}}
    )
    assert (other.tap, other.temperature, other.views.crop_area) == ("encoder.1", 0.3, (0.2, 1.0))
    assert other.views.rotation_deg == 15
    plain: Any = parse_settings(name, {"compat": "released", "transforms": "plan"})
    assert plain.views == ViewConfig(n_views=4, image_of_view="each")


def test_views_are_the_published_ones_but_for_what_is_given_or_those_of_supervised_training() -> None:
    published = published_views().model_copy(update={"crop_area": (0.5, 1.0)})
    two = parse_settings("dvd_cl", {"views": {"n_views": 2, "intensity": {"blur_probability": 0.0}}})
    assert isinstance(two.views, ViewConfig)  # type: ignore[attr-defined]
    changed = published.intensity.model_copy(update={"blur_probability": 0.0})
    assert two.views == published.model_copy(update={"n_views": 2, "intensity": changed})  # type: ignore[attr-defined]
    plain = build("mvd_cl", {"transforms": "plan", "views": {"n_views": 3}}).views()
    assert plain == ViewConfig(n_views=3, image_of_view="each")
    mirrored = dataclasses.replace(SHAPES, plan=small_plan(mirror_axes=(1,)))
    assert build("mvd_cl", {"transforms": "plan"}, task=mirrored).views().flip_axes == (1,)
    assert build("mvd_cl", task=mirrored).views().flip_axes == ()


@pytest.mark.parametrize("image_of_view", ["own", "each", "any"])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_views_of_images_with_or_without_counterfactuals(name: str, image_of_view: str) -> None:
    for n_views, task in ((2, SHAPES), (5, with_counterfactuals(2))):
        recipe = build(name, {**SMALL, "views": {"n_views": n_views, "image_of_view": image_of_view}}, task=task)
        loss = recipe.losses(batch_for(recipe, task=task), torch_generator(0, "recipe"))["pixel_contrast"]
        assert loss.isfinite()
        assert loss > 0


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dvd_cl", {"views": {"n_views": 1}}, r"views.n_views = 1: .* give at least 2 \[E-CFG-65\]"),
        ("dvd_cl", {"tap": "decoder.4"}, r"recipe.tap = 'decoder.4': .*encoder.0.* \[E-CFG-60\]"),
        ("dvd_cl", {"exclusion": 0.1, "exclusion_mm": 3.0}, r"exclusion = 0.1 and .*exclusion_mm = 3: .*\[E-CFG-62\]"),
        ("mvd_cl", {"radius": 0.1, "radius_mm": 3.0}, r"recipe.radius = 0.1 and recipe.radius_mm = 3: .*\[E-CFG-62\]"),
        ("dvd_cl", {"exclusion": None}, r"recipe.exclusion: no length; .*exclusion_mm \[E-CFG-62\]"),
        ("mvd_cl", {"radius": None}, r"recipe.radius: no length; .*radius_mm \[E-CFG-62\]"),
        ("dvd_cl", {"compat": "released", "all_pairs": True}, r"recipe.all_pairs = True: the released .*\[E-CFG-63\]"),
        ("dvd_cl", {"compat": "released", "exclusion_mm": 3.0}, r"exclusion_mm = 3.0: the released .*\[E-CFG-63\]"),
        ("mvd_cl", {"compat": "released", "radius_mm": 3.0}, r"recipe.radius_mm = 3.0: the released .*\[E-CFG-63\]"),
        ("s_dvd_cl", {"compat": "released", "class_balanced": True}, r"class_balanced = True: .*\[E-CFG-63\]"),
        ("s_mvd_cl", {"compat": "released", "sampling": "overlap"}, r"sampling = 'overlap': .*\[E-CFG-63\]"),
        ("mvd_cl", {"radius_mm": -1.0}, r"radius_mm = -1.0: .*greater than 0.*\[E-CFG-01\]"),
        ("mvd_cl", {"radios": 1.0}, r"unknown setting 'radios'; did you mean 'radius'\?"),
        ("s_mvd_cl", {"views": {"rotatoin_deg": 1.0}}, r"unknown setting 'views.rotatoin_deg'; did you mean"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, settings)


def test_a_length_in_mm_takes_the_place_of_the_share_and_survives_a_file() -> None:
    config: Any = parse_settings("mvd_cl", {"radius_mm": 12.0})
    assert (config.radius, config.radius_mm) == (None, 12.0)
    again = parse_settings("mvd_cl", {k: v for k, v in config.model_dump().items() if v is not None})
    assert again == config
    other: Any = parse_settings("dvd_cl", {"exclusion_mm": 12.0})
    assert (other.exclusion, other.exclusion_mm) == (None, 12.0)


def test_a_share_of_the_image_side_is_of_the_shorter_side_within_the_slice() -> None:
    batch = dataclasses.replace(plain_batch((3, 10, 6)), spacing_mm=(2.0, 1.0, 2.0))
    assert length_mm(0.25, None, batch) == pytest.approx(0.25 * 10)
    assert length_mm(None, 7.0, batch) == 7.0


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_labelled_methods_without_labels_work_and_the_others_say_why_not(name: str) -> None:
    nothing = dataclasses.replace(
        SHAPES,
        plan=small_plan(classes=ClassPlan(names=("background",), stored=((0,),))),
        source=Shapes(annotated=(True,)),
    )
    if name.startswith("s_"):
        with pytest.raises(ConfigError, match=r"no class but background; .*dvd_cl or vader \[E-CFG-66\]"):
            build(name, SMALL, task=nothing)
        return
    recipe = build(name, SMALL, task=nothing)
    batch = unlabelled(batch_for(recipe, task=nothing))
    assert recipe.diagnostics is not None
    recipe.diagnostics.begin(0)
    recipe.losses(batch, torch_generator(0, "recipe"))["pixel_contrast"].backward()
    (seen,) = recipe.diagnostics.collect()
    assert seen.figures["positives"] > 0


@pytest.mark.parametrize("compat", ["intended", "released"])
@pytest.mark.parametrize("name", NAMES)
def test_the_diagnostics_are_shown_who_is_contrasted(name: str, compat: str) -> None:
    recipe = build(name, {**SMALL, "compat": compat})
    assert recipe.diagnostics is not None
    recipe.diagnostics.begin(0)
    recipe.losses(batch_for(recipe), torch_generator(0, "recipe"))["pixel_contrast"].backward()
    (seen,) = recipe.diagnostics.collect()
    assert seen.term == "pixel_contrast"
    assert seen.figures["anchors_in_all"] > 0
    assert seen.figures["positives"] > 0
    assert seen.figures["gradient_spread"] >= 0
    assert set(seen.by_class["anchors"]) == {"background", "disc", "square"}
    if name.startswith("s_"):
        wanted = compat == "released" and name == "s_mvd_cl"
        assert (seen.by_class["anchors"]["background"] > 0) == wanted
    if name.startswith("s_") and compat == "intended":
        assert seen.by_class["labelled"] == {"background": 0.0, "disc": 1.0, "square": 1.0}


def test_two_processes_with_unequal_shares_give_the_terms_and_gradients_of_one(tmp_path: Path) -> None:
    run_two(Path(__file__).with_name("shared_pixel_contrast.py"), tmp_path)
    shared = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert SAMPLES % 2 == 1
    for case in CASES:
        alone = terms_and_gradients(case, 0, 1)
        largest = max(float(value.abs().max()) for name, value in alone.items() if not name.startswith("term"))
        assert largest > 1e-4, case
        assert alone["term pixel_contrast"] > 0
        for found in shared:
            assert found[case].keys() == alone.keys()
            for name, expected in alone.items():
                torch.testing.assert_close(
                    found[case][name],
                    expected,
                    rtol=2e-4,
                    atol=1e-4 * largest,
                    msg=lambda m, n=name, c=case: f"{c} {n}: {m}",
                )


def row(name: str) -> Any:
    values = tomllib.loads((EXPERIMENTS / f"{name}.toml").read_text(encoding="utf-8"))
    config = RunConfig.parse({**values, "data": {"path": "data", **values.get("data", {})}}, where=name)
    assert config.data.label_kinds == (("silver",) if name.startswith("s_") else ("full", "slices"))
    assert (config.plan.network, config.plan.patch_size) == ("resnet50_unet", (224, 224))
    return parse_settings(config.recipe, config.settings)


@pytest.mark.parametrize("name", NAMES)
def test_published_rows_are_the_released_code_with_its_views(name: str) -> None:
    main, dagger = row(name), row(f"{name}_dagger")
    assert isinstance(main, RECIPES[name].config_type)
    assert main == parse_settings(name, {"compat": "released"})
    samples = [with_counterfactuals().source.sample(0, 0)]
    batch = make_views(samples, dagger.views, (32, 32), seed=0)
    assert batch.images.shape[1] == 2
    assert torch.equal(batch.images[:, 0], batch.images[:, 1])
    assert torch.equal(batch.images[0, 0], samples[0].image[:, 4:36, 4:36])


def test_the_best_configurations_are_a_crop_of_the_image_and_one_counterfactual() -> None:
    crop, disease = row("s_dvd_cl_crop"), row("s_mvd_cl_disease")
    assert crop.views == published_views(2, "own", rotation=False, effects=False).model_copy(
        update={"intensity_of_others": crop.views.intensity_of_others}
    )
    assert crop.views.intensity_of_others.solarise_probability == 0
    assert crop.views.intensity_of_others.jitter_probability == crop.views.intensity_of_others.blur_probability == 0
    assert disease.views == published_views(2, "each")
