"""Measures of a contrast while it trains: who takes part, who gets gradient, what shape the embeddings have.

All on the device, without waiting for it, in shapes known beforehand. What cannot be said is NaN: a spread of no
pixels, an alignment without positives.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.contrast.pixels import Pixels
from scantling.losses.pairs import Pairs
from scantling.shapes import Embeddings

TILE: Final = 8192
"""Keys compared at a time."""


def sums_by_class(
    values: Float[Tensor, "pixel"], classes: Int[Tensor, "pixel"], n_classes: int
) -> Float[Tensor, "klass"]:
    """Sum of the values of each class; pixels of unknown class count nowhere."""
    numbers = torch.arange(n_classes, device=classes.device)
    return (classes == numbers[:, None]).to(values.dtype) @ values


def classes_present(labels: Int[Tensor, "*place"], n_classes: int) -> Float[Tensor, "klass"]:
    """1 for each class that occurs in the labels, else 0."""
    return torch.stack([(labels == k).any() for k in range(n_classes)]).float()


def groups_told_apart(positives: Int[Tensor, "anchor"], negatives: Int[Tensor, "anchor"]) -> Float[Tensor, "anchor"]:
    """Into how many groups the relation divides what an anchor is compared with, the anchor itself included.

    Its mean over the pixels of K classes, each positive to its own and negative to all others, is K, whatever
    their sizes; of V views of P points it is P.
    """
    return (positives + negatives + 1) / (positives + 1)


def places_held(bank: Pixels) -> Bool[Tensor, "place"]:
    """Places of a memory that hold something: usable, finite, and not the zero vector."""
    held = bank.embeddings.isfinite().all(dim=1) & (bank.embeddings != 0).any(dim=1)
    return held if bank.tags.usable is None else held & bank.tags.usable


def some_of(
    embeddings: Embeddings, usable: Bool[Tensor, "pixel"], most: int, generator: torch.Generator
) -> tuple[Float[Tensor, "some embedding"], Bool[Tensor, "some"]]:
    """At most `most` random pixels of unit length, in float32 or better, the usable first, and which are usable."""
    if len(embeddings) > most:
        drawn = torch.rand(len(embeddings), generator=generator).to(embeddings.device, non_blocking=True)
        places = (drawn + usable).topk(most).indices
        embeddings, usable = embeddings[places], usable[places]
    return F.normalize(embeddings if embeddings.dtype == torch.float64 else embeddings.float(), dim=1), usable


def feature_std(unit: Embeddings, usable: Bool[Tensor, "pixel"]) -> Float[Tensor, ""]:
    """Mean over dimensions of the standard deviation of unit vectors over the usable pixels.

    0 where all are one point; 1 / sqrt(dimension) where they point in all directions alike.

    Source: Chen and He 2021, "Exploring Simple Siamese Representation Learning", Sec. 4.1.
    """
    weights = usable.to(unit.dtype)[:, None]
    n = weights.sum()
    mean = (weights * unit).sum(dim=0) / n
    return ((weights * (unit - mean).square()).sum(dim=0) / n).sqrt().mean()


def second_moment(unit: Embeddings, usable: Bool[Tensor, "pixel"]) -> Float[Tensor, "embedding embedding"]:
    """Sum of the outer products of the usable vectors; its eigenvalues are the squared singular values of their matrix.

    In float64, as the root of an eigenvalue that float32 takes for zero need not be small; Apple's devices have none.
    """
    chosen = unit * usable[:, None]
    chosen = chosen if chosen.device.type == "mps" else chosen.double()
    return chosen.T @ chosen


def effective_rank(moment: Float[Tensor, "embedding embedding"]) -> float:
    """Exponential of the entropy of the normalised singular values, from the second moment; NaN of nothing.

    1 where all vectors are multiples of one, the dimension where no direction is preferred. To be asked on the
    CPU: eigenvalues make a device wait.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", Eq. 3.
    """
    singular = torch.linalg.eigvalsh(moment.double()).clamp(min=0).sqrt()
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def uniformity(unit: Embeddings, usable: Bool[Tensor, "pixel"]) -> Float[Tensor, ""]:
    """Logarithm of the mean over pairs of usable pixels of exp(-2 d^2), d their distance: 0 for one point, lower is
    more evenly spread.

    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", Sec. 4.1 (t = 2).
    """
    pair = (usable[:, None] & usable).triu(diagonal=1)
    potential = torch.where(pair, _squared_distances(unit, unit).mul(-2).exp(), 0)
    return (potential.sum() / pair.sum()).log()


def alignment(anchors: Pixels, keys: Pixels, pairs: Pairs, some: slice) -> Float[Tensor, ""]:
    """Mean squared distance, between unit vectors, of the positive pairs of some of the anchors; 0 is aligned, 2 is
    unrelated.

    Args:
        some: which anchors, a slice of known bounds and step 1.

    Source: as `uniformity` (alpha = 2).
    """
    unit = F.normalize(anchors.embeddings[some].float(), dim=1)
    anchors_usable = None if pairs.anchors_usable is None else pairs.anchors_usable[some]
    own = None if pairs.own is None else torch.arange(some.start, some.stop, device=unit.device) + pairs.own
    total, count = unit.new_zeros(()), unit.new_zeros(())
    for start in range(0, pairs.n_keys, TILE):
        tile = slice(start, min(start + TILE, pairs.n_keys))
        positive = pairs.block(some, tile).positive
        if positive is None:
            continue
        if own is not None:
            positive = positive & (own[:, None] != torch.arange(tile.start, tile.stop, device=unit.device))
        if anchors_usable is not None:
            positive = positive & anchors_usable[:, None]
        if pairs.keys_usable is not None:
            positive = positive & pairs.keys_usable[tile]
        distances = _squared_distances(unit, F.normalize(keys.embeddings[tile].float(), dim=1))
        total = total + torch.where(positive, distances, 0).sum()
        count = count + positive.sum()
    return total / count


def gradient_spread(lengths: Float[Tensor, "pixel"], taking_part: Bool[Tensor, "pixel"]) -> Float[Tensor, ""]:
    """Share of the anchors among which the gradient is spread: 1 where all get as much, 1/n where one gets all.

    (sum g)^2 / (n sum g^2), the participation ratio.
    """
    chosen = torch.where(taking_part, lengths, 0)
    chosen = chosen / chosen.amax()  # the loss may be scaled by 2^16: squares must not overflow
    return chosen.sum().square() / (taking_part.sum() * chosen.square().sum())


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Between unit vectors."""
    return (2 - 2 * (first @ second.T)).clamp(min=0)
