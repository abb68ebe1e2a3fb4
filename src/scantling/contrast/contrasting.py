"""A contrast of pixels under a pair rule: in one process, or over the batch that several share."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.contrast.gathering import gather_pixels, told_apart
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, join
from scantling.losses.contrastive import Directions, info_nce
from scantling.losses.pairs import Pairs
from scantling.processes import process_count, sum_over_processes


def contrast(
    anchors: Pixels,
    keys: Pixels | None,
    rule: PairRule,
    *,
    temperature: float,
    memory: Pixels | None = None,
    gather_keys: bool = True,
    directions: Directions = "one",
    normalise: bool = True,
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """`info_nce` of anchors with keys under a rule, where every anchor meets the keys of all processes.

    Each process computes the part of its own anchors, and the result is the loss of the whole batch in all of
    them: the gradients, averaged as DistributedDataParallel does, are those of one process with that batch.

    Args:
        keys: None compares the anchors among themselves.
        memory: more keys, the same in every process, such as those of a bank; they join the keys of the batch.
        gather_keys: False where `keys` are the same in every process as they are: a memory or prototypes alone.
        temperature, directions, normalise, tile: as of `info_nce`.

    Raises:
        ValueError: both directions with a memory, whose pixels are never anchors; a memory with other tags than
            the keys; whatever the rule or `info_nce` refuse.
    """
    if directions == "both" and (memory is not None or not gather_keys):
        raise ValueError("contrast: what a memory holds is never an anchor; directions='both' has no meaning with it")
    if keys is None and not gather_keys:
        raise ValueError("contrast: gather_keys=False is for keys that are given; anchors among themselves need all")

    anchors = _anchors_first(anchors, rule) if keys is None else anchors

    def loss(own: Pixels, others: Pixels | None, pairs: Pairs, directions: Directions = "one") -> Tensor:
        return info_nce(
            own.embeddings, None if others is None else others.embeddings, pairs,
            temperature=temperature, directions=directions, normalise=normalise, tile=tile,
            sum_over_processes=sum_over_processes if process_count() > 1 else None,
        )  # fmt: skip

    if process_count() == 1 and memory is None:
        return loss(anchors, keys, rule.pairs(anchors.tags, None if keys is None else keys.tags), directions)
    own = replace(anchors, tags=told_apart(anchors.tags))
    compared, offset = gather_pixels(anchors if keys is None else keys) if gather_keys else (keys, None)
    assert compared is not None
    place = offset if keys is None else None
    if memory is not None:
        compared = join([_telling_usable(part) for part in (compared, memory)])
    first = loss(own, compared, rule.pairs(own.tags, compared.tags, place))
    if directions == "one" or keys is None:  # relations are symmetric: among themselves the other is the same
        return first
    everyone, _ = gather_pixels(anchors)
    own_keys = replace(keys, tags=told_apart(keys.tags))
    return (first + loss(own_keys, everyone, rule.pairs(own_keys.tags, everyone.tags))) / 2


def _anchors_first(pixels: Pixels, rule: PairRule) -> Pixels:
    """The same pixels, those without any positive last: then most blocks of two such need not be computed.

    On an accelerator the order stays, because only the host skips blocks.
    """
    if pixels.embeddings.device.type != "cpu":
        return pixels
    grouping = rule.relation.bind(pixels.tags, pixels.tags).grouping
    if grouping is None or not bool((key_only := grouping().anchors < 0).any()):
        return pixels
    return pixels.pick(key_only.to(torch.uint8).argsort(stable=True))


def _telling_usable(pixels: Pixels) -> Pixels:
    """The same pixels, with all of them said to be usable where nothing was said."""
    if pixels.tags.usable is not None:
        return pixels
    usable = torch.ones(len(pixels), dtype=torch.bool, device=pixels.embeddings.device)
    return replace(pixels, tags=replace(pixels.tags, usable=usable))
