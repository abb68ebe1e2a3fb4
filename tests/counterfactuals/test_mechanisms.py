from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scantling.counterfactuals.mechanisms import CategoricalMechanism, ContinuousMechanism, posterior_gumbels

NO_PARENTS = torch.zeros(1, 0, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(mechanism: ContinuousMechanism, *, spread: float = 0.7, seed: int = 1) -> ContinuousMechanism:
    """The mechanism with random parameters everywhere."""
    rng = generator(seed)
    for parameter in mechanism.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return mechanism.requires_grad_(False)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("n_parents", [0, 3])
def test_a_density_integrates_to_1_and_its_integral_is_the_normal_probability_of_the_noise(
    flow: bool, n_parents: int
) -> None:
    mechanism = shaken(ContinuousMechanism(n_parents, flow=flow, generator=generator()))
    parents = torch.randn(1, n_parents, generator=generator(2), dtype=torch.float64)

    z = torch.tensor([[-12.0], [-4], [-2], [-1], [0.7], [1.5], [3], [4], [12]], dtype=torch.float64)
    marks = mechanism.predict(z, parents.expand(len(z), -1)).tolist()
    areas = []
    for low, high in itertools.pairwise(marks):
        values = torch.linspace(low, high, 4001, dtype=torch.float64)
        density = mechanism.log_prob(values, parents.expand(len(values), -1)).exp()
        areas.append(integrate.simpson(density, x=values))
    assert sum(areas) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(areas, np.diff(stats.norm.cdf(z[:, 0])), atol=1e-6)


@pytest.mark.parametrize("flow", [False, True])
def test_the_noise_of_a_value_gives_that_value_again(flow: bool) -> None:
    mechanism = shaken(ContinuousMechanism(2, flow=flow, generator=generator()))
    parents = torch.randn(3000, 2, generator=generator(3), dtype=torch.float64)
    noise = mechanism.draw_noise(3000, generator(4))
    values = mechanism.predict(noise, parents)
    torch.testing.assert_close(mechanism.abduct(values, parents, None), noise, rtol=0, atol=1e-10)
    again = mechanism.predict(mechanism.abduct(values, parents, None), parents)
    torch.testing.assert_close(again, values, rtol=0, atol=1e-10)


def test_a_gaussian_is_the_normal_distribution_of_scipy() -> None:
    mechanism = ContinuousMechanism(1, flow=False, generator=generator())
    mechanism.conditioner.bias.data = torch.tensor([0.3, -0.4], dtype=torch.float64)
    mechanism.conditioner.linear.data = torch.tensor([[1.5, 0.2]], dtype=torch.float64)
    parents = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    values = torch.linspace(-3, 3, 9, dtype=torch.float64)
    raw = -0.4 + 0.2 * parents[:, 0].numpy()
    scale = np.exp(6 * np.tanh(raw / 6))
    oracle = stats.norm.logpdf(values, loc=0.3 + 1.5 * parents[:, 0].numpy(), scale=scale)
    np.testing.assert_allclose(mechanism.log_prob(values, parents).detach(), oracle, rtol=1e-12)


def test_a_flow_that_has_learnt_nothing_is_the_standard_normal_whatever_the_parents() -> None:
    mechanism = ContinuousMechanism(4, flow=True, generator=generator())
    values = torch.linspace(-6, 6, 31, dtype=torch.float64)
    parents = torch.randn(31, 4, generator=generator(5), dtype=torch.float64)
    np.testing.assert_allclose(mechanism.log_prob(values, parents).detach(), stats.norm.logpdf(values), rtol=1e-10)


def test_a_spread_is_never_0_however_far_its_parameter_goes() -> None:
    mechanism = ContinuousMechanism(0, flow=False, generator=generator())
    mechanism.conditioner.bias.data = torch.tensor([0.0, -1e9], dtype=torch.float64)
    value = mechanism.predict(torch.ones(1, 1, dtype=torch.float64), NO_PARENTS)
    assert value.item() == pytest.approx(math.exp(-6))


def test_class_probabilities_are_the_multinomial_ones_of_scipy() -> None:
    mechanism = CategoricalMechanism(3, 2, hidden=0, generator=generator())
    mechanism.conditioner.bias.data = torch.tensor([0.1, -0.5, 1.0], dtype=torch.float64)
    mechanism.conditioner.linear.data = torch.randn(2, 3, generator=generator(6), dtype=torch.float64)
    parents = torch.randn(5, 2, generator=generator(7), dtype=torch.float64)
    values = torch.tensor([0, 1, 2, 1, 0], dtype=torch.float64)
    logits = (mechanism.conditioner.bias + parents @ mechanism.conditioner.linear).detach().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    oracle = [stats.multinomial.logpmf(np.eye(3)[int(k)], 1, p) for k, p in zip(values, probs, strict=True)]
    np.testing.assert_allclose(mechanism.log_prob(values, parents).detach(), oracle, rtol=1e-10)


def test_the_posterior_noise_always_gives_the_class_that_was_seen() -> None:
    for spread in (0.0, 1.0, 30.0):
        logits = spread * torch.randn(20000, 5, generator=generator(8), dtype=torch.float64)
        log_probs = logits.log_softmax(dim=1)
        observed = torch.randint(5, (20000,), generator=generator(9))
        noise = posterior_gumbels(log_probs, observed, generator(10))
        assert noise.isfinite().all()
        assert torch.equal((log_probs + noise).argmax(dim=1), observed)


def test_the_posterior_noise_is_what_rejection_keeps() -> None:
    log_probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    mechanism = CategoricalMechanism(3, 0, hidden=0, generator=generator())
    free = mechanism.draw_noise(60000, generator(11))
    winner = (log_probs + free).argmax(dim=1)
    for seen in range(3):
        kept = free[winner == seen]
        n = len(kept)
        drawn = posterior_gumbels(log_probs.expand(n, -1), torch.full((n,), seen), generator(12 + seen))
        for klass in range(3):
            assert stats.ks_2samp(kept[:, klass], drawn[:, klass]).pvalue > 0.01


def test_over_all_classes_the_posterior_noise_is_standard_gumbel() -> None:
    log_probs = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log().expand(20000, -1)
    observed = torch.multinomial(log_probs.exp(), 1, generator=generator(20))[:, 0]
    noise = posterior_gumbels(log_probs, observed, generator(21))
    for klass in range(3):
        assert stats.kstest(noise[:, klass], stats.gumbel_r.cdf).pvalue > 0.01
    correlation = np.corrcoef(noise.T.numpy())
    assert np.abs(correlation - np.eye(3)).max() < 0.03


def test_counterfactual_classes_come_as_often_as_under_the_intervention() -> None:
    before = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log().expand(20000, -1)
    after = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    observed = torch.multinomial(before.exp(), 1, generator=generator(22))[:, 0]
    moved = (after + posterior_gumbels(before, observed, generator(23))).argmax(dim=1)
    counts = torch.bincount(moved, minlength=3).numpy()
    assert stats.chisquare(counts, len(moved) * after.exp().numpy()).pvalue > 0.01
    gained = after - before[0]  # a class seen may only be left for one that gained more
    assert (gained[moved] >= gained[observed]).all()


def test_noise_behind_a_class_needs_a_generator_and_follows_it() -> None:
    mechanism = CategoricalMechanism(2, 0, hidden=0, generator=generator())
    seen = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="give a generator"):
        mechanism.abduct(seen, NO_PARENTS, None)
    first, second, other = (mechanism.abduct(seen, NO_PARENTS, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
