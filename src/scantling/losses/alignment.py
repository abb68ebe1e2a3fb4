"""The losses without a denominator: matched vectors are pulled together, sets of samples made alike.

A gradient goes into both sides. Where one side is a target, as a teacher's is, the caller detaches it. Sums run in
float32 (float64 for float64), under autocast too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scantling.losses.averaging import SumOverProcesses, weighted_mean
from scantling.losses.windows import near_sums, nearness
from scantling.shapes import Embeddings, Weights

Distance = Literal["cosine", "l1", "l2"]
SampleDistance = Callable[[Tensor, Tensor], Tensor]

SMOOTHING: Final = 1e-5  # pixels; keeps 0/0 away
_SHORTEST: Final = 1e-12  # a shorter vector has no direction: cosine 0, no gradient


def align(
    anchors: Embeddings,
    keys: Embeddings,
    *,
    distance: Distance = "cosine",
    normalise: bool = False,
    per_dimension: bool = False,
    weights: Float[Tensor, "pixel"] | None = None,
    usable: Bool[Tensor, "pixel"] | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows, by weight, of the distance of an anchor to the key beside it; 0 if no row counts.

    A row counts where it is usable and its weight is positive. Whatever else stands in a row, NaN included,
    changes nothing.

    Args:
        distance: "cosine" is 1 - cosine; "l1" the sum over the embedding of absolute, "l2" of squared differences.
            On unit vectors "l2" is twice "cosine".
        normalise: "l1" and "l2" of the unit vectors.
        per_dimension: "l1" and "l2" divided by the length of the embedding: a mean over it.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too; the result is
            then the mean over the rows of all of them.

    Source: Chen and He 2021, "Exploring simple siamese representation learning", Eq. 1 (cosine).
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, keys = _precise(anchors), _precise(keys)
        counted = torch.ones_like(anchors[:, 0]) if weights is None else weights.to(anchors.dtype)
        if usable is not None:
            counted = counted * usable
        if weights is not None or usable is not None:
            silent = (counted <= 0)[:, None]
            anchors, keys = anchors.masked_fill(silent, 0), keys.masked_fill(silent, 0)
        terms = _distances(anchors, keys, distance, normalise)
        if per_dimension and distance != "cosine":
            terms = terms / anchors.shape[1]
        return weighted_mean(terms, counted, sum_over_processes)


def window_alignment(
    first: Float[Tensor, "batch feature *first"],
    second: Float[Tensor, "batch feature *second"],
    *,
    second_index_from_first_index: Float[Tensor, "batch row row"],
    source_from_second_index: Float[Tensor, "batch row row"],
    radius_mm: float,
    weights: Float[Tensor, "batch *first"] | None = None,
    second_usable: Bool[Tensor, "batch *second"] | None = None,
    mean_over: Literal["anchor", "pair"] = "anchor",
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """1 - cosine of each pixel of one view to the pixels of another that lie closer than a radius in the source.

    The pixels of the first map are the anchors. Their exact places in the second map's grid follow from a matrix;
    nothing is rounded or resampled. Anchors without a near pixel add nothing, and where none has one the loss is 0.
    Memory is a few copies of the maps, time goes with the number of pixels in a window. Both ways: add the
    loss with the views exchanged. Gradients of gradients are not available.

    Args:
        second_index_from_first_index: the index in the second feature map of an index of the first one
            (pixel-centre convention, of the maps and not of the images they were made from).
        source_from_second_index: mm in the source of an index of the second feature map; only its linear
            part counts. Both matrices are best left on the CPU, where nothing waits for them.
        radius_mm: > 0.
        weights: of the anchors, >= 0; 0 takes one out. None is 1.
        second_usable: False is a pixel near to none, such as one outside the source.
        mean_over: "anchor" is the mean over anchors of the mean over their near pixels; "pair" the mean over
            all pairs, in which an anchor counts as often as it has near pixels.
        sum_over_processes: as in `align`.

    Raises:
        ValueError: a radius that is not positive, or a matrix without an inverse.

    Source: Xie et al. 2021, "Propagate yourself", the assignment of pixels by distance and the consistency loss,
    there over pairs and with distances in diagonals of a feature's bin; 1 is added, so that the least is 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        near = nearness(
            second_index_from_first_index,
            source_from_second_index,
            radius_mm,
            first_shape=first.shape[2:],
            second_shape=second.shape[2:],
            device=first.device,
        )
        usable = None if weights is None else weights > 0
        sums, counts = near_sums(first, second, near, first_usable=usable, second_usable=second_usable)
        counted = (counts > 0).to(sums.dtype)
        if weights is not None:
            counted = counted * weights.to(sums.dtype)
        if mean_over == "pair":
            counted = counted * counts
        return weighted_mean(1 - sums / counts.clamp(min=1), counted, sum_over_processes)


def energy_distance(
    first: Float[Tensor, "sample batch klass *spatial"],
    second: Float[Tensor, "other batch klass *spatial"],
    distance: SampleDistance,
    *,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """2 E d(x, y) - E d(x, x') - E d(y, y') of two sets of samples, the mean over the batch.

    Means run over all pairs, a sample with itself included: two sets of the same samples have distance 0,
    whatever `distance` is. With one that is not of negative type, as Dice is not, others may have less than 0.

    Args:
        distance: of all pairs of two sets of samples, `[sample, other, batch]`.
        sum_over_processes: as in `align`, over the batch.

    Source: Székely and Rizzo 2013, "Energy statistics"; between the predictions of student and teacher, with
    `dice_distances`, as in AUA.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = _precise(first), _precise(second)
        between, within_first, within_second = (
            distance(x, y).mean(dim=(0, 1)) for x, y in ((first, second), (first, first), (second, second))
        )
        terms = 2 * between - within_first - within_second
        return weighted_mean(terms, torch.ones_like(terms), sum_over_processes)


def dice_distances(
    first: Float[Tensor, "sample batch klass *spatial"],
    second: Float[Tensor, "other batch klass *spatial"],
    *,
    weights: Weights | None = None,
    smoothing: float = SMOOTHING,
) -> Float[Tensor, "sample other batch"]:
    """1 - soft Dice of each sample of a set with each of another, the mean over the classes.

    Args:
        first, second: probabilities; leave a class out by not passing it.
        weights: of the pixels.
        smoothing: in weighted pixels, added to numerator and denominator; where neither sample has the class,
            the distance is 0.
    """
    x, y = (_precise(part).flatten(3) for part in (first, second))
    x_weighed, y_weighed = x, y
    if weights is not None:
        of_pixel = weights.to(x.dtype).flatten(1)[:, None]
        x_weighed, y_weighed = x * of_pixel, y * of_pixel
    overlap = torch.einsum("ibkp,jbkp->ijbk", x_weighed, y)
    sizes = x_weighed.sum(dim=3)[:, None] + y_weighed.sum(dim=3)[None]
    return 1 - ((2 * overlap + smoothing) / (sizes + smoothing)).mean(dim=3)


def _distances(anchors: Tensor, keys: Tensor, distance: Distance, normalise: bool) -> Tensor:
    if normalise or distance == "cosine":
        anchors, keys = _unit(anchors), _unit(keys)
    if distance == "cosine":
        return 1 - (anchors * keys).sum(dim=1)
    difference = anchors - keys
    return (difference.abs() if distance == "l1" else difference.square()).sum(dim=1)


def _unit(vectors: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    has_direction = norms > _SHORTEST
    unit: Tensor = vectors / torch.where(has_direction, norms, 1) * has_direction
    return unit


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
