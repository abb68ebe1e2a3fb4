"""Classes as keys: their means in the images of a batch, and their running statistics over a training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from scantling.contrast.pixels import Pixels, Tags
from scantling.processes import sum_over_processes


@dataclass(frozen=True, kw_only=True)
class ClassMeans:
    """The mean embedding of each class in each row, a row being an image, a view of it, or the like.

    Attributes:
        usable: the class has a pixel in the row; the mean is 0 where it has none.
    """

    means: Float[Tensor, "row klass embedding"]
    usable: Bool[Tensor, "row klass"]

    def pixels(self, image: Int[Tensor, "row"] | None = None, *, classes: Sequence[int] | None = None) -> Pixels:
        """The means as keys, row by row, with their class.

        Args:
            image: of each row, for rules that ask for it.
            classes: those that are to be keys, such as foreground only; None is all.
        """
        n_rows, n_classes, _ = self.means.shape
        device = self.means.device
        chosen = torch.tensor(range(n_classes) if classes is None else tuple(classes), device=device)
        tags = Tags(
            klass=chosen.repeat(n_rows),
            image=None if image is None else image.repeat_interleave(len(chosen)),
            usable=self.usable[:, chosen].flatten(),
        )
        return Pixels(embeddings=self.means[:, chosen].flatten(0, 1), tags=tags)


def class_means(pixels: Pixels, rows: Int[Tensor, "pixel"], *, n_rows: int, n_classes: int) -> ClassMeans:
    """Mean of the usable pixels of each class in each row, of the embeddings as they are; gradients flow.

    Args:
        rows: of each pixel, from 0; a negative one leaves it out. With `n` pixels of each image in turn they are
            `torch.arange(n_rows).repeat_interleave(n)`.
    """
    klass = pixels.tags.need("klass")
    counted = (klass >= 0) & (klass < n_classes)
    if pixels.tags.usable is not None:
        counted = counted & pixels.tags.usable
    group = torch.where(counted, rows * n_classes + klass, -1)
    size, sums = _sums_by(group, _precise(pixels.embeddings), n_rows * n_classes)
    means = sums / size.clamp(min=1)[:, None]
    return ClassMeans(means=means.view(n_rows, n_classes, means.shape[1]), usable=(size > 0).view(n_rows, n_classes))


def class_means_of_maps(
    embedding_maps: Float[Tensor, "row embedding *spatial"],
    label_maps: Int[Tensor, "row *spatial"],
    *,
    n_classes: int,
    weights: Float[Tensor, "row *spatial"] | None = None,
) -> ClassMeans:
    """Mean of every pixel of each class in each row of a batch of maps, by weight; gradients flow.

    Source: Chaitanya et al. 2023, "Local contrastive loss with pseudo-label based self-training for
    semi-supervised medical image segmentation", class means of the local loss.
    """
    values = _precise(embedding_maps.flatten(2))
    labels = label_maps.flatten(1)
    with torch.autocast(values.device.type, enabled=False):
        member = (labels[:, None] == torch.arange(n_classes, device=labels.device)[:, None]).to(values.dtype)
        if weights is not None:
            member = member * weights.flatten(1)[:, None].to(values.dtype)
        size = member.sum(dim=2)
        means = torch.bmm(member, values.mT) / torch.where(size > 0, size, 1)[:, :, None]
    return ClassMeans(means=means, usable=size > 0)


@final
class ClassStatistics(nn.Module):
    """Mean, variance and number of the pixels of each class that were ever seen, or an average that forgets.

    The same in every process, saved with the run. A class that was never seen is told by its count of 0.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(
        self,
        n_classes: int,
        dim: int,
        *,
        decay: float | None = None,
        normalise: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Of nothing seen.

        Args:
            decay: None pools exactly: whatever batches the pixels come in, the statistics are those of all at
                once. A number keeps that share of the past at each update of a class, from its second on.
            normalise: statistics of the embeddings at length 1.
        """
        super().__init__()
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1) or None, got {decay}")
        self.decay, self.normalise = decay, normalise
        self.register_buffer("mean", torch.zeros(n_classes, dim, dtype=dtype))
        self.register_buffer("variance", torch.zeros(n_classes, dim, dtype=dtype))
        self.register_buffer("count", torch.zeros(n_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, pixels: Pixels) -> None:
        """Take in the usable pixels of known class, of all processes.

        A pixel that is not finite is left out; so is one of length 0 where they are brought to length 1.

        Raises:
            ValueError: embeddings of another dimension, or without class.

        Source: Chan et al. 1983, "Algorithms for computing the sample variance", Eq. 2.1 (two parts pooled).
        """
        if pixels.embeddings.shape[1] != self.mean.shape[1]:
            raise ValueError(
                f"class statistics: made for embeddings of {self.mean.shape[1]} numbers, got some of "
                f"{pixels.embeddings.shape[1]}; build them with the projection's output dimension"
            )
        count, mean, variance = self._of_batch(pixels)
        share = self._share_of_batch(count)[:, None]
        step = mean - self.mean
        self.variance.lerp_(variance, share).add_(share * (1 - share) * step.square())
        self.mean.lerp_(mean, share)
        self.count.add_(count)

    def pixels(self) -> Pixels:
        """The means as keys, one for each class; classes never seen are not usable."""
        klass = torch.arange(len(self.mean), device=self.mean.device)
        return Pixels(embeddings=self.mean, tags=Tags(klass=klass, usable=self.seen))

    @property
    def seen(self) -> Bool[Tensor, "klass"]:
        """Classes of which a pixel was seen."""
        return self.count > 0

    def _of_batch(self, pixels: Pixels) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and variance of each class in the present pixels of all processes."""
        klass = pixels.tags.need("klass")
        embeddings = pixels.embeddings.detach().to(self.mean.dtype)
        usable = (klass >= 0) & (klass < len(self.mean)) & embeddings.isfinite().all(dim=1)
        if self.normalise:
            usable = usable & (embeddings != 0).any(dim=1)
            embeddings = F.normalize(embeddings, dim=1)
        if pixels.tags.usable is not None:
            usable = usable & pixels.tags.usable
        embeddings = torch.where(usable[:, None], embeddings, 0)
        klass = torch.where(usable, klass, -1)
        size, sums = (sum_over_processes(x) for x in _sums_by(klass, embeddings, len(self.mean)))
        at_least_one = size.clamp(min=1)[:, None]
        mean = sums / at_least_one
        from_mean = embeddings - mean[klass.clamp(min=0)]
        _, squares = _sums_by(klass, from_mean.square(), len(self.mean))
        return size.to(torch.int64), mean, sum_over_processes(squares) / at_least_one

    def _share_of_batch(self, count: Tensor) -> Tensor:
        """Weight of the batch's statistics against those so far, 0 where the batch has no pixel of the class."""
        if self.decay is None:
            return count.to(self.mean.dtype) / (self.count + count).clamp(min=1).to(self.mean.dtype)
        share = torch.full_like(self.mean[:, 0], 1 - self.decay).masked_fill(self.count == 0, 1)
        return share.masked_fill(count == 0, 0)


def _sums_by(group: Tensor, values: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Number and sum of the rows of each group; -1 is none.

    As a product with the groups' membership: differentiable, and in the same order in every run.
    """
    with torch.autocast(values.device.type, enabled=False):
        member = (torch.arange(n_groups, device=group.device)[:, None] == group).to(values.dtype)
        return member.sum(dim=1), member @ values


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
