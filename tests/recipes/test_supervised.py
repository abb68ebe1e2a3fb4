from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.contract import BATCH, PATCH, Shapes, assert_contract, build
from scantling.errors import ConfigError
from scantling.seeding import torch_generator
from scantling.views.maker import make_views


def test_the_supervised_recipe_keeps_the_contract(tmp_path: Path) -> None:
    assert_contract("supervised", tmp_path)


def test_terms_are_weighted_by_the_settings() -> None:
    batch = make_views([Shapes().sample(0, i) for i in range(BATCH)], build("supervised").views(), PATCH, seed=0)
    plain = build("supervised").losses(batch, torch_generator(0, "r"))
    halved = build("supervised", {"dice_weight": 0.5}).losses(batch, torch_generator(0, "r"))
    assert set(plain) == {"dice", "cross_entropy"}
    torch.testing.assert_close(halved["dice"], 0.5 * plain["dice"])
    torch.testing.assert_close(halved["cross_entropy"], plain["cross_entropy"])


def test_where_a_class_was_not_looked_for_its_score_on_background_is_free() -> None:
    samples = [Shapes(annotated=(True, True, False)).sample(0, i) for i in range(BATCH)]
    recipe = build("supervised")
    batch = make_views(samples, recipe.views(), PATCH, seed=0)
    outside = (batch.label_maps[:, 0] == 0)[:, None]
    logits = torch.zeros(BATCH, 3, *PATCH)
    from scantling.losses.segmentation import cross_entropy

    as_background = torch.where(outside & (torch.arange(3) == 0)[None, :, None, None], 9.0, logits)
    as_unsearched = torch.where(outside & (torch.arange(3) == 2)[None, :, None, None], 9.0, logits)
    losses = [
        cross_entropy(l, batch.label_maps[:, 0], batch.weights[:, 0], batch.annotated)
        for l in (as_background, as_unsearched)  # noqa: E741
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_a_misspelt_recipe_or_setting_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'supervised'"):
        build("supervized")
    with pytest.raises(ConfigError, match="did you mean 'dice_weight'"):
        build("supervised", {"dice_wait": 1.0})


def test_two_recipes_from_equal_generators_start_equal() -> None:
    first, second = (build("supervised", seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
