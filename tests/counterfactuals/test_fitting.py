from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from scantling.counterfactuals.attributes import Attribute, MechanismName
from scantling.counterfactuals.fitting import chosen, fit_mechanism, smoothed
from scantling.counterfactuals.mechanisms import CategoricalMechanism, ContinuousMechanism, Mechanism


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classes(n_classes: int, mechanism: MechanismName = "logistic") -> Attribute:
    return Attribute(
        name="x",
        kind="categorical",
        values=tuple(map(str, range(n_classes))),
        shares=(1 / n_classes,) * n_classes,
        mechanism=mechanism,
    )


def continuous(mechanism: MechanismName) -> Attribute:
    return Attribute(name="x", kind="continuous", mechanism=mechanism)


def no_parents(n: int) -> torch.Tensor:
    return torch.zeros(n, 0, dtype=torch.float64)


def mean_log_prob(mechanism: Mechanism, values: torch.Tensor, parents: torch.Tensor) -> float:
    return float(mechanism.log_prob(values, parents).mean())


def test_a_root_of_classes_has_their_smoothed_frequencies() -> None:
    values = torch.tensor([0, 0, 2, 0, 2, np.nan, 0], dtype=torch.float64)
    mechanism = fit_mechanism(classes(4), values, no_parents(7), generator())
    assert isinstance(mechanism, CategoricalMechanism)
    probs = mechanism.class_log_probs(no_parents(1)).exp()[0]
    np.testing.assert_allclose(probs, (np.array([4, 0, 2, 0]) + 1) / (6 + 4), atol=1e-7)


def test_smoothing_adds_one_case_to_each_class() -> None:
    rows = smoothed(torch.tensor([0, 1, 1]), 3)
    np.testing.assert_allclose(rows.sum(dim=1), 1)
    np.testing.assert_allclose(rows.mean(dim=0), np.array([2, 3, 1]) / 6)


def test_logistic_regression_is_the_minimum_that_another_optimiser_finds() -> None:
    rng = np.random.default_rng(0)
    n = 150
    x = rng.normal(size=(n, 2))
    y = np.array([rng.choice(3, p=special.softmax(row @ np.array([[1, 0, -1], [0, 2, 0]]))) for row in x])
    targets = (n * np.eye(3)[y] + 1) / (n + 3)

    def loss(flat: np.ndarray) -> float:
        bias, weights = flat[:3], flat[3:].reshape(2, 3)
        log_probs = special.log_softmax(bias + x @ weights, axis=1)
        return float(-(targets * log_probs).sum(axis=1).mean() + (weights**2).sum() / 200 / n)

    oracle = optimize.minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-8, "maxiter": 2000}).x
    mechanism = fit_mechanism(classes(3), torch.tensor(y).double(), torch.tensor(x), generator())
    assert isinstance(mechanism, CategoricalMechanism)
    grid = rng.normal(size=(20, 2))
    expected = special.log_softmax(oracle[:3] + grid @ oracle[3:].reshape(2, 3), axis=1)
    np.testing.assert_allclose(mechanism.class_log_probs(torch.tensor(grid)), expected, atol=5e-4)


def test_classes_that_never_meet_a_parent_stay_possible() -> None:
    parents = torch.tensor([[0.0], [1.0]] * 30, dtype=torch.float64)
    mechanism = fit_mechanism(classes(2), parents[:, 0], parents, generator())
    assert isinstance(mechanism, CategoricalMechanism)
    probs = mechanism.class_log_probs(torch.tensor([[0.0], [1.0]], dtype=torch.float64)).exp()
    assert 0.01 < float(probs[0, 1]) < 0.05
    assert 0.01 < float(probs[1, 0]) < 0.05


def test_a_linear_gaussian_is_recovered() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    x = rng.normal(size=(n, 2))
    y = 0.4 + x @ np.array([1.2, -0.7]) + 0.5 * np.exp(0.3 * x[:, 0]) * rng.normal(size=n)
    mechanism = fit_mechanism(continuous("gaussian"), torch.tensor(y), torch.tensor(x), generator())
    bias, linear = mechanism.conditioner.bias.numpy(), mechanism.conditioner.linear.numpy()
    assert bias[0] == pytest.approx(0.4, abs=0.03)
    np.testing.assert_allclose(linear[:, 0], [1.2, -0.7], atol=0.03)
    probes = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    spread = mechanism.predict(torch.ones(2, 1).double(), probes) - mechanism.predict(
        torch.zeros(2, 1).double(), probes
    )
    np.testing.assert_allclose(spread, 0.5 * np.exp([-0.3, 0.3]), rtol=0.06)


def test_a_flow_finds_the_shape_of_a_skewed_and_of_a_bimodal_distribution() -> None:
    rng = np.random.default_rng(2)
    gamma = rng.gamma(2.0, size=6000) / np.sqrt(2)
    two = np.where(rng.random(6000) < 0.4, -1.2, 0.8) + 0.3 * rng.normal(size=6000)
    density_of_two = 0.4 * stats.norm.pdf(two, -1.2, 0.3) + 0.6 * stats.norm.pdf(two, 0.8, 0.3)
    density_of_gamma = stats.gamma.pdf(gamma, 2.0, scale=1 / np.sqrt(2))
    for values, density in ((gamma, density_of_gamma), (two, density_of_two)):
        truth = np.log(density)
        fitted = {
            name: fit_mechanism(
                continuous(name), torch.tensor(values[:3000]), no_parents(3000), generator(), iterations=80
            )
            for name in ("gaussian", "flow")
        }
        unseen = torch.tensor(values[3000:])
        missing = {
            name: truth[3000:].mean() - mean_log_prob(mechanism, unseen, no_parents(3000))
            for name, mechanism in fitted.items()
        }
        assert missing["flow"] < 0.03  # Kullback-Leibler divergence, in nats
        assert missing["gaussian"] > 0.1


def test_a_flow_follows_a_curve_and_a_shape_that_change_with_the_parent() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 1))
    y = x[:, 0] ** 2 / 2 + 0.3 * rng.gumbel(size=2000)
    truth = stats.gumbel_r.logpdf(y, x[:, 0] ** 2 / 2, 0.3)
    parents, values = torch.tensor(x), torch.tensor(y)
    mechanism = fit_mechanism(continuous("flow"), values[:1000], parents[:1000], generator(), iterations=50)
    assert isinstance(mechanism, ContinuousMechanism)
    assert truth[1000:].mean() - mean_log_prob(mechanism, values[1000:], parents[1000:]) < 0.08


def test_the_richer_mechanism_is_chosen_where_it_is_needed_and_only_there() -> None:
    rng = np.random.default_rng(4)
    n = 300
    x = torch.tensor(rng.normal(size=(n, 2)))
    straight = (x[:, 0] + torch.tensor(0.5 * rng.normal(size=n))).double()
    skewed = torch.tensor(rng.gamma(0.8, size=n))
    crossed = ((x[:, 0] * x[:, 1]) > 0).double()
    cases = (
        (continuous("gaussian"), straight, x),
        (continuous("gaussian"), skewed, no_parents(n)),
        (classes(2), crossed, x),
        (continuous("gaussian"), skewed[:30], no_parents(30)),
    )
    found = [chosen(*case, generator(), iterations=12).mechanism for case in cases]
    assert found == ["gaussian", "flow", "mlp", "gaussian"]


def test_the_same_generator_learns_the_same_bits_and_rows_without_a_value_change_nothing() -> None:
    rng = np.random.default_rng(5)
    x, y = torch.tensor(rng.normal(size=(80, 1))), torch.tensor(rng.gamma(1.0, size=80))
    holes = torch.cat([y, torch.full((20,), torch.nan, dtype=torch.float64)])
    wide = torch.cat([x, torch.ones(20, 1, dtype=torch.float64)])
    flow = continuous("flow")
    first, second = (fit_mechanism(flow, y, x, generator(7), iterations=10).state_dict() for _ in range(2))
    third = fit_mechanism(flow, holes, wide, generator(7), iterations=10).state_dict()
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("mechanism", ["gaussian", "flow"])
def test_a_column_of_parents_that_never_moved_has_no_effect(mechanism: MechanismName) -> None:
    rng = np.random.default_rng(6)
    x = torch.tensor(np.stack([rng.normal(size=60), np.zeros(60)], axis=1))
    fitted = fit_mechanism(continuous(mechanism), x[:, 0] * 0.5, x, generator(), iterations=10)
    noise = torch.zeros(1, 1, dtype=torch.float64)
    seen, never = (fitted.predict(noise, torch.tensor([[0.3, flag]], dtype=torch.float64)) for flag in (0.0, 1.0))
    assert torch.equal(seen, never)
