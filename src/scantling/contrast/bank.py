"""Memories: embeddings of past batches with their tags, as keys for the present one.

A bank is a module whose content lies in buffers: saved with the run, put back when a step is undone. Places that
were never filled are told by `usable` and take part in nothing; nothing random stands in for them. Pixels are
pushed after the step that used the bank, so no anchor meets itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from scantling.contrast.gathering import gather_pixels
from scantling.contrast.pixels import Pixels, Tags

_WHOLE: Final = ("image", "patient", "site", "view", "point", "klass", "group", "label_kind")
_FRACTIONS: Final = ("slice_position", "trust", "confidence")
_SUMS_IN_ORDER: Final = ("cpu",)  # where adding rows one by one has the same order in every run
_OF_A_MEAN: Final = ("image", "patient", "site", "klass", "label_kind", "position_mm", *_FRACTIONS)


@final
class FIFOBank(nn.Module):
    """The newest `capacity` pixels, whatever their class."""

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        tags: Sequence[str] = ("image", "patient"),
        axes: int | None = None,
        n_classes: int | None = None,
        normalise: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """An empty bank.

        Args:
            dim: numbers of an embedding.
            tags: what is kept of each pixel. The numbers of points hold within one batch only: kept, they are -1.
            axes, n_classes: sizes of the tags `position_mm` and `annotated`, where these are kept.
            normalise: embeddings are stored with length 1, which no cosine notices and half precision needs.
            dtype: of the storage; half precision halves it, keys come back in float32.

        Raises:
            ValueError: a tag that does not exist, or whose size is missing; no room.
        """
        super().__init__()
        self.rings = _Rings(
            1, capacity, dim, tags=tags, axes=axes, n_classes=n_classes, normalise=normalise, dtype=dtype
        )

    @torch.no_grad()
    def push(self, pixels: Pixels) -> None:
        """Store the usable pixels of all processes, the oldest falling out; of too many the last are stored.

        A pixel whose embedding is zero or not finite is not stored.

        Raises:
            ValueError: embeddings of another dimension, or a tag that is kept and missing.
        """
        pixels = self.rings.incoming(pixels)
        self.rings.write(pixels, torch.zeros_like(self.rings.place).expand(len(pixels)))

    def pixels(self) -> Pixels:
        """Every place of the bank, those never filled not usable; always `capacity` of them."""
        return self.rings.pixels()

    def fill(self) -> Float[Tensor, ""]:
        """Share of the bank that is filled, in [0, 1]."""
        return self.rings.fill()[0]


@final
class ClassBank(nn.Module):
    """The newest `capacity` pixels, or image means, of each of some classes."""

    classes: Tensor

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        classes: Sequence[int],
        store: Literal["pixels", "means"] = "pixels",
        tags: Sequence[str] = ("klass", "image", "patient"),
        axes: int | None = None,
        n_classes: int | None = None,
        normalise: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """An empty bank.

        Args:
            capacity: places of each class.
            classes: which have a memory. Whether background is one of them is a decision to take: with it,
                background keys fill denominators; without it, they are left out of both sides.
            store: "means" stores one mean embedding of each class of each image in the batch, so that a large
                structure does not crowd out the past. It has the mean of the pixels' fractional tags.
            tags, axes, n_classes, normalise, dtype: as of `FIFOBank`; `klass` is always kept.

        Raises:
            ValueError: no class or one twice, a tag that does not exist or that a mean does not have, no room.
        """
        super().__init__()
        if not classes or len(set(classes)) < len(classes) or min(classes) < 0:
            raise ValueError(f"ClassBank: classes must be different and from 0, at least one; got {tuple(classes)}")
        if store == "means" and (wrong := set(tags) - set(_OF_A_MEAN)):
            raise ValueError(
                f"ClassBank: a mean of many pixels has no tag {', '.join(sorted(wrong))}; it may keep "
                f"{', '.join(_OF_A_MEAN)}"
            )
        self.store = store
        self.register_buffer("classes", torch.tensor(tuple(classes)))
        self.rings = _Rings(
            len(classes),
            capacity,
            dim,
            tags=("klass", *tags),
            axes=axes,
            n_classes=n_classes,
            normalise=normalise,
            dtype=dtype,
        )

    @torch.no_grad()
    def push(self, pixels: Pixels) -> None:
        """Store the usable pixels of all processes whose class has a memory, or their means, the oldest falling out.

        Of more than a class has room for, the last are stored. A pixel or mean that is zero or not finite is not.

        Raises:
            ValueError: embeddings of another dimension, or a tag that is kept and missing.
        """
        pixels = self.rings.incoming(pixels, also=("image",) if self.store == "means" else ())
        if self.store == "means":
            unit = replace(pixels, embeddings=_unit(pixels.embeddings)) if self.rings.normalise else pixels
            pixels = _image_means(unit, self.classes)
        self.rings.write(pixels, _number_of(pixels.tags.need("klass"), self.classes))

    def pixels(self) -> Pixels:
        """Every place of the bank, class by class, those never filled not usable; always the same number."""
        return self.rings.pixels()

    def fill(self) -> Float[Tensor, "klass"]:
        """Share of each class's places that is filled, in the order of `classes`."""
        return self.rings.fill()


@final
class _Rings(nn.Module):
    """Ring buffers of equal size in one block of memory, written to without a loop or a wait for the device.

    Attributes:
        place: of each ring, where its next pixel goes.
    """

    embeddings: Tensor
    filled: Tensor
    place: Tensor

    def __init__(
        self,
        n_rings: int,
        capacity: int,
        dim: int,
        *,
        tags: Sequence[str],
        axes: int | None,
        n_classes: int | None,
        normalise: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if capacity < 1 or dim < 1:
            raise ValueError(f"a bank needs room: got capacity {capacity} and embeddings of {dim} numbers")
        self.n_rings, self.capacity, self.normalise = n_rings, capacity, normalise
        self.tags = tuple(dict.fromkeys(tags))
        size = n_rings * capacity
        self.register_buffer("embeddings", torch.zeros(size, dim, dtype=dtype))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("place", torch.zeros(n_rings, dtype=torch.int64))
        for name in self.tags:
            self.register_buffer(f"tag_{name}", _empty_tag(name, size, axes, n_classes))

    def incoming(self, pixels: Pixels, also: Sequence[str] = ()) -> Pixels:
        """The pixels of all processes, with the tags that are needed."""
        dim = pixels.embeddings.shape[1]
        if dim != self.embeddings.shape[1]:
            raise ValueError(
                f"bank: made for embeddings of {self.embeddings.shape[1]} numbers, got some of {dim}; build it with "
                "the projection's output dimension"
            )
        kept = {name: pixels.tags.need(name) for name in (*self.tags, *also)}
        for name, value in kept.items():
            room = getattr(self, f"tag_{name}", value)
            if value.shape[1:] != room.shape[1:]:
                raise ValueError(
                    f"bank: made for a tag {name!r} of {room.shape[1]} columns, got {value.shape[1]}; build it with "
                    f"{'axes' if name == 'position_mm' else 'n_classes'}={value.shape[1]}"
                )
        pixels, _ = gather_pixels(replace(pixels, tags=Tags(**kept, usable=pixels.tags.usable)))
        return pixels

    def write(self, pixels: Pixels, ring: Int[Tensor, "pixel"]) -> None:
        """Store the usable pixels, each in its ring; -1 is none.

        The newest of each ring, at most one for each place, are brought to a block of fixed shape. Where a ring
        gets fewer, the rest of the block writes back what it finds.
        """
        embeddings = (_unit(pixels.embeddings) if self.normalise else pixels.embeddings).to(self.embeddings.dtype)
        usable = _usable(pixels.tags, embeddings)
        rings = torch.arange(self.n_rings, device=ring.device)
        chosen = (ring[:, None] == rings) & usable[:, None]
        place_in_ring = chosen.cumsum(dim=0) - 1
        arriving = chosen.sum(dim=0)
        n = min(len(pixels), self.capacity)
        age = arriving - 1 - place_in_ring  # 0 is the newest
        target = torch.where(chosen & (age < n), rings * n + age, self.n_rings * n).amin(dim=1)
        source = torch.zeros(self.n_rings * n + 1, dtype=torch.int64, device=ring.device)
        source = source.scatter_(0, target, torch.arange(len(pixels), device=ring.device))[:-1]
        ages = torch.arange(n, device=ring.device)
        arrived = (ages < arriving[:, None]).flatten()
        slot = (self.place[:, None] + arriving[:, None] - 1 - ages) % self.capacity
        slot = (slot + rings[:, None] * self.capacity).flatten()
        _overwrite(self.embeddings, slot, embeddings[source], arrived)
        _overwrite(self.filled, slot, arrived, arrived)
        for name in self.tags:
            value = pixels.tags.need(name)[source]
            value = torch.full_like(value, -1) if name == "point" else value
            _overwrite(getattr(self, f"tag_{name}"), slot, value, arrived)
        self.place.copy_((self.place + arriving) % self.capacity)

    def pixels(self) -> Pixels:
        embeddings = self.embeddings
        if embeddings.dtype in (torch.float16, torch.bfloat16):
            embeddings = embeddings.float()
        tags = {name: getattr(self, f"tag_{name}") for name in self.tags}
        return Pixels(embeddings=embeddings, tags=Tags(**tags, usable=self.filled))

    def fill(self) -> Float[Tensor, "ring"]:
        return self.filled.view(self.n_rings, self.capacity).float().mean(dim=1)


def _empty_tag(name: str, size: int, axes: int | None, n_classes: int | None) -> Tensor:
    if name in _WHOLE:
        return torch.full((size,), -1, dtype=torch.int64)
    if name in _FRACTIONS:
        return torch.zeros(size)
    if name == "position_mm" and axes is not None:
        return torch.zeros(size, axes)
    if name == "annotated" and n_classes is not None:
        return torch.zeros(size, n_classes, dtype=torch.bool)
    if name in ("position_mm", "annotated"):
        raise ValueError(f"bank: keeping the tag {name!r} needs {'axes' if name == 'position_mm' else 'n_classes'}=")
    known = ", ".join((*_WHOLE, *_FRACTIONS, "position_mm", "annotated"))
    raise ValueError(f"bank: cannot keep a tag {name!r}; it may keep {known}")


def _usable(tags: Tags, embeddings: Tensor) -> Tensor:
    """Usable pixels whose embedding is finite and not zero."""
    good = embeddings.isfinite().all(dim=1) & (embeddings != 0).any(dim=1)
    return good if tags.usable is None else good & tags.usable


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings if embeddings.dtype == torch.float64 else embeddings.float(), dim=1)


def _overwrite(room: Tensor, slot: Tensor, values: Tensor, arrived: Tensor) -> None:
    """Write values to their slots where they arrived; slots are all different."""
    arrived = arrived.reshape(-1, *(1,) * (values.ndim - 1))
    room.index_copy_(0, slot, torch.where(arrived, values.to(room.dtype), room[slot]))


def _number_of(klass: Tensor, classes: Tensor) -> Tensor:
    """Position of each class in `classes`, -1 where it is not there."""
    same = klass[:, None] == classes
    return torch.where(same.any(dim=1), same.to(torch.int64).argmax(dim=1), -1)


def _image_means(pixels: Pixels, classes: Tensor) -> Pixels:
    """One pixel for each class of each image, at the place of its last pixel there; other places are not usable.

    Whole-number tags are those of the last pixel, fractions are means.
    """
    number = _number_of(pixels.tags.need("klass"), classes)
    usable = _usable(pixels.tags, pixels.embeddings) & (number >= 0)
    group = _last_of_same(pixels.tags.need("image") * len(classes) + number, usable)
    size = _sums_by(group, usable.to(torch.int64))

    def mean(values: Tensor) -> Tensor:
        column = (-1, *(1,) * (values.ndim - 1))
        sums = _sums_by(group, torch.where(usable.reshape(column), values, 0))
        return sums / size.clamp(min=1).reshape(column)

    tags = {name: mean(tag) if tag.is_floating_point() else tag for name, tag in pixels.tags.known().items()}
    return Pixels(embeddings=mean(pixels.embeddings), tags=replace(Tags(**tags), usable=size > 0))


def _last_of_same(key: Tensor, usable: Tensor) -> Tensor:
    """For each pixel the place of the last usable one of its key; those not usable have a place of their own kind."""
    ordered, order = torch.where(usable, key, torch.iinfo(key.dtype).max).sort(stable=True)
    run = (ordered != ordered.roll(1)).to(torch.int64)
    run[:1] = 0
    run = run.cumsum(dim=0)
    last = torch.zeros_like(order).scatter_reduce_(0, run, order, "amax")
    return torch.empty_like(order).scatter_(0, order, last[run])


def _sums_by(group: Tensor, values: Tensor) -> Tensor:
    """Sums of the rows of each group, at the group's place."""
    if values.device.type in _SUMS_IN_ORDER:
        return torch.zeros_like(values).index_add_(0, group, values)
    return torch.zeros_like(values).index_put_((group,), values, accumulate=True)
