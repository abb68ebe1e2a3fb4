"""Views of a case: the real image first, sound counterfactuals after it, all with its intensities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scantling.data.case import Case
from scantling.data.plan import Plan
from scantling.errors import GeometryError
from scantling.inference.case_views import CaseViews, embed_views, views_of_cases
from scantling.inference.embed import Embedder
from scantling.inference.model_folder import LoadedModel
from scantling.networks import build_network
from scantling.seeding import torch_generator


def case(name: str, of: str | None = None, sound: str = "") -> Case:
    return Case(case_id=name, images=(Path(f"{name}.png"),), counterfactual_of=of, attributes={"sound": sound})


def names(groups: tuple[CaseViews, ...]) -> list[list[str]]:
    return [[each.case_id for each in group.cases] for group in groups]


def test_a_real_image_leads_its_sound_counterfactuals_wherever_they_stand_in_the_table() -> None:
    table = [case("a-x", "a", "yes"), case("a"), case("b"), case("a-y", "a", "no"), case("a-z", "a")]
    groups = views_of_cases(table)
    assert names(groups) == [["a", "a-x", "a-z"], ["b"]]
    assert [group.case_id for group in groups] == ["a", "b"]


def test_a_counterfactual_without_its_real_image_stands_alone() -> None:
    assert names(views_of_cases([case("a-x", "a", "yes"), case("a-y", "a"), case("b")])) == [["a-x"], ["a-y"], ["b"]]


def test_all_views_have_the_intensities_of_the_real_image(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(2, 2, patch_size=(16, 16))
    network = build_network(
        plan.network, dimensions=2, in_channels=1, out_channels=2, generator=torch_generator(0, "test")
    )
    embedder = Embedder(LoadedModel(network=network, plan=plan, meta={}), torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 180, (16, 16)).astype(np.uint8)
    group = []
    for name, change, of in (("real", 0, None), ("brighter", 60, "real")):
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels + np.uint8(change)).save(path)
        group.append(replace(case(name, of), images=(path,)))
    views = embed_views(embedder, CaseViews(cases=tuple(group)))
    assert [view.case.case_id for view in views] == ["real", "brighter"]
    real, brighter = (view.embedding.features for view in views)
    assert np.abs(real - brighter).max() > 0.01
    alone = embed_views(embedder, CaseViews(cases=(group[1],)))[0].embedding.features
    np.testing.assert_allclose(alone, real, atol=1e-3)
    np.testing.assert_array_equal(views[0].image.array[0], pixels)
    Image.fromarray(pixels[:8]).save(group[1].images[0])
    with pytest.raises(GeometryError, match=r"case brighter: is 8 x 16 but its real case real is 16 x 16.*E-ALT-02"):
        embed_views(embedder, CaseViews(cases=tuple(group)))
