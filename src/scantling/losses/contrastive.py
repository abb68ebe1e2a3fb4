"""InfoNCE over a pair rule: exact, in memory that grows with the pixels and never with the pairs."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.losses.averaging import SumOverProcesses, weighted_mean
from scantling.losses.pairs import Pairs
from scantling.losses.streaming import streamed_terms
from scantling.losses.tiles import Setting

Directions = Literal["one", "both"]


def info_nce(
    anchors: Float[Tensor, "anchor embedding"],
    keys: Float[Tensor, "key embedding"] | None,
    pairs: Pairs,
    *,
    temperature: float,
    directions: Directions = "one",
    normalise: bool = True,
    tile: int | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over anchors of the mean over their positives of -log of a positive's share of the denominator.

    With logits s = similarity / temperature, an anchor's term is the mean over its positives p of
    `log(sum of exp(s) over the denominator) - s_p`; `pairs` says what is positive, what is compared, and what
    the denominator is. Anchors without a positive add nothing; where no anchor has one the loss is 0, and
    `backward` gives zeros. Sums are in float32 (float64 for float64), under autocast too. Gradients of
    gradients are not available.

    Args:
        keys: None where the anchors are their own keys; `pairs.own` is 0 then.
        temperature: divides the similarities; > 0. Below 0.025, or without `normalise`, each anchor's largest
            logit is found first, which costs a product more.
        directions: "both" is the mean of anchors over keys and keys over anchors, from one product.
        normalise: similarity is the cosine; otherwise the dot product as it is.
        tile: side of the square of similarities that is held at a time; changes speed and memory, not the value.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too; the result
            is then the loss over the anchors of all of them.

    Raises:
        ValueError: sizes that do not fit `pairs`, or a temperature or tile that is not positive.

    Source: Khosla et al. 2020, "Supervised Contrastive Learning", Eq. 2 ("shared"); Chaitanya et al. 2020,
        "Contrastive learning of global and local features", Eq. 1 ("per_positive"); Liu et al. 2023,
        "Multi-Scale Cross Contrastive Learning", the balanced denominator.
    """
    _require_fit(anchors, keys, pairs, temperature, tile)
    setting = Setting(pairs=pairs, temperature=temperature, both=directions == "both", normalise=normalise, tile=tile)
    with torch.autocast(anchors.device.type, enabled=False):
        terms, counted, key_terms, keys_counted = streamed_terms(anchors, keys, setting)
        first = weighted_mean(terms, _weights(counted, pairs.anchor_trust, terms), sum_over_processes)
        if not len(key_terms):
            return first
        weights = _weights(keys_counted, pairs.key_trust, terms)
        return (first + weighted_mean(key_terms, weights, sum_over_processes)) / 2


def _weights(counted: Tensor, trust: Tensor | None, like: Tensor) -> Tensor:
    return counted.to(like.dtype) if trust is None else counted * trust.to(like.dtype)


def _require_fit(anchors: Tensor, keys: Tensor | None, pairs: Pairs, temperature: float, tile: int | None) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be >= 1, got {tile}")
    n_keys = len(anchors if keys is None else keys)
    if (len(anchors), n_keys) != (pairs.n_anchors, pairs.n_keys):
        raise ValueError(
            f"the pairs are of {pairs.n_anchors} anchors and {pairs.n_keys} keys, but there are {len(anchors)} and "
            f"{n_keys}; bind the rule to the tags of these pixels"
        )
    if keys is None and pairs.own != 0:
        raise ValueError("without keys the anchors are their own keys: pairs.own must be 0")
    if (pairs.groups is not None) and pairs.groups.n_groups < 1:
        raise ValueError(f"pairs.groups.n_groups must be >= 1, got {pairs.groups.n_groups}")
