"""The bound against SciPy and torch's distributions, counterfactuals against their formula, published counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import uniform_filter

from scantling.counterfactuals.hvae import HVAE, Elbo, Latents, Predicted, predict_counterfactual, with_smooth_tone
from scantling.counterfactuals.hvae_blocks import Gaussian, LatentBlock, PlainBlock
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.errors import ConfigError, PlanMismatch

MICRO: dict[str, Any] = {
    "preset": "custom",
    "encoder": "8b1d2,4b1d4,1b1",
    "decoder": "1b1,4b2,8b1",
    "widths": (8, 8, 16),
    "latent_channels": (4, 2),
    "stochastic_up_to": 4,
    "bottleneck": 2,
    "cdf": "exact",
}
N_LATENTS = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def micro(size: tuple[int, ...] = (8, 8), *, awake: bool = True, channels: int = 1, **changes: Any) -> HVAE:
    """A small network; awake: away from its start, where blocks pass their input on and the KL is 0."""
    config = HVAEConfig.parse({**MICRO, **changes}, where="test")
    network = HVAE(config, size=size, in_channels=channels, context_dim=3, generator=generator())
    if awake:
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, network.parameters()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
    return network.eval()


def images(n: int = 4, size: tuple[int, ...] = (8, 8), *, channels: int = 1, seed: int = 5) -> torch.Tensor:
    greys = np.random.default_rng(seed).integers(0, 256, (n, channels, *size))
    return torch.from_numpy(greys / 127.5 - 1).float()


def contexts(n: int = 4, seed: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (n, 3))).float()


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_the_published_network_has_the_published_number_of_parameters_and_blocks() -> None:
    network = HVAE(HVAEConfig(), size=(224, 224), in_channels=1, context_dim=3, generator=generator())
    assert round(parameters(network) / 1e6, 1) == 39.9
    assert round(parameters(network.encoder) / 1e6, 1) == 11.3
    assert round(parameters(network.decoder) / 1e6, 1) == 28.6
    assert sum(isinstance(module, LatentBlock) for module in network.modules()) == 55
    assert sum(isinstance(module, PlainBlock) for module in network.modules()) == 8
    assert [name for name in network.decoder.constants] == ["1", "7", "14", "28", "56"]  # noqa: C416


@pytest.mark.parametrize(("name", "size"), [("tiny", (64, 64)), ("tiny", (32, 96)), ("small", (128, 128))])
def test_a_preset_takes_images_of_its_size_and_others_its_strides_divide(name: str, size: tuple[int, int]) -> None:
    config = HVAEConfig.parse({"preset": name}, where="test")
    network = HVAE(config, size=size, in_channels=1, context_dim=3, generator=generator())
    elbo = network(images(1, size), contexts(1), generator=generator())
    assert torch.isfinite(elbo.loss(beta=1.0))
    assert network.sample(contexts(1), generator=generator()).mean.shape == (1, 1, *size)


def test_at_the_start_no_latent_says_anything() -> None:
    elbo = micro(awake=False)(images(), contexts(), generator=generator())
    assert torch.equal(elbo.kl_per_block, torch.zeros(N_LATENTS, 4))
    wanted = stats.norm(0, 0.0581).logpdf(images().numpy()).mean() + np.log(2 / 255)
    assert elbo.nll.mean().item() == pytest.approx(-wanted, rel=0.02)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("scale", ["fixed", "learnt", "per_pixel"])
def test_the_bound_is_that_of_scipy_and_of_torchs_distributions(
    monkeypatch: pytest.MonkeyPatch, conditional: bool, scale: str
) -> None:
    network = micro(conditional_prior=conditional, scale=scale)
    seen: dict[str, list[Gaussian]] = {"prior": [], "posterior": []}
    prior, posterior = LatentBlock.prior, LatentBlock.posterior

    def noted_prior(self: LatentBlock, *inputs: Any) -> Any:
        found = prior(self, *inputs)
        seen["prior"].append(found[0])
        return found

    def noted_posterior(self: LatentBlock, *inputs: Any) -> Any:
        seen["posterior"].append(posterior(self, *inputs))
        return seen["posterior"][-1]

    monkeypatch.setattr(LatentBlock, "prior", noted_prior)
    monkeypatch.setattr(LatentBlock, "posterior", noted_posterior)
    x, context = images(), contexts()
    elbo = network(x, context, generator=generator(3))
    for block, (p, q) in enumerate(zip(seen["prior"], seen["posterior"], strict=True)):
        normal = torch.distributions.Normal
        wanted = torch.distributions.kl_divergence(normal(*q), normal(*p)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(elbo.kl_per_block[block], wanted, rtol=1e-4, atol=1e-4)
    assert elbo.kl_per_block.min() > 0.01

    mean, deviation = network.decode(network.abduct(x, context, generator=generator(3)), context)
    normal_of_scipy = stats.norm(mean.detach().double().numpy(), deviation.detach().double().numpy())
    low, high = x.double().numpy() - 1 / 255, x.double().numpy() + 1 / 255
    low, high = np.where(x <= -1, -np.inf, low), np.where(x >= 1, np.inf, high)
    by_cdf = np.log(np.maximum(normal_of_scipy.cdf(high) - normal_of_scipy.cdf(low), 1e-300))
    believable = by_cdf > -20  # further out the difference of two CDFs has no digits
    terms = np.where(believable, by_cdf, normal_of_scipy.logpdf(x.double().numpy()) + np.log(2 / 255))
    np.testing.assert_allclose(elbo.nll.detach(), -terms.mean(axis=(1, 2, 3)), rtol=0.01)


def test_the_loss_is_mean_nll_plus_beta_kl_a_pixel_with_free_bits_by_block() -> None:
    predicted, latents = Predicted(torch.zeros(2, 1, 10, 10), torch.ones(2, 1, 10, 10)), Latents(())
    kl = torch.tensor([[10.0, 30.0], [0.0, 1.0]])
    elbo = Elbo(torch.tensor([1.0, 3.0]), kl, values=100, predicted=predicted, latents=latents)
    torch.testing.assert_close(elbo.kl, torch.tensor([0.1, 0.31]))
    assert elbo.loss(beta=7.0).item() == pytest.approx(2.0 + 7.0 * 20.5 / 100)
    assert elbo.loss(beta=7.0, free_nats=2.0).item() == pytest.approx(2.0 + 7.0 * 22 / 100)


@pytest.mark.parametrize("size", [(8, 8), (16, 8), (8, 8, 4), (4, 8, 12)])
@pytest.mark.parametrize(("conditional", "patch", "scale"), [(True, 1, "learnt"), (False, 2, "per_pixel")])
def test_every_parameter_learns_in_two_dimensions_and_three(
    size: tuple[int, ...], conditional: bool, patch: int, scale: str
) -> None:
    size = tuple(length * patch for length in size)
    network = micro(size, channels=2, conditional_prior=conditional, patch=patch, scale=scale)
    elbo = network(images(2, size, channels=2), contexts(2), generator=generator())
    elbo.loss(beta=1.0).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still
    assert elbo.values == 2 * int(np.prod(size))


def test_the_gradient_is_the_slope_of_the_loss_in_float64() -> None:
    network = micro(scale="per_pixel").double()
    x, context = images().double(), contexts().double()

    def loss() -> torch.Tensor:
        return network(x, context, generator=generator(2)).loss(beta=0.7)  # type: ignore[no-any-return]

    loss().backward()
    directions = [torch.randn(p.shape, generator=generator(4), dtype=p.dtype) for p in network.parameters()]
    slope = sum(
        float((p.grad * d).sum()) for p, d in zip(network.parameters(), directions, strict=True) if p.grad is not None
    )
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for p, d in zip(network.parameters(), directions, strict=True):
                p.add_(d, alpha=step)
            values.append(loss().item())
            for p, d in zip(network.parameters(), directions, strict=True):
                p.sub_(d, alpha=step)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kept", ["values", "noise"])
@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("scale", ["fixed", "per_pixel"])
def test_doing_nothing_changes_nothing_to_the_last_bit(
    kept: Literal["values", "noise"], drawn: bool, scale: str
) -> None:
    network, x, context = micro(scale=scale), images(), contexts()
    latents = network.abduct(x, context, generator=generator() if drawn else None, keep=kept)
    factual, again = network.decode(latents, context), network.decode(latents, context)
    assert torch.equal(predict_counterfactual(x, factual, again), x)


def test_with_a_constant_scale_a_counterfactual_is_the_image_plus_the_difference_of_means() -> None:
    network, x, context = micro(), images(), contexts()
    latents = network.abduct(x, context, generator=generator())
    factual, other = network.decode(latents, context), network.decode(latents, 1 - context)
    assert (factual.mean - other.mean).abs().max() > 0.01
    assert torch.equal(factual.scale, torch.full_like(x, factual.scale.flatten()[0].item()))
    assert factual.scale.flatten()[0].item() == pytest.approx(0.0581, abs=5e-5)
    wanted = (x + (other.mean - factual.mean)).clamp(-1, 1)
    torch.testing.assert_close(predict_counterfactual(x, factual, other), wanted, rtol=0, atol=1e-6)


def test_with_any_scale_a_counterfactual_is_abduct_intervene_predict() -> None:
    network, x, context = micro(scale="per_pixel"), images(), contexts()
    latents = network.abduct(x, context)
    factual, other = network.decode(latents, context), network.decode(latents, 1 - context)
    assert (factual.scale / other.scale - 1).abs().max() > 0.01
    noise = (x - factual.mean) / factual.scale
    wanted = (other.mean + other.scale * noise).clamp(-1, 1)
    torch.testing.assert_close(predict_counterfactual(x, factual, other), wanted, rtol=0, atol=1e-5)
    assert wanted.max() == 1.0  # some values were clamped


def test_latents_kept_as_noise_are_the_same_under_the_same_context_and_move_with_a_conditional_prior() -> None:
    x, context = images(), contexts()
    for conditional in (True, False):
        network = micro(conditional_prior=conditional)
        values = network.abduct(x, context, generator=generator(9))
        noise = network.abduct(x, context, generator=generator(9), keep="noise")
        torch.testing.assert_close(network.decode(noise, context).mean, network.decode(values, context).mean)
        moved = network.decode(noise, 1 - context).mean - network.decode(values, 1 - context).mean
        assert bool(moved.abs().max() > 1e-3) is conditional


def test_a_training_step_hands_out_what_abduction_would_with_a_graph() -> None:
    network, x, context = micro(scale="per_pixel"), images(), contexts()
    elbo = network(x, context, generator=generator(4))
    abducted = network.abduct(x, context, generator=generator(4))
    for own, other in zip(elbo.latents.tensors, abducted.tensors, strict=True):
        assert torch.equal(own, other)
    assert torch.equal(elbo.predicted.mean, network.decode(abducted, context).mean)
    network.decode(elbo.latents, 1 - context).mean.sum().backward()
    assert all(p.grad is not None for p in network.encoder.parameters())


def test_abducted_latents_have_the_shapes_of_the_layout_coarsest_first() -> None:
    latents = micro((8, 16)).abduct(images(4, (8, 16)), contexts())
    assert [tuple(t.shape) for t in latents.tensors] == [(4, 4, 1, 1), (4, 2, 4, 8), (4, 2, 4, 8)]
    assert not any(t.requires_grad for t in latents.tensors)


def test_the_posterior_depends_on_the_context_only_where_it_is_told_so() -> None:
    network, x = micro(), images()
    one, other = network.abduct(x, torch.zeros(4, 3)), network.abduct(x, torch.ones(4, 3))
    assert not torch.equal(one.tensors[0], other.tensors[0])


def test_draws_depend_on_the_generator_alone_and_leave_the_global_one_as_it_was() -> None:
    before = torch.get_rng_state()
    first, second = micro(awake=False), micro(awake=False)
    for own, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    network, x, context = micro(), images(), contexts()
    losses = [network(x, context, generator=generator(seed)).loss(beta=1.0).item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    samples = [network.sample(context, generator=generator(seed)).mean for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert torch.equal(before, torch.get_rng_state())


def test_samples_without_temperature_are_the_means_of_the_prior_all_the_way() -> None:
    network, context = micro(), contexts()
    cold = network.sample(context, generator=generator(), temperature=0.0).mean
    nothing = Latents(tuple(torch.zeros_like(t) for t in network.abduct(images(), context).tensors), "noise")
    torch.testing.assert_close(cold, network.decode(nothing, context).mean)


def test_a_learnt_scale_never_falls_below_its_floor() -> None:
    network = micro(scale="learnt", log_scale=-40.0, smallest_scale=0.01)
    assert network.decode(network.abduct(images(), contexts()), contexts()).scale.unique().tolist() == [
        pytest.approx(0.01)
    ]


def test_under_autocast_the_bound_is_computed_in_float32_and_is_nearly_the_same() -> None:
    network, x, context = micro(), images(), contexts()
    wanted = network(x, context, generator=generator()).loss(beta=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        elbo = network(x, context, generator=generator())
        actual = elbo.loss(beta=1.0)
    assert elbo.nll.dtype == elbo.kl_per_block.dtype == torch.float32
    assert actual.item() == pytest.approx(wanted.item(), rel=0.05)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Maps of 8 x 8 pixels are not worth a second thread's waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_training_lets_abduction_reproduce_the_batch_and_the_context_decide_what_it_explains() -> None:
    """Dark and bright squares, whose brightness is the context: the counterfactual swaps it and keeps the place."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 5, (16, 2))
    bright = np.arange(16) % 2

    def picture(is_bright: np.ndarray[Any, Any]) -> torch.Tensor:
        x = np.full((16, 1, 8, 8), -0.6, dtype=np.float32)
        for i, (row, column) in enumerate(place):
            x[i, 0, row : row + 3, column : column + 3] = 0.7 if is_bright[i] else 0.1
        return torch.from_numpy(x)

    x, context = picture(bright), torch.zeros(16, 3)
    context[:, 0] = torch.from_numpy(bright)
    network = micro(awake=False, conditional_prior=False, dropout=0.0).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    drawing = generator(7)
    losses = []
    for _ in range(160):
        loss = network(x, context, generator=drawing).loss(beta=2.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.2 * losses[0]

    network.eval()
    latents = network.abduct(x, context)
    flipped = context.clone()
    flipped[:, 0] = 1 - flipped[:, 0]
    factual, other = network.decode(latents, context), network.decode(latents, flipped)
    assert (factual.mean - x).square().mean().sqrt() < factual.scale.mean()
    truth = picture(1 - bright)
    error = (predict_counterfactual(x, factual, other) - truth).abs().mean()
    assert error < 0.5 * (x - truth).abs().mean()


def test_images_of_another_size_and_latents_of_another_network_are_refused() -> None:
    network = micro()
    with pytest.raises(PlanMismatch, match=r"images \(1, 16, 8\): this HVAE was built for \(1, 8, 8\)"):
        network.abduct(images(4, (16, 8)), contexts())
    with pytest.raises(PlanMismatch, match="2 latents: this HVAE draws 3"):
        network.decode(Latents(network.abduct(images(), contexts()).tensors[:2]), contexts())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": (12, 10)}, r"image size \(12, 10\): this HVAE divides every axis by 4"),
        ({"size": (16,)}, "wanted two axes or three"),
        ({"in_channels": 0}, "at least one channel"),
        ({"context_dim": 0}, "at least one channel and one context value"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], sentence: str) -> None:
    settings: dict[str, Any] = {"size": (8, 8), "in_channels": 1, "context_dim": 3, "generator": generator()}
    changes = {"encoder": "8b1d4,2b1d2,1b1", "decoder": "1b1,2b2,8b1", **changes}
    config = HVAEConfig.parse(
        {**MICRO, "encoder": changes.pop("encoder"), "decoder": changes.pop("decoder")}, where="test"
    )
    with pytest.raises(ConfigError, match=sentence):
        HVAE(config, **{**settings, **changes})


def test_a_prediction_is_a_mean_and_a_scale_of_the_images_shape() -> None:
    predicted = micro((8, 8, 4)).sample(contexts(2), generator=generator())
    assert isinstance(predicted, Predicted)
    assert predicted.mean.shape == predicted.scale.shape == (2, 1, 8, 8, 4)


def test_a_tone_is_the_mean_of_its_surroundings_and_nothing_where_nothing_changes() -> None:
    """Against SciPy's mean over a window, of which only what lies inside the image counts."""
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 1, 21, 35, generator=rng)
    factual, other = (Predicted(mean, torch.rand(mean.shape, generator=rng) + 0.5) for _ in range(2))
    tone = with_smooth_tone(factual, other).scale / factual.scale
    logs = (other.scale / factual.scale).log().double().numpy()
    window = (1, 1, 3, 5)  # a seventh of 21 and 35
    inside = uniform_filter(np.ones_like(logs), window, mode="constant")
    wanted = uniform_filter(logs, window, mode="constant") / inside
    np.testing.assert_allclose(tone.log().numpy(), wanted, atol=1e-5)
    assert torch.equal(with_smooth_tone(factual, factual).scale, factual.scale)
    even = Predicted(mean, torch.full_like(mean, 0.5))
    assert torch.allclose(
        with_smooth_tone(even, Predicted(mean, torch.full_like(mean, 0.75))).scale, torch.tensor(0.75)
    )
    solid = Predicted(mean.reshape(2, 1, 7, 15, 7), factual.scale.reshape(2, 1, 7, 15, 7))
    assert with_smooth_tone(solid, solid).scale.shape == (2, 1, 7, 15, 7)
