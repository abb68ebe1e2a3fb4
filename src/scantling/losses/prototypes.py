"""Pixels against classes: each pixel is told its class by the means of all, in matrices of a few columns.

A class or a pixel that is not usable takes part in nothing, and where nothing is left the loss is 0 with a graph.
Everything is computed in float32 (float64 for float64 embeddings), under autocast too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.shapes import Embeddings

SumOverProcesses = Callable[[Tensor], Tensor]


def prototype_cross_entropy(
    anchors: Embeddings,
    klass: Int[Tensor, "pixel"],
    means: Float[Tensor, "klass embedding"],
    *,
    temperature: float,
    normalise: bool = True,
    anchors_usable: Bool[Tensor, "pixel"] | None = None,
    classes_usable: Bool[Tensor, "klass"] | None = None,
    trust: Float[Tensor, "pixel"] | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Mean over pixels, by trust, of -log softmax of the own class among the classes' means over temperature.

    Pixels of unknown class (negative), or of a class that has no mean, are left out.

    Args:
        temperature: divides the similarities; unitless, > 0.
        normalise: similarity is the cosine; otherwise the product.
        classes_usable: which classes have a mean; None is all.
        trust: weight of each pixel, >= 0; None is 1.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too; the
            result is then the loss of the pixels of all of them.

    Raises:
        ValueError: `temperature` is not positive.

    Source: Snell et al. 2017, "Prototypical networks for few-shot learning", Eq. 2, at a temperature.
    """
    _require_positive(temperature)
    counted = _counted(klass, anchors_usable, classes_usable)
    anchors, means = _clean(anchors, counted), _clean(means, classes_usable)
    if normalise:
        anchors, means = F.normalize(anchors, dim=1), F.normalize(means, dim=1)
    with torch.autocast(anchors.device.type, enabled=False):
        logits = anchors @ means.T / temperature
    terms = _log_sum(logits, classes_usable) - _of_class(logits, klass)
    return _mean_by(terms, counted, trust, sum_over_processes)


def gaussian_prototype_cross_entropy(
    anchors: Embeddings,
    klass: Int[Tensor, "pixel"],
    means: Float[Tensor, "klass embedding"],
    variances: Float[Tensor, "klass embedding"],
    *,
    temperature: float,
    normalise: bool = True,
    anchors_usable: Bool[Tensor, "pixel"] | None = None,
    classes_usable: Bool[Tensor, "klass"] | None = None,
    trust: Float[Tensor, "pixel"] | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """What a contrast tends to with ever more keys, the keys of each class being Gaussian with diagonal variance.

    Of a pixel f of class y it is the expectation over positives k of class y of -f.k/t, plus the logarithm of
    the sum over classes c of the expectation of exp(f.k_c/t), which is exp(f.m_c/t + f.S_c f / 2t^2). That is
    the cross-entropy of those exponents as logits, plus the own class's variance term f.S_y f / 2t^2. With
    variance 0 it is `prototype_cross_entropy` of products.

    Args:
        means, variances: of the keys as they are compared: `ClassStatistics` of embeddings at length 1 for
            anchors at length 1.
        temperature: divides the products, and its square the variances; unitless, > 0. The paper has 100.
        normalise: anchors are brought to length 1; means never are, for they are shorter the more keys spread.
        classes_usable, anchors_usable, trust, sum_over_processes: as of `prototype_cross_entropy`.

    Raises:
        ValueError: `temperature` is not positive.

    Source: Wu, Li and Cheng 2021, arXiv:2111.10989, prototype contrast.
    Differs: the released code brings each class's mean and variance to length 1 first; here they are as given.
    """
    _require_positive(temperature)
    counted = _counted(klass, anchors_usable, classes_usable)
    anchors = _clean(anchors, counted)
    means, variances = (_clean(statistic, classes_usable) for statistic in (means, variances))
    if normalise:
        anchors = F.normalize(anchors, dim=1)
    with torch.autocast(anchors.device.type, enabled=False):
        products = anchors @ means.T / temperature
        logits = products + anchors.square() @ variances.T / (2 * temperature**2)
    terms = _log_sum(logits, classes_usable) - _of_class(products, klass)
    return _mean_by(terms, counted, trust, sum_over_processes)


def local_contrast(
    anchors: Embeddings,
    rows: Int[Tensor, "pixel"],
    klass: Int[Tensor, "pixel"],
    means: Float[Tensor, "row klass embedding"],
    *,
    temperature: float,
    pairs: Int[Tensor, "pair 2"] | None = None,
    anchors_usable: Bool[Tensor, "pixel"] | None = None,
    means_usable: Bool[Tensor, "row klass"] | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> Float[Tensor, ""]:
    """Pixels against the class means of their own image, and of one that it is paired with.

    Within an image (`pairs` None) a pixel's term is -log of the share of its class's mean among the means of its
    image. With pairs it has two terms, one for its class's mean in either image, both shares taken among the
    means of both images; with both present their sum is at least 2 log 2. A mean that is not usable has no term
    and no share. A pair, or an image, counts with the mean over its pixels that have a term, and the loss is the
    mean over the pairs, or images, that have such a pixel. Similarity is the cosine.

    Args:
        rows: the image each anchor is from, as a row of `means`; -1 leaves it out.
        klass: column of `means` that is its class's, -1 for none. Leaving background out is leaving its column
            out of the means, and numbering the classes without it.
        temperature: divides the cosines; unitless, > 0.
        pairs: rows of `means`; a row may be in many pairs, or paired with itself.
        sum_over_processes: sums a tensor over all processes, in its backward pass the gradients too; pairs lie
            within a process.

    Raises:
        ValueError: `temperature` is not positive.

    Source: Chaitanya et al. 2023, "Local contrastive loss with pseudo-label based self-training for
        semi-supervised medical image segmentation", intra- and inter-image losses.
    Differs: a class that one of the images lacks is left out, instead of the image.
    """
    _require_positive(temperature)
    n_rows, n_classes, _ = means.shape
    counted = _counted(klass, anchors_usable, None) & (rows >= 0)
    if means_usable is None:
        means_usable = torch.ones((n_rows, n_classes), dtype=torch.bool, device=means.device)
    unit = F.normalize(_clean(anchors, counted), dim=1)
    unit_means = F.normalize(_clean(means, means_usable), dim=2)
    with torch.autocast(anchors.device.type, enabled=False):
        logits = (unit @ unit_means.flatten(0, 1).T / temperature).view(len(unit), n_rows, n_classes)
        log_sums = _log_sum(logits, means_usable)
        own = logits.gather(2, klass.clamp(min=0)[:, None, None].expand(-1, n_rows, 1)).squeeze(2)
        has_mean = means_usable[:, klass.clamp(min=0)].T & counted[:, None]
        member = (rows == torch.arange(n_rows, device=rows.device)[:, None]).to(logits.dtype)
        home = rows.clamp(min=0)[:, None]
        if pairs is None:
            has_term = has_mean.gather(1, home)
            terms = torch.where(has_term, (log_sums - own).gather(1, home), 0)
            sums, counts = (member @ x.to(logits.dtype) for x in (terms, has_term))
        else:
            terms, has_term = _terms_across(log_sums, own, has_mean, home)
            sums, counts = (_of_pairs(member @ x.to(logits.dtype), pairs) for x in (terms, has_term))
    per_pair = sums / counts.clamp(min=1)
    total = torch.stack((per_pair.sum(), (counts > 0).sum().to(per_pair.dtype)))
    if sum_over_processes is not None:
        total = sum_over_processes(total)
    return total[0] / total[1].clamp(min=1)


def _terms_across(log_sums: Tensor, own: Tensor, has_mean: Tensor, home: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's two terms, summed, were its image paired with that of each column; and whether it has any."""
    log_both = torch.logaddexp(log_sums.gather(1, home), log_sums)
    has_home = has_mean.gather(1, home)
    terms = torch.where(has_home, log_both - own.gather(1, home), 0) + torch.where(has_mean, log_both - own, 0)
    return terms, has_home | has_mean


def _of_pairs(table: Tensor, pairs: Tensor) -> Tensor:
    """For each pair of rows both entries of the table, summed."""
    first, second = pairs.unbind(1)
    return table[first, second] + table[second, first]


def _require_positive(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")


def _counted(klass: Tensor, anchors_usable: Tensor | None, classes_usable: Tensor | None) -> Tensor:
    """Pixels that have a class, and their class a mean."""
    counted = klass >= 0
    if classes_usable is not None:
        counted = counted & classes_usable[klass.clamp(min=0)]
    return counted if anchors_usable is None else counted & anchors_usable


def _clean(vectors: Tensor, usable: Tensor | None) -> Tensor:
    """Vectors in the precision of the sums; 0 in the place of those that are not usable, whatever they hold."""
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    return vectors if usable is None else torch.where(usable[..., None], vectors, 0)


def _log_sum(logits: Tensor, usable: Tensor | None) -> Tensor:
    """log of the sum of exp over the usable classes; a number far below any logit where there are none."""
    if usable is not None:
        logits = logits.masked_fill(~usable, torch.finfo(logits.dtype).min)
    return logits.logsumexp(dim=-1)


def _of_class(logits: Tensor, klass: Tensor) -> Tensor:
    return logits.gather(1, klass.clamp(min=0)[:, None]).squeeze(1)


def _mean_by(
    terms: Tensor, counted: Tensor, trust: Tensor | None, sum_over_processes: SumOverProcesses | None
) -> Tensor:
    """Mean of the terms that count, by trust; 0 where none does."""
    weights = counted.to(terms.dtype) if trust is None else trust.to(terms.dtype) * counted
    total = torch.stack(((terms * weights).sum(), weights.sum()))
    if sum_over_processes is not None:
        total = sum_over_processes(total)
    return total[0] / torch.where(total[1] > 0, total[1], 1)
