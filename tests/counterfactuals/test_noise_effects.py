"""Effects of attributes on the noise: NumPy's least squares is the oracle, and what is planted is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from counterfactuals.toy_image_model import ROWS, graph, greys, network, picture, plan
from scantling.counterfactuals.counterfactual import ImageModelSource
from scantling.counterfactuals.hvae import HVAE, Latents
from scantling.counterfactuals.model_files import EFFECTS, load_image_model, save_image_model
from scantling.counterfactuals.noise_effects import NoiseEffects, fit_noise_effects
from scantling.errors import IntegrityError
from scantling.sealed_folder import read_sealed, write_sealed

N = 60


def images(numbers: list[int]) -> torch.Tensor:
    """Whose grey depends on the scanner, which the untrained network does not know."""
    made = [greys((8, 8), k).astype(np.float32) + 30 * (ROWS[k]["scanner"] == "B") for k in numbers]
    return torch.from_numpy(np.stack(made)[:, None] / 127.5 - 1).float()


def contexts() -> torch.Tensor:
    return graph().encode(ROWS[:N])


def noise(of: HVAE) -> tuple[torch.Tensor, ...]:
    return of.abduct(images(list(range(N))), contexts(), keep="noise").tensors


def test_slopes_are_those_of_least_squares_where_nothing_is_chance() -> None:
    """Noise that is linear in the attributes to the last digit: the shrinking keeps all of it."""
    made, design = network(plan()), contexts()
    truth = [
        torch.randn(design.shape[1], *shape, generator=torch.Generator().manual_seed(1)) for shape in made.latent_shapes
    ]

    class Linear(HVAE):
        def abduct(self, pictures, context, **_):  # type: ignore[no-untyped-def, override]
            return Latents(tuple(torch.tensordot(context, slope, 1) + 0.3 for slope in truth), "noise")

    made.__class__ = Linear
    found = fit_noise_effects(made, images, design, batch_size=7)
    centred = design - design.mean(dim=0)
    for slope, true in zip(found.slopes, truth, strict=True):
        explained = torch.tensordot(centred, slope, 1)
        wanted = torch.tensordot(centred, true, 1)
        ridge = np.linalg.solve(
            (centred.T @ centred).numpy() + np.eye(design.shape[1]), (centred.T @ wanted.flatten(1)).numpy()
        )
        np.testing.assert_allclose(slope.flatten(1).numpy(), ridge, atol=2e-3)
        assert (explained - wanted).square().sum() < 0.02 * wanted.square().sum()


def test_chance_alone_has_hardly_any_effect() -> None:
    made, design = network(plan()), contexts()
    rng, drawn = torch.Generator().manual_seed(5), []

    class Chance(HVAE):
        def abduct(self, pictures, context, **_):  # type: ignore[no-untyped-def, override]
            drawn.append([torch.randn(len(pictures), *shape, generator=rng) for shape in self.latent_shapes])
            return Latents(tuple(drawn[-1]), "noise")

    made.__class__ = Chance
    found = fit_noise_effects(made, images, design, batch_size=16)
    noise = np.concatenate([torch.cat(block).flatten(1).numpy() for block in zip(*drawn, strict=True)], axis=1)
    x = (design - design.mean(dim=0)).numpy()
    plain = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ noise)
    assert sum(float(slope.square().sum()) for slope in found.slopes) < 0.25 * np.square(plain).sum()


def test_the_attributes_are_no_longer_in_the_noise() -> None:
    """Of a network that knows nothing of a brighter scanner, its noise does; moved to one scanner it does not."""
    made, design = network(plan()), contexts()
    effects = fit_noise_effects(made, images, design, batch_size=16)
    before = noise(made)
    same = design.mean(dim=0, keepdim=True).expand_as(design)
    after = effects.moved(Latents(before, "noise"), design, same).tensors
    is_b = torch.tensor([row["scanner"] == "B" for row in ROWS[:N]])

    def gap(tensors: tuple[torch.Tensor, ...]) -> float:
        return sum(float((t[is_b].mean(dim=0) - t[~is_b].mean(dim=0)).square().sum()) for t in tensors)

    assert gap(after) < 0.1 * gap(before)


def test_where_no_attribute_changes_the_noise_is_the_same_to_the_bit() -> None:
    made, design = network(plan()), contexts()
    effects = fit_noise_effects(made, images, design, batch_size=16)
    latents = Latents(noise(made), "noise")
    assert all(
        torch.equal(*pair) for pair in zip(effects.moved(latents, design, design).tensors, latents.tensors, strict=True)
    )


def test_latents_that_are_values_are_refused() -> None:
    slopes = tuple(torch.zeros(contexts().shape[1], *shape) for shape in network(plan()).latent_shapes)
    values = network(plan()).abduct(images([0]), contexts()[:1], keep="values")
    with pytest.raises(ValueError, match="effects are on noise"):
        NoiseEffects(slopes).moved(values, contexts()[:1], contexts()[:1])


def test_the_shapes_of_latents_are_told_before_any_is_drawn() -> None:
    for size in ((8, 8), (8, 16), (8, 8, 8)):
        made = network(plan(size))
        drawn = made.abduct(torch.zeros(1, 1, *size), contexts()[:1])
        assert made.latent_shapes == tuple(tuple(t.shape[1:]) for t in drawn.tensors)


def test_a_model_folder_keeps_them_and_its_source_moves_by_them(tmp_path: Path) -> None:
    made = network(plan(), keep="noise")
    effects = fit_noise_effects(made, images, contexts(), batch_size=16)
    save_image_model(tmp_path / "model", made, plan(), graph(), {}, effects=effects)
    loaded = load_image_model(tmp_path / "model", torch.device("cpu"))
    assert loaded.effects is not None
    assert all(torch.equal(*pair) for pair in zip(loaded.effects.slopes, effects.slopes, strict=True))
    image = picture(greys((8, 8), 3))
    other = dict(image.row, scanner="B" if image.row["scanner"] == "A" else "A")
    with_them, without = loaded.source(), ImageModelSource(made, plan(), graph())
    moved, plain = (source([image], [other])[0].channels[0].astype(int) for source in (with_them, without))
    assert np.abs(moved - plain).max() > 0
    same = with_them([image], [dict(image.row)])[0].channels[0]
    np.testing.assert_array_equal(same, image.channels[0])


def test_effects_of_another_network_are_refused(tmp_path: Path) -> None:
    made = network(plan(), keep="noise")
    effects = fit_noise_effects(made, images, contexts(), batch_size=16)
    wrong = NoiseEffects(tuple(slope[:, :1] for slope in effects.slopes))
    save_image_model(tmp_path / "model", made, plan(), graph(), {}, effects=wrong)
    with pytest.raises(IntegrityError, match=EFFECTS):
        load_image_model(tmp_path / "model", torch.device("cpu"))
    content = read_sealed(tmp_path / "model", required=(EFFECTS,), what="model folder")
    write_sealed(tmp_path / "model", {**content, EFFECTS: b"nothing"})
    with pytest.raises(IntegrityError, match="not what was written there"):
        load_image_model(tmp_path / "model", torch.device("cpu"))
