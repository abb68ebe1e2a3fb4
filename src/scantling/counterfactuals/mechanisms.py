"""How an attribute follows from its parents and a noise of its own that can be found again (abducted).

Parents come as centred columns (`scantling.counterfactuals.attributes.encoded`); a root has none. Everything is
float64: a table is small, and a counterfactual that is asked back should come back to the last digits.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.spline import N_PARAMETERS, inverse_spline, knots, spline

_HIDDEN: Final = 16
_MOST_LOG_SCALE: Final = 6.0  # a conditional spread is at least 1/400 of the attribute's own, so never 0
_PRIOR_DEVIATION: Final = 10.0  # of a linear effect, in logits or standard deviations: hardly a restraint
_TINY: Final = torch.finfo(torch.float64).tiny


@final
class Conditioner(nn.Module):
    """Parameters of a distribution from the parents: linear, plus a layer of `hidden` units where there are any."""

    def __init__(self, n_inputs: int, n_outputs: int, *, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        hidden = hidden if n_inputs else 0

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))

        self.bias, self.linear = zeros(n_outputs), zeros(n_inputs, n_outputs)
        self.first, self.first_bias, self.last = drawn(n_inputs, hidden), drawn(hidden), zeros(hidden, n_outputs)

    def forward(self, parents: Float[Tensor, "row column"]) -> Float[Tensor, "row output"]:
        """The parameters of each row."""
        units = (parents @ self.first + self.first_bias).tanh()
        return self.bias + parents @ self.linear + units @ self.last

    def penalty(self) -> Float[Tensor, ""]:
        """Minus the logarithm of a normal prior on the weights, but for its constant."""
        free = self.linear.square().sum() / _PRIOR_DEVIATION**2
        held = self.first.square().sum() + self.first_bias.square().sum() + self.last.square().sum()
        return (free + held) / 2

    @torch.no_grad()
    def silence(self, parents: Float[Tensor, "row column"]) -> None:
        """Disregard columns that never move in a table, such as the indicator of a parent that is never missing."""
        moves = (parents != 0).any(dim=0)
        self.first.mul_(moves[:, None])


@final
class CategoricalMechanism(nn.Module):
    """Class probabilities given the parents; the noise is one Gumbel number a class, and the largest sum wins.

    Source: Maddison et al. 2014, "A* Sampling", Sec. 2 (the noise given the winner); Oberst and Sontag 2019,
    "Counterfactual Off-Policy Evaluation with Gumbel-Max Structural Causal Models", Sec. 3.
    """

    def __init__(self, n_classes: int, n_parents: int, *, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.conditioner = Conditioner(n_parents, n_classes, hidden=hidden, generator=generator)

    def class_log_probs(self, parents: Float[Tensor, "row column"]) -> Float[Tensor, "row klass"]:
        """Logarithms of the class probabilities."""
        return torch.log_softmax(self.conditioner(parents), dim=1)

    def log_prob(self, values: Float[Tensor, "row"], parents: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
        """Logarithm of the probability of each row's class."""
        return self.class_log_probs(parents).gather(1, values.long()[:, None])[:, 0]

    def draw_noise(self, n: int, generator: torch.Generator) -> Float[Tensor, "row klass"]:
        """Standard Gumbel numbers."""
        return _gumbels(n, self.n_classes, generator)

    def abduct(
        self, values: Float[Tensor, "row"], parents: Float[Tensor, "row column"], generator: torch.Generator | None
    ) -> Float[Tensor, "row klass"]:
        """A draw of the noise, given the class that was seen; without a generator a ValueError."""
        if generator is None:
            raise ValueError("the noise behind a class is drawn; give a generator")
        return posterior_gumbels(self.class_log_probs(parents), values.long(), generator)

    def predict(self, noise: Float[Tensor, "row klass"], parents: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
        """Index of the class that this noise gives under these parents."""
        return (self.class_log_probs(parents) + noise).argmax(dim=1).to(noise)

    def penalty(self) -> Float[Tensor, ""]:
        """See `Conditioner.penalty`."""
        return self.conditioner.penalty()


@final
class ContinuousMechanism(nn.Module):
    """A normal distribution whose mean and spread follow from the parents, bent by a monotone spline for a flow.

    value = location + scale * inverse_spline(noise), all in standard deviations of the attribute.
    """

    def __init__(self, n_parents: int, *, flow: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.flow = flow
        self.conditioner = Conditioner(
            n_parents, 2 + flow * N_PARAMETERS, hidden=_HIDDEN if flow else 0, generator=generator
        )

    def log_prob(self, values: Float[Tensor, "row"], parents: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
        """Logarithm of the density, in 1 / standard deviation of the attribute."""
        location, log_scale, shape = self._distribution(parents)
        residual = (values - location) * (-log_scale).exp()
        noise, log_slope = spline(residual, knots(shape)) if self.flow else (residual, torch.zeros_like(residual))
        return -0.5 * (noise.square() + math.log(2 * math.pi)) + log_slope - log_scale

    def draw_noise(self, n: int, generator: torch.Generator) -> Float[Tensor, "row one"]:
        """Standard normal numbers."""
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    def abduct(
        self, values: Float[Tensor, "row"], parents: Float[Tensor, "row column"], generator: torch.Generator | None
    ) -> Float[Tensor, "row one"]:
        """The one noise that gives these values; nothing is drawn."""
        location, log_scale, shape = self._distribution(parents)
        residual = (values - location) * (-log_scale).exp()
        return (spline(residual, knots(shape))[0] if self.flow else residual)[:, None]

    def predict(self, noise: Float[Tensor, "row one"], parents: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
        """The value that this noise gives under these parents."""
        location, log_scale, shape = self._distribution(parents)
        residual = inverse_spline(noise[:, 0], knots(shape)) if self.flow else noise[:, 0]
        return location + log_scale.exp() * residual

    def penalty(self) -> Float[Tensor, ""]:
        """See `Conditioner.penalty`; the spline is held near the identity as well."""
        bent = self.conditioner.bias[2:].square().sum() + self.conditioner.linear[:, 2:].square().sum()
        return self.conditioner.penalty() + bent / 2

    def _distribution(
        self, parents: Float[Tensor, "row column"]
    ) -> tuple[Float[Tensor, "_"], Float[Tensor, "_"], Float[Tensor, "_ parameter"]]:
        """Location, logarithm of the scale, and the spline's parameters; a single row where all rows are alike."""
        outputs = self.conditioner(parents if parents.shape[1] else parents[:1])
        log_scale = _MOST_LOG_SCALE * (outputs[:, 1] / _MOST_LOG_SCALE).tanh()
        return outputs[:, 0], log_scale, outputs[:, 2:]


Mechanism: TypeAlias = CategoricalMechanism | ContinuousMechanism


def build_mechanism(attribute: Attribute, n_parents: int, generator: torch.Generator) -> Mechanism:
    """The mechanism an attribute names, before it has learnt anything: the parents have no effect.

    Args:
        n_parents: columns of all parents together.
    """
    if attribute.kind == "continuous":
        return ContinuousMechanism(n_parents, flow=attribute.mechanism == "flow", generator=generator)
    hidden = _HIDDEN if attribute.mechanism == "mlp" else 0
    return CategoricalMechanism(len(attribute.values), n_parents, hidden=hidden, generator=generator)


def posterior_gumbels(
    log_probs: Float[Tensor, "row klass"], observed: Int[Tensor, "row"], generator: torch.Generator
) -> Float[Tensor, "row klass"]:
    """Gumbel noise given that `log_probs + noise` is largest at the observed class.

    The largest sum is a Gumbel number whatever wins; the others are Gumbel numbers cut off there.
    """
    n, n_classes = log_probs.shape
    largest = _gumbels(n, 1, generator)
    free = log_probs + _gumbels(n, n_classes, generator)
    cut_off = -torch.logaddexp(-largest, -free)
    seen = torch.arange(n_classes) == observed[:, None]
    return torch.where(seen, largest, cut_off) - log_probs


def _gumbels(n: int, n_classes: int, generator: torch.Generator) -> Float[Tensor, "row klass"]:
    waits = torch.empty(n, n_classes, dtype=torch.float64).exponential_(generator=generator)
    return -waits.clamp(min=_TINY).log()
