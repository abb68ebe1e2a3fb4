"""Counterfactuals of an image model against its formula, and what must hold whatever the model has learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterfactuals.toy_image_model import (
    BYTES,
    ROWS,
    graph,
    greys,
    network,
    picture,
    plan,
    volume,
    write_pictures,
)
from scantling.counterfactuals.counterfactual import CounterfactualGenerator, ImageModelSource
from scantling.counterfactuals.image_plan import ChannelScaling
from scantling.counterfactuals.source_image import SourceImage, to_model
from scantling.counterfactuals.sources import CallableSource, CounterfactualSource
from scantling.errors import ConfigError, DataError, IntegrityError, PlanMismatch

UNIT = ChannelScaling(scheme="fixed", low=-1, high=1)


def generator(wanted: Any = None, *, seed: int = 0, batch_size: int | None = None, **changes: Any) -> Any:
    wanted = wanted or plan()
    source = ImageModelSource(network(wanted, **changes), wanted, graph(), batch_size=batch_size)
    return CounterfactualGenerator(graph=graph(), source=source, plan=wanted, seed=seed)


def pictures(n: int = 6, shape: tuple[int, int] = (21, 17)) -> list[SourceImage]:
    return [picture(greys(shape, i), ROWS[i], case_id=f"p{i}") for i in range(n)]


@pytest.mark.parametrize("keep", ["values", "noise"])
@pytest.mark.parametrize("scale", ["fixed", "learnt"])
def test_with_a_constant_scale_the_image_moves_by_the_difference_of_the_means(keep: str, scale: str) -> None:
    wanted = plan(scaling=(UNIT,))
    stored = (0.5 * np.random.default_rng(0).uniform(-1, 1, (8, 8))).astype(np.float32)
    made = generator(wanted, keep=keep, scale=scale).counterfactual(picture(stored, ROWS[0]), {"age": 65})
    own, other = (graph().encode([{**ROWS[0], **change}]) for change in ({}, {"age": "65"}))
    model, images = network(wanted, keep=keep, scale=scale), torch.from_numpy(stored)[None, None]
    with torch.no_grad():
        latents = model.abduct(images, own, keep=keep)
        means = [model.decode(latents, context).mean for context in (own, other)]
    expected = (images + means[1] - means[0]).clamp(-1, 1)[0, 0].numpy()
    assert np.abs(expected - stored).mean() > 0.01
    assert made.image.channels[0] == pytest.approx(expected, abs=1e-6)
    assert made.difference[0] == pytest.approx(expected - stored, abs=1e-6)


def test_a_map_of_scales_stretches_what_the_mean_leaves() -> None:
    wanted = plan(scaling=(UNIT,))
    stored = (0.3 * np.random.default_rng(1).uniform(-1, 1, (8, 8))).astype(np.float32)
    made = generator(wanted, scale="per_pixel", log_scale=0.0).counterfactual(picture(stored), {"age": 60})
    own, other = (graph().encode([{**ROWS[0], **change}]) for change in ({}, {"age": "60"}))
    model, images = network(wanted, scale="per_pixel", log_scale=0.0), torch.from_numpy(stored)[None, None]
    with torch.no_grad():
        latents = model.abduct(images, own)
        before, after = model.decode(latents, own), model.decode(latents, other)
    noise = (images - before.mean) / before.scale
    expected = (after.mean + after.scale * noise).clamp(-1, 1)[0, 0].numpy()
    assert made.image.channels[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("scale", ["fixed", "per_pixel"])
def test_doing_nothing_is_the_identity_on_stored_values(dtype: str, scale: str) -> None:
    images = [picture(greys((13, 30), i).astype(dtype), ROWS[i], case_id=f"p{i}") for i in range(5)]
    asked = generator(plan(scaling=(ChannelScaling(scheme="own"),)), scale=scale, log_scale=0.0)
    for made in asked.source(images, [image.row for image in images]):
        real = next(image for image in images if image.case_id == made.case_id)
        assert made.channels[0].tobytes() == real.channels[0].tobytes()
    already = asked.counterfactual(images[0], {"scanner": ROWS[0]["scanner"]})
    assert already.image.channels[0].tobytes() == images[0].channels[0].tobytes()
    assert not already.difference.any()


def test_descendants_move_and_what_does_not_descend_stays() -> None:
    asked = generator()
    made = [asked.counterfactual(image, {"site": "s"}) for image in pictures() if image.row["site"] == "n"]
    assert len(made) == 3
    assert any(m.before["scanner"] == "A" and m.image.row["scanner"] == "B" for m in made)
    assert all(m.image.row["age"] == m.before["age"] and m.image.row["site"] == "s" for m in made)
    assert all(m.do == {"site": "s"} for m in made)
    alone = [asked.counterfactual(image, {"scanner": "B"}) for image in pictures()]
    assert all(m.image.row["site"] == m.before["site"] for m in alone)


def test_a_moved_descendant_changes_the_image() -> None:
    asked = generator()
    image = next(i for i in pictures() if i.row["site"] == "n" and asked.after(i, {"site": "s"})["scanner"] == "B")
    lived, fixed = (asked.counterfactual(image, do) for do in ({"site": "s"}, {"site": "s", "scanner": "A"}))
    both = asked.counterfactual(image, {"site": "s", "scanner": "B"})
    assert np.array_equal(lived.image.channels[0], both.image.channels[0])
    assert not np.array_equal(lived.image.channels[0], fixed.image.channels[0])


def test_the_noise_behind_a_case_is_its_own_and_does_not_depend_on_the_company() -> None:
    asked, images = generator(seed=3), pictures(12)
    alone = [asked.after(image, {"site": "s"}) for image in images]
    together = [made.image.row for made in asked.counterfactuals(images[::-1], {"site": "s"})]
    assert together[::-1] == alone
    one = next(image for image in images if image.row["site"] == "n")
    drawn = {generator(seed=seed).after(one, {"site": "s"})["scanner"] for seed in range(40)}
    assert drawn == {"A", "B"}  # another seed draws other noise


def test_results_depend_neither_on_the_batch_size_nor_on_the_day() -> None:
    images = pictures(7)
    results = [
        list(generator(plan(scaling=(BYTES,), size=(8, 8)), batch_size=inner).counterfactuals(
            images, {"age": "70"}, batch_size=outer
        ))
        for inner, outer in ((4, 7), (4, 7), (1, 3), (7, 7))
    ]  # fmt: skip
    for made, again in zip(results[0], results[1], strict=True):
        assert made.image.channels[0].tobytes() == again.image.channels[0].tobytes()
    for other in results[2:]:
        assert [made.image.case_id for made in other] == [image.case_id for image in images]
        for made, again in zip(results[0], other, strict=True):
            steps = made.image.channels[0].astype(int) - again.image.channels[0]
            assert np.abs(steps).max() <= 1  # a half may be rounded either way
            assert (steps != 0).mean() < 0.01


def test_the_way_back_leads_back_where_latents_are_kept() -> None:
    wanted = plan(scaling=(UNIT,))
    asked = generator(wanted, keep="noise")
    image = picture((0.4 * np.random.default_rng(2).uniform(-1, 1, (8, 8))).astype(np.float32))
    there = asked.counterfactual(image, {"age": "55"})
    (back,) = asked.source([there.image], [image.row])
    assert back.row == image.row
    assert np.abs(back.channels[0] - image.channels[0]).mean() < np.abs(there.difference).mean()


def test_volumes_and_channels_keep_their_grid_and_what_is_finer_than_the_model() -> None:
    wanted = plan((8, 8, 8), scaling=(ChannelScaling(scheme="own"), UNIT))
    first, second = greys((9, 20, 18), 0, np.int16), (greys((9, 20, 18), 4) / 255).astype(np.float32)
    one = volume(first, "LPI")
    image = SourceImage(case_id="v", channels=(first, second), geometry=one.geometry, row=ROWS[0])
    asked = generator(wanted)
    made = asked.counterfactual(image, {"scanner": "B", "age": 33.5})
    assert [c.dtype for c in made.image.channels] == [np.int16, np.float32]
    assert made.image.geometry is image.geometry
    assert made.image.row["age"] == "33.5"
    assert made.difference.shape == (2, 9, 20, 18)
    assert np.abs(made.difference).max() > 0
    seen = to_model(made.image, wanted).values - to_model(image, wanted).values
    assert (np.abs(seen).mean(axis=(1, 2, 3)) > 0).all()


def test_many_images_are_read_only_as_they_are_asked_for(tmp_path: Path) -> None:
    cases = write_pictures(tmp_path, [greys((9, 9), i) for i in range(6)])
    taken: list[str] = []

    def watched() -> Iterator[Any]:
        for case in cases:
            taken.append(case.case_id)
            yield case

    made = generator().counterfactuals(watched(), {"age": 44}, batch_size=2)
    assert taken == []
    first = next(made)
    assert (first.image.case_id, taken) == ("case_0", ["case_0", "case_1"])
    assert [m.image.case_id for m in made] == [f"case_{i}" for i in range(1, 6)]
    assert first.before["age"] == "30"
    assert first.image.row["age"] == "44"


def test_any_source_will_do() -> None:
    darker = CallableSource(lambda image, before, after: image - 20 * (before["scanner"] != after["scanner"]))
    asked = CounterfactualGenerator(graph=graph(), source=darker, plan=plan())
    image = picture(greys((7, 7), 0), ROWS[0])
    made = asked.counterfactual(image, {"scanner": "B"})
    assert (made.difference == -20).all()
    assert isinstance(asked.source, CounterfactualSource)


def test_impossible_questions_are_refused() -> None:
    asked, image = generator(), picture(greys((9, 9), 0))
    with pytest.raises(ConfigError, match=r"scaner = 'B': not an attribute .*; did you mean 'scanner'"):
        asked.counterfactual(image, {"scaner": "B"})
    with pytest.raises(ConfigError, match="'C' was never seen"):
        asked.counterfactual(image, {"scanner": "C"})
    with pytest.raises(DataError, match="'C' was never seen"):
        asked.counterfactual(replace(image, row={**ROWS[0], "scanner": "C"}), {"age": 50})
    with pytest.raises(PlanMismatch, match="spatial axes"):
        asked.counterfactual(volume(greys((4, 4, 4), 0)), {"age": 50})
    with pytest.raises(ValueError, match="batch_size"):
        next(asked.counterfactuals([image], {"age": 50}, batch_size=0))


def test_parts_of_different_runs_are_refused() -> None:
    with pytest.raises(PlanMismatch, match="wanted all three from one run"):
        ImageModelSource(network(plan()), plan((8, 16)), graph())
    other = replace(graph(), attributes=graph().attributes[::-1])
    with pytest.raises(PlanMismatch, match="wanted all three from one run"):
        ImageModelSource(network(plan()), plan(), other)


def test_a_network_that_diverged_writes_nothing() -> None:
    broken = network(plan())
    with torch.no_grad():
        next(iter(broken.decoder.parameters())).fill_(float("nan"))
    source = ImageModelSource(broken, plan(), graph())
    with pytest.raises(IntegrityError, match="not finite"):
        source([picture(greys((9, 9), 0))], [{**ROWS[0], "scanner": "B"}])
