"""Interventions drawn at random for a batch of encoded attributes: what a constraint on counterfactuals trains with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scantling.counterfactuals.attribute_predictor import columns_by_attribute
from scantling.counterfactuals.attributes import Attribute


class SoftIntervention(NamedTuple):
    """A batch's contexts with one attribute of each image set anew, and which attribute that is."""

    contexts: Float[Tensor, "batch context"]
    attribute: Int[Tensor, "batch"]


def draw_interventions(
    contexts: Float[Tensor, "batch context"],
    attributes: Sequence[Attribute],
    rng: torch.Generator,
    *,
    among: Sequence[int] | None = None,
) -> SoftIntervention:
    """For each image one attribute drawn evenly, and for it another value than it has.

    The other value of a binary attribute; one drawn evenly among the others of a categorical one; a standard normal
    draw for a number, which is a draw from its own spread. Where an attribute is missing, any of its values. The
    other attributes stay, descendants too: they are set one at a time, not lived through.

    Args:
        rng: on the CPU.
        among: positions of the attributes to draw from; None: all.

    Raises:
        ValueError: there is nothing to draw from.
        PlanMismatch: contexts have another width than these attributes.
    """
    choices = torch.tensor(range(len(attributes)) if among is None else list(among))
    if not len(choices):
        raise ValueError("soft interventions: no attribute to draw from")
    batch = len(contexts)
    which = choices[torch.randint(len(choices), (batch,), generator=rng)].to(contexts.device)
    columns = columns_by_attribute(contexts, attributes)
    changed = []
    for position, (attribute, own) in enumerate(zip(attributes, columns, strict=True)):
        new = torch.cat([_other_values(attribute, own, rng), torch.zeros_like(own[:, -1:])], dim=1)
        changed.append(torch.where((which == position)[:, None], new, own))
    return SoftIntervention(torch.cat(changed, dim=1), which)


def _other_values(attribute: Attribute, own: Tensor, rng: torch.Generator) -> Tensor:
    """Columns of a value that each image does not have, without the indicator."""
    stated, missing = own[:, :-1], own[:, -1] > 0
    batch = len(own)
    if attribute.kind == "continuous":
        return torch.randn(batch, 1, generator=rng).to(own)
    if attribute.kind == "binary":
        any_value = torch.randint(2, (batch,), generator=rng).to(own)
        return torch.where(missing, any_value, 1 - stated[:, 0])[:, None]
    levels = len(attribute.values)
    step = torch.randint(1, levels, (batch,), generator=rng).to(own.device)
    any_value = torch.randint(levels, (batch,), generator=rng).to(own.device)
    wanted = torch.where(missing, any_value, (stated.argmax(dim=1) + step) % levels)
    return (wanted[:, None] == torch.arange(levels, device=own.device)).to(own)
