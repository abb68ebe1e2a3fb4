"""The dense contrastive losses that published code uses, written again from their formulas and their costs.

None of it is anybody's code: each function is the loss of the paper with the matrices that the released version is
known to hold, in the same number and of the same types. `reference` is the oracle: the same losses and their gradients
in float64 by blocks of rows, from the closed form of the softmax and without autograd.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-8


def dual_view(anchors: Tensor, keys: Tensor, image: Tensor, aligned: Tensor, temperature: float) -> Tensor:
    """DVD-CL: point i of the one view against all points of the other, both ways, added.

    Args:
        anchors, keys: the points of the two views, one after the other, image by image.
        image: number of the image of each point.
        aligned: whether the point lies in both views; a point that does not is only a negative.
    """
    anchors, keys = F.normalize(anchors, dim=1), F.normalize(keys, dim=1)
    forth = _dual_view_one_way(anchors, keys, image, aligned, temperature)
    return forth + _dual_view_one_way(keys, anchors, image, aligned, temperature)


def _dual_view_one_way(anchors: Tensor, keys: Tensor, image: Tensor, aligned: Tensor, temperature: float) -> Tensor:
    positive, compared = _same_point(image, aligned)
    return _supervised_contrast(anchors @ keys.T / temperature, positive, compared)


def _same_point(image: Tensor, aligned: Tensor) -> tuple[Tensor, Tensor]:
    """Masks in float32 by way of a matrix of rules: 1 for a positive, 0 for a negative, -1 for neither."""
    point = torch.arange(len(image), device=image.device)
    same_image = image[:, None] == image[None, :]
    same_point = same_image & (point[:, None] == point[None, :])
    both_aligned = aligned[:, None] & aligned[None, :]
    rule = torch.zeros(len(image), len(image), dtype=torch.int64, device=image.device)
    rule[same_point & both_aligned] = 1
    return (rule == 1).float(), (rule >= 0).float()


def multi_view(embeddings: Tensor, image: Tensor, position: Tensor, radius: float, temperature: float) -> Tensor:
    """MVD-CL: all points of all views in one pool; positives lie closer than a radius in the same source image."""
    embeddings = F.normalize(embeddings, dim=1)
    positive, compared = _close_by(image, position, radius)
    return _supervised_contrast(embeddings @ embeddings.T / temperature, positive, compared)


def _close_by(image: Tensor, position: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    same_image = image[:, None] == image[None, :]
    distance = torch.cdist(position, position, compute_mode="donot_use_mm_for_euclid_dist")
    rule = torch.zeros(len(image), len(image), dtype=torch.int64, device=image.device)
    rule[same_image & (distance < radius)] = 1
    rule[torch.eye(len(image), dtype=torch.bool, device=image.device)] = -1
    return (rule == 1).float(), (rule >= 0).float()


def _supervised_contrast(logits: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """Mean over anchors with a positive of the mean over positives of minus the log-probability."""
    masked = logits * compared
    shifted = masked - masked.max(dim=1, keepdim=True).values.detach()
    exponentials = shifted.exp() * compared
    log_probability = shifted - (exponentials.sum(dim=1, keepdim=True) + SMALLEST).log()
    count = positive.sum(dim=1)
    per_anchor = -(positive * log_probability).sum(dim=1) / count.clamp_min(1)
    return per_anchor[count > 0].mean()


def cross_entropy_both_ways(anchors: Tensor, keys: Tensor, aligned: Tensor, temperature: float) -> Tensor:
    """The same loss as `dual_view` in the usual few lines: one product, and a cross-entropy along each of its sides."""
    logits = F.normalize(anchors, dim=1) @ F.normalize(keys, dim=1).T / temperature
    target = torch.where(aligned, torch.arange(len(anchors), device=anchors.device), -100)
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


def reference(
    anchors: Tensor,
    keys: Tensor | None,
    positive: Callable[[slice], Tensor],
    temperature: float,
    *,
    rows: int = 500,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction in float64: the loss, and its gradients at the anchors and at the keys if there are any.

    Args:
        keys: None where the anchors are their own keys, and no anchor is a pair of itself.
        positive: the positives of some rows, as a mask; all else is negative.
        rows: how many are held at a time.
    """
    itself = keys is None
    a, a_norm = _unit(anchors.detach().double())
    k, k_norm = (a, a_norm) if keys is None else _unit(keys.detach().double())
    at_a, at_k = torch.zeros_like(a), torch.zeros_like(k)
    total, n_counted = torch.zeros((), dtype=torch.float64, device=a.device), 0
    for top in range(0, len(a), rows):
        block = slice(top, min(top + rows, len(a)))
        logits = a[block] @ k.T / temperature
        mask = positive(block).clone()
        if itself:
            logits.diagonal(block.start).fill_(-torch.inf)
            mask.diagonal(block.start).fill_(False)
        count = mask.sum(dim=1)
        counts = count > 0
        log_z = logits.logsumexp(dim=1)
        mean_positive = logits.where(mask, 0).sum(dim=1) / count.clamp_min(1)
        total += ((log_z - mean_positive) * counts).sum()
        n_counted += int(counts.sum())
        at_logits = logits.sub_(log_z[:, None]).exp_()
        at_logits.sub_(mask / count.clamp_min(1)[:, None]).mul_(counts[:, None])
        at_a[block] += at_logits @ k / temperature
        at_k += at_logits.T @ a[block] / temperature
    if itself:
        return total / n_counted, (_through_unit(at_a + at_k, a, a_norm) / n_counted,)
    gradients = _through_unit(at_a, a, a_norm), _through_unit(at_k, k, k_norm)
    return total / n_counted, tuple(gradient / n_counted for gradient in gradients)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors / norms, norms


def _through_unit(gradient: Tensor, unit: Tensor, norms: Tensor) -> Tensor:
    """The gradient at vectors from that at the same made unit vectors."""
    return (gradient - unit * (gradient * unit).sum(dim=1, keepdim=True)) / norms
