"""Pixels: embeddings and, for each, where it is from and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.shapes import Embeddings


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Where N pixels are from and what is known of them; None where nothing is.

    Attributes:
        image: the sample: pixels of all views of one sample share it.
        patient, site: what the sample belongs to.
        view: number of the view within its sample.
        point: the same number where the same place is seen in several views, -1 where it is seen once.
        position_mm: in the source image.
        slice_position: relative position in the volume, in [0, 1].
        klass: class index, IGNORE where unknown.
        annotated: classes that were looked for where the label comes from, background included. A pixel
            labelled background may be any class that was not. None is all.
        trust: in the label, >= 0.
        confidence: in a predicted label, in [0, 1].
        group: any grouping, such as easy 0 and hard 1; -1 for none.
        label_kind: where the label is from; numbers are the recipe's own.
        usable: False is an empty place that takes part in nothing. None is all.
    """

    image: Int[Tensor, "pixel"] | None = None
    patient: Int[Tensor, "pixel"] | None = None
    site: Int[Tensor, "pixel"] | None = None
    view: Int[Tensor, "pixel"] | None = None
    point: Int[Tensor, "pixel"] | None = None
    position_mm: Float[Tensor, "pixel axis"] | None = None
    slice_position: Float[Tensor, "pixel"] | None = None
    klass: Int[Tensor, "pixel"] | None = None
    annotated: Bool[Tensor, "pixel klass"] | None = None
    trust: Float[Tensor, "pixel"] | None = None
    confidence: Float[Tensor, "pixel"] | None = None
    group: Int[Tensor, "pixel"] | None = None
    label_kind: Int[Tensor, "pixel"] | None = None
    usable: Bool[Tensor, "pixel"] | None = None

    def known(self) -> dict[str, Tensor]:
        """The tags that are there, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def need(self, name: str) -> Tensor:
        """A tag that somebody asks for.

        Raises:
            ValueError: it is None.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"the pixels have no tag {name!r}; they have {', '.join(self.known()) or 'none'}")
        return value

    def pick(self, places: Any) -> Tags:
        """The tags of some pixels: a slice, indices or a mask."""
        return Tags(**{name: value[places] for name, value in self.known().items()})

    def to(self, device: torch.device) -> Tags:
        """The same tags on another device."""
        return Tags(**{name: value.to(device, non_blocking=True) for name, value in self.known().items()})


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """N embedded pixels and their tags."""

    embeddings: Embeddings
    tags: Tags

    def __post_init__(self) -> None:
        for name, value in self.tags.known().items():
            if len(value) != len(self.embeddings):
                raise ValueError(f"tag {name!r} has {len(value)} entries for {len(self.embeddings)} pixels")

    def __len__(self) -> int:
        return len(self.embeddings)

    def pick(self, places: Any) -> Pixels:
        """Some of the pixels: a slice, indices or a mask."""
        return Pixels(embeddings=self.embeddings[places], tags=self.tags.pick(places))

    def detach(self) -> Pixels:
        """The same pixels without gradient."""
        return replace(self, embeddings=self.embeddings.detach())


def join(parts: Sequence[Pixels]) -> Pixels:
    """All pixels of several sets, one after the other.

    Raises:
        ValueError: no sets, or a tag that some of them have and others have not.
    """
    if not parts:
        raise ValueError("join: got no sets of pixels")
    names = set(parts[0].tags.known())
    for part in parts[1:]:
        if differing := names ^ set(part.tags.known()):
            raise ValueError(f"join: the sets differ in their tags: {', '.join(sorted(differing))}")
    tags = Tags(**{name: torch.cat([part.tags.need(name) for part in parts]) for name in sorted(names)})
    return Pixels(embeddings=torch.cat([part.embeddings for part in parts]), tags=tags)
