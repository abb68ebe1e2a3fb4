from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.contract import BATCH, Task, assert_contract, build
from scantling.counterfactuals import hvae
from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.image_plan import ChannelScaling, ImagePlan
from scantling.data.sample import Sample
from scantling.errors import ConfigError
from scantling.losses.variational import discretised_gaussian_log_likelihood, gaussian_kl
from scantling.recipes.counterfactual_vae import CounterfactualVAE
from scantling.seeding import numpy_generator, torch_generator
from scantling.shapes import IGNORE
from scantling.views.maker import make_views
from scantling.views.view import ViewBatch
from two_processes import run_two

ATTRIBUTES = (
    Attribute(name="bright", kind="binary", values=("no", "yes"), shares=(0.5, 0.5), mechanism="logistic"),
    Attribute(name="side", kind="continuous", mean=0.0, scale=1.0, mechanism="gaussian"),
)
NETWORK: dict[str, Any] = {
    "preset": "custom", "encoder": "4b1d4,1b1", "decoder": "1b1,4b1", "widths": [8, 8], "patch": 4,
    "latent_channels": [4, 2], "stochastic_up_to": 4, "scale": "learnt", "log_scale": 0.0, "keep": "noise",
}  # fmt: skip


@dataclass(frozen=True)
class Blobs:
    """A blob left or right of the middle, bright or dim; its side is a number, its brightness a class."""

    axes: int = 2
    missing: bool = False

    def sample(self, epoch: int, position: int) -> Sample:
        rng = numpy_generator(0, "blobs", epoch, position)
        bright, side = float(rng.integers(2)), float(rng.normal())
        size = (16,) * self.axes
        grid = np.stack(np.mgrid[tuple(slice(n) for n in size)]) - 7.5
        grid[-1] -= 2 * side
        image = -0.8 + (0.6 + 0.8 * bright) * np.exp(-(grid**2).sum(axis=0) / 12) + rng.normal(0, 0.02, size)
        return Sample(
            image=torch.from_numpy(image[None]).float().clamp(-1, 1), label_map=torch.full(size, IGNORE),
            weight=torch.ones(size), annotated=torch.zeros(1, dtype=torch.bool), spacing_mm=(1.0,) * self.axes,
            source_from_sample=torch.eye(self.axes + 1), case_index=position, patient_index=position,
            slice_position=0.5, key=(epoch, position),
            context=torch.tensor([0.0, 1, 0, 1] if self.missing else [bright, 0, side, 0]),
        )  # fmt: skip


def task(axes: int = 2, *, missing: bool = False) -> Task:
    plan = ImagePlan(
        dataset="blobs", image_axes=2 if axes == 2 else 3, axis_order=tuple(range(axes)), size=(16,) * axes,
        batch_size=BATCH, scaling=(ChannelScaling(scheme="fixed", low=0, high=255),), attributes=ATTRIBUTES,
    )  # fmt: skip
    return Task(plan=plan, source=Blobs(axes, missing), patch=(16,) * axes, falls_to=0.97,
                watched=("likelihood", "divergence"))  # fmt: skip


def settings(**constraint: Any) -> dict[str, Any]:
    return {
        "network": NETWORK,
        "constraint": {"start": 2, "ramp": 2, "predictor": {"widths": (4, 8)}, **constraint},
    }


def recipe_and_batch(
    given: dict[str, Any] | None = None, *, axes: int = 2, missing: bool = False
) -> tuple[CounterfactualVAE, ViewBatch]:
    chosen = task(axes, missing=missing)
    recipe = build("counterfactual_vae", given or settings(), task=chosen)
    assert isinstance(recipe, CounterfactualVAE)
    samples = [chosen.source.sample(0, i) for i in range(BATCH)]
    return recipe.train(), make_views(samples, recipe.views(), chosen.patch, seed=0)


def losses_at(recipe: CounterfactualVAE, batch: ViewBatch, step: int) -> dict[str, Tensor]:
    recipe.steps_taken.fill_(step)
    return recipe.losses(batch, torch_generator(0, "recipe"))


def value(term: Tensor) -> float:
    return float(term.detach())


@pytest.mark.parametrize("axes", [2, 3])
def test_the_counterfactual_vae_keeps_the_contract(tmp_path: Path, axes: int) -> None:
    assert_contract("counterfactual_vae", tmp_path, settings(), task=task(axes), from_labels=False)


def test_its_view_is_the_whole_image_to_the_bit() -> None:
    _, batch = recipe_and_batch()
    for row in range(BATCH):
        assert torch.equal(batch.images[row, 0], task().source.sample(0, row).image)


def test_the_bound_is_that_of_the_network_and_its_kl_is_weighted() -> None:
    plain, batch = recipe_and_batch(settings(weight=0.0))
    heavy, _ = recipe_and_batch({**settings(weight=0.0), "beta": 3.0})
    terms, weighted = (r.losses(batch, torch_generator(0, "recipe")) for r in (plain, heavy))
    assert set(terms) == {"likelihood", "divergence"}
    torch.testing.assert_close(weighted["divergence"], 3 * terms["divergence"])
    elbo = plain.network(batch.images[:, 0], batch.contexts, generator=torch_generator(0, "recipe"))
    by_hand = -discretised_gaussian_log_likelihood(batch.images[:, 0], *elbo.predicted).mean()
    torch.testing.assert_close(terms["likelihood"], by_hand)
    torch.testing.assert_close(terms["divergence"], elbo.kl.mean())
    assert float(gaussian_kl(torch.zeros(1), torch.ones(1))) == 0


def test_beta_goes_from_its_start_to_its_end_by_steps_taken() -> None:
    recipe, _ = recipe_and_batch({**settings(), "beta": 1.0, "beta_start": 100.0, "beta_steps": 10})
    assert [recipe.beta(step) for step in (0, 5, 10, 50)] == pytest.approx([100.0, 10.0, 1.0, 1.0])


def test_the_constraint_begins_at_its_step_and_rises() -> None:
    recipe, batch = recipe_and_batch()
    before, first, full, later = (losses_at(recipe, batch, step) for step in (1, 2, 3, 9))
    assert "constraint" not in before
    assert "predictor" in before
    torch.testing.assert_close(2 * first["constraint"], full["constraint"])
    torch.testing.assert_close(full["constraint"], later["constraint"])


def test_the_constraint_moves_the_image_model_and_the_reading_moves_the_predictor_alone() -> None:
    recipe, batch = recipe_and_batch()
    with torch.no_grad():  # a context that does nothing yet has no effect to be asked for
        for parameter in recipe.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_generator(1, "stir")))
    terms = losses_at(recipe, batch, 9)
    of_network = torch.autograd.grad(
        terms["constraint"], list(recipe.network.parameters()), retain_graph=True, allow_unused=True
    )
    assert any(g is not None and bool(g.any()) for g in of_network)
    assert recipe.predictor is not None
    on_predictor = torch.autograd.grad(
        terms["constraint"], list(recipe.predictor.parameters()), retain_graph=True, allow_unused=True
    )
    assert all(g is None for g in on_predictor)
    reading = torch.autograd.grad(
        terms["predictor"] + terms["predictor_on_counterfactuals"],
        list(recipe.network.parameters()),
        retain_graph=True,
        allow_unused=True,
    )
    assert all(g is None for g in reading)


def test_where_every_attribute_is_missing_there_is_nothing_to_read() -> None:
    recipe, batch = recipe_and_batch(missing=True)
    terms = losses_at(recipe, batch, 1)
    assert value(terms["predictor"]) == 0
    assert all(torch.isfinite(term) for term in losses_at(recipe, batch, 9).values())


def test_a_price_is_asked_for_change_of_the_named_attribute_only() -> None:
    free, batch = recipe_and_batch(settings(attributes=("bright",), sparse={"side": 5.0}))
    priced, _ = recipe_and_batch(settings(attributes=("bright",), sparse={"bright": 5.0}))
    for recipe in (free, priced):
        with torch.no_grad():
            for parameter in recipe.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_generator(1, "stir")))
    assert value(losses_at(free, batch, 9)["sparsity"]) == 0
    assert value(losses_at(priced, batch, 9)["sparsity"]) > 0


def test_without_a_weight_there_is_no_predictor() -> None:
    recipe, _ = recipe_and_batch(settings(weight=0.0))
    assert recipe.predictor is None


def test_a_constraint_on_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(ConfigError, match="'scanner' is not an attribute of the causal graph"):
        recipe_and_batch(settings(attributes=("scanner",)))


def test_samples_without_attributes_are_refused() -> None:
    recipe, batch = recipe_and_batch()
    bare = type(batch)(**{**vars(batch), "contexts": None})
    with pytest.raises(ValueError, match="carry no attributes"):
        recipe.losses(bare, torch_generator(0, "recipe"))


def test_two_processes_with_unequal_shares_see_the_terms_and_gradients_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_two(Path(__file__).with_name("shared_image_model.py"), tmp_path)
    from recipes import shared_image_model

    monkeypatch.setattr(hvae, "_noise", hvae._noise)  # the script replaces it
    whole = shared_image_model.terms_and_gradients(0, 1)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        assert shared.keys() == whole.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(shared[name], expected, rtol=1e-5, atol=1e-6, msg=name)
    assert max(float(t.abs().max()) for name, t in whole.items() if not name.startswith("term")) > 1e-2


def test_the_constraint_can_leave_the_prior_to_the_bound() -> None:
    found = {}
    for hold in (False, True):
        recipe, batch = recipe_and_batch(settings(hold_prior=hold))
        with torch.no_grad():
            for parameter in recipe.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_generator(1, "stir")))
        term = losses_at(recipe, batch, 9)["constraint"]
        prior = recipe.network.decoder.blocks[-1][-1].prior_block.conv_out.weight  # type: ignore[index, union-attr]
        (gradient,) = torch.autograd.grad(term, [prior], allow_unused=True)  # type: ignore[list-item]
        found[hold] = term.detach(), gradient
    torch.testing.assert_close(found[False][0], found[True][0])  # the same counterfactuals, whoever learns from them
    latent = recipe.network.config.latent_channels[-1]
    assert bool(found[False][1][: 2 * latent].any())
    assert not torch.equal(found[False][1], found[True][1])


def test_the_way_back_is_the_distance_of_a_counterfactual_taken_back() -> None:
    recipe, batch = recipe_and_batch(settings(way_back=2.0))
    assert "way_back" not in losses_at(recipe, batch, 1)
    assert (
        value(losses_at(recipe, batch, 9)["way_back"]) == 0
    )  # a context without effect changes nothing, there or back
    with torch.no_grad():
        for parameter in recipe.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_generator(1, "stir")))
    first, full = (losses_at(recipe, batch, step)["way_back"] for step in (2, 9))
    assert value(full) > 0
    torch.testing.assert_close(2 * first, full)
    gradients = torch.autograd.grad(full, list(recipe.network.parameters()), allow_unused=True)
    assert any(g is not None and bool(g.any()) for g in gradients)
