"""Learning mechanisms from a table: penalised maximum likelihood, and a choice by rows that were not seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scantling.counterfactuals.attributes import RICH_MECHANISM, Attribute
from scantling.counterfactuals.mechanisms import CategoricalMechanism, Mechanism, build_mechanism

_SHARES: Final = 4  # of the rows; each is predicted by what the other three taught
_MOST_ROWS_TO_CHOOSE: Final = 4096  # more only take longer
_FEWEST_ROWS_TO_CHOOSE: Final = 40
_ITERATIONS: Final = 200
_ITERATIONS_TO_CHOOSE: Final = 60


def fit_mechanism(
    attribute: Attribute,
    values: Float[Tensor, "row"],
    parents: Float[Tensor, "row column"],
    generator: torch.Generator,
    *,
    iterations: int = _ITERATIONS,
) -> Mechanism:
    """The mechanism the attribute names, near its most probable parameters; rows without a value take no part.

    Classes are smoothed as if each had been seen once more, spread evenly over the rows, so that none is impossible.

    Args:
        parents: the columns of all parents side by side, centred.
        generator: draws the start of hidden layers.
        iterations: of the optimiser, at most; mechanisms without hidden layers and splines need far fewer.
    """
    known = ~values.isnan()
    values, parents = values[known], parents[known]
    mechanism = build_mechanism(attribute, parents.shape[1], generator)
    mechanism.conditioner.silence(parents)
    n = len(values)
    if isinstance(mechanism, CategoricalMechanism):
        targets = smoothed(values.long(), mechanism.n_classes)
        mechanism.conditioner.bias.data = targets.mean(dim=0).log()
        classes = mechanism
        _minimise(mechanism, lambda: -(targets * classes.class_log_probs(parents)).sum(dim=1).mean(), n, iterations)
    else:
        density = mechanism
        _minimise(mechanism, lambda: -density.log_prob(values, parents).mean(), n, iterations)
    return mechanism.requires_grad_(False)


def chosen(
    attribute: Attribute,
    values: Float[Tensor, "row"],
    parents: Float[Tensor, "row column"],
    generator: torch.Generator,
    *,
    iterations: int = _ITERATIONS_TO_CHOOSE,
) -> Attribute:
    """The attribute with its rich mechanism where that is clearly better than the simple one, else as it is.

    Clearly: its mean log-likelihood of unseen rows is higher by more than the standard error of the difference.

    Args:
        iterations: see `fit_mechanism`; fewer than for the final fit, because more change the choice hardly ever.
    """
    known = ~values.isnan()
    values, parents = values[known], parents[known]
    nothing_to_bend = attribute.kind != "continuous" and parents.shape[1] == 0
    if len(values) < _FEWEST_ROWS_TO_CHOOSE or nothing_to_bend:
        return attribute
    rich = attribute.model_copy(update={"mechanism": RICH_MECHANISM[attribute.kind]})
    order = torch.randperm(len(values), generator=generator)[:_MOST_ROWS_TO_CHOOSE]
    values, parents = values[order], parents[order]
    gains = []
    for share in range(_SHARES):
        unseen = torch.arange(len(values)) % _SHARES == share
        better, usual = (
            fit_mechanism(candidate, values[~unseen], parents[~unseen], generator, iterations=iterations).log_prob(
                values[unseen], parents[unseen]
            )
            for candidate in (rich, attribute)
        )
        gains.append(better - usual)
    gain = torch.cat(gains)
    return rich if float(gain.mean()) > float(gain.std()) / len(gain) ** 0.5 else attribute


def smoothed(classes: Int[Tensor, "row"], n_classes: int) -> Float[Tensor, "row klass"]:
    """One-hot rows with as much of an even distribution mixed in as makes each class one case more frequent.

    Source: Laplace's rule of succession: the mean of the rows is (count + 1) / (n + classes).
    """
    share = n_classes / (len(classes) + n_classes)
    return (1 - share) * torch.eye(n_classes, dtype=torch.float64)[classes] + share / n_classes


def _minimise(mechanism: Mechanism, mean_loss: Callable[[], Tensor], n_rows: int, iterations: int) -> None:
    """Move all parameters to a minimum of the mean loss of the rows and the prior's share in it, by full batches."""
    optimiser = torch.optim.LBFGS(
        mechanism.parameters(),
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        optimiser.zero_grad()
        loss = mean_loss() + mechanism.penalty() / n_rows
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
