"""Likelihoods against torch's distributions, agreements against SciPy, and a network that is free of its batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch.func import functional_call

from scantling.counterfactuals.attribute_predictor import (
    AttributePredictor,
    PredictorConfig,
    agreement,
    attribute_losses,
    predicted_values,
)
from scantling.counterfactuals.attributes import Attribute, DeclaredAttribute, encoded, found
from scantling.errors import ConfigError, PlanMismatch

SEX = found("sex", DeclaredAttribute(), ["F", "M", "M", "F"])
GRADE = found("grade", DeclaredAttribute(kind="categorical"), ["1", "2", "3", "2"] * 5)
AGE = found("age", DeclaredAttribute(kind="continuous"), ["40", "50", "60", "75.5"])
ATTRIBUTES = (SEX, GRADE, AGE)
TEXTS = {
    "sex": ["F", "M", "", "M", "F", "M"],
    "grade": ["1", "", "3", "2", "2", "3"],
    "age": ["40", "61", "50.5", "", "75", "49"],
}
KNOWN = np.array([[bool(TEXTS[a.name][row]) for a in ATTRIBUTES] for row in range(6)])


def contexts(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.cat([encoded(a, a.read(TEXTS[a.name])) for a in ATTRIBUTES], dim=1).to(dtype)


def outputs(scale: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(scale=scale, size=(6, 6)))


def predictor(*, dimensions: int = 2, seed: int = 0, channels: int = 1) -> AttributePredictor:
    return AttributePredictor(
        PredictorConfig(widths=(8, 12)),
        ATTRIBUTES,
        in_channels=channels,
        dimensions=dimensions,
        generator=torch.Generator().manual_seed(seed),
    )


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).uniform(-1, 1, shape)).float()


def spread(raw: torch.Tensor) -> torch.Tensor:
    """The predicted scale: within a factor of e^3 of the attribute's own."""
    return torch.exp(3 * torch.tanh(raw / 3))


def test_losses_are_the_negative_log_likelihoods_of_torch_distributions() -> None:
    given = outputs()
    sex, grade, age = (a.read(TEXTS[a.name]).nan_to_num(0.0) for a in ATTRIBUTES)
    wanted = -torch.stack(
        [
            torch.distributions.Bernoulli(logits=given[:, 0]).log_prob(sex),
            torch.distributions.Categorical(logits=given[:, 1:4]).log_prob(grade),
            torch.distributions.Normal(given[:, 4], spread(given[:, 5])).log_prob(age),
        ],
        dim=1,
    )
    actual = attribute_losses(given, contexts(), ATTRIBUTES)
    torch.testing.assert_close(actual, torch.where(torch.from_numpy(KNOWN), wanted, 0.0), rtol=1e-12, atol=1e-12)


def test_agreement_is_the_probability_of_the_stated_value_or_falls_off_with_its_distance() -> None:
    given = outputs().numpy()
    actual = agreement(torch.from_numpy(given), contexts(), ATTRIBUTES).numpy()
    classes = special.softmax(given[:, 1:4], axis=1)
    for row in range(6):
        sex, grade, age = (TEXTS[name][row] for name in ("sex", "grade", "age"))
        scale = math.exp(3 * math.tanh(given[row, 5] / 3))
        wanted = [
            special.expit(given[row, 0] if sex == "M" else -given[row, 0]) if sex else math.nan,
            classes[row, int(grade) - 1] if grade else math.nan,
            math.exp(-0.5 * (((float(age) - AGE.mean) / AGE.scale - given[row, 4]) / scale) ** 2) if age else math.nan,
        ]
        np.testing.assert_allclose(actual[row], wanted, rtol=1e-12)


def test_gradients_of_the_losses_agree_with_finite_differences() -> None:
    given = outputs().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attribute_losses(x, contexts(), ATTRIBUTES), (given,))


def test_a_missing_attribute_costs_nothing_and_moves_no_output() -> None:
    given = outputs().requires_grad_()
    attribute_losses(given, contexts(), ATTRIBUTES).sum().backward()
    assert given.grad is not None
    moved = [given.grad[:, 0], given.grad[:, 1:4].abs().sum(dim=1), given.grad[:, 4:].abs().sum(dim=1)]
    np.testing.assert_array_equal(torch.stack(moved, dim=1).numpy() != 0, KNOWN)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_far_out_of_range_give_finite_losses_and_gradients(dtype: torch.dtype) -> None:
    given = (outputs(1.0) * 6e4).clamp(-6e4, 6e4)
    given[:, 4] /= 600  # a mean of 100 standard deviations; e^6 times that is the largest gradient half precision holds
    given = given.to(dtype).requires_grad_()
    losses = attribute_losses(given, contexts(torch.float32), ATTRIBUTES)
    agreed = agreement(given.detach(), contexts(torch.float32), ATTRIBUTES)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    assert given.grad is not None
    assert given.grad.isfinite().all()
    assert ((agreed >= 0) & (agreed <= 1)).numpy()[KNOWN].all()


def test_the_predicted_value_is_the_likeliest() -> None:
    given = torch.tensor([[0.1, -1, 3, 2, 0.7, 9], [-0.1, 4, 3, 2, -0.7, -9]])
    torch.testing.assert_close(predicted_values(given, ATTRIBUTES), torch.tensor([[1, 1, 0.7], [0, 0, -0.7]]))


@pytest.mark.parametrize(("dimensions", "size"), [(2, (17, 12)), (3, (9, 8, 11))])
def test_an_image_is_read_alike_whatever_else_is_in_its_batch(dimensions: int, size: tuple[int, ...]) -> None:
    network = predictor(dimensions=dimensions, channels=2)
    batch = images(3, 2, *size)
    alone = torch.cat([network(batch[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(batch), alone)
    assert network(batch).shape == (3, 6)
    assert alone.std(dim=0).min() > 0
    torch.testing.assert_close(network.head(network.features(batch)), network(batch))


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (predictor(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_called_with_detached_parameters_it_hands_gradients_to_the_image_and_none_to_itself() -> None:
    network = predictor()
    frozen = {name: parameter.detach() for name, parameter in network.named_parameters()}
    picture = images(2, 1, 16, 16).requires_grad_()
    read = functional_call(network, frozen, (picture,))
    attribute_losses(read, contexts()[:2], ATTRIBUTES).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not list(network.buffers())


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    network = predictor()
    with pytest.raises(PlanMismatch, match=r"images \(2, 16, 16\): .* built for 1 channels and 2 axes"):
        network(images(1, 2, 16, 16))
    with pytest.raises(PlanMismatch, match="5 predictor outputs: these attributes have 6"):
        attribute_losses(outputs()[:, :5], contexts(), ATTRIBUTES)
    with pytest.raises(PlanMismatch, match="7 context columns: these attributes have 8"):
        agreement(outputs(), contexts()[:, :7], ATTRIBUTES)


@pytest.mark.parametrize(
    ("attributes", "widths", "channels", "dimensions"),
    [((), (8,), 1, 2), (ATTRIBUTES, (8, 0), 1, 2), (ATTRIBUTES, (8,), 0, 2), (ATTRIBUTES, (8,), 1, 4)],
)
def test_an_impossible_predictor_is_refused(
    attributes: tuple[Attribute, ...], widths: tuple[int, ...], channels: int, dimensions: int
) -> None:
    with pytest.raises(ConfigError, match=r"attribute predictor of .*wanted at least one.*E-CFG-58"):
        AttributePredictor(
            PredictorConfig(widths=widths),
            attributes,
            in_channels=channels,
            dimensions=dimensions,
            generator=torch.Generator(),
        )
