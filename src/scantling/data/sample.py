"""What training reads: one crop of one case with its labels, trust and origin."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A crop of a prepared case, larger than the network's patch so that views can rotate and scale it.

    Attributes:
        image: normalised intensities; 0 outside the image.
        label_map: class index, IGNORE where nobody looked and outside the image.
        weight: trust in the label, 0 outside the image.
        annotated: classes that were looked for (background included). A pixel labelled background may be
            any class that was not.
        spacing_mm: of the crop's axes.
        source_from_sample: leads from mm in the crop to mm in the prepared case; both measure from the centre
            of their first voxel (pixel-centre convention).
        case_index, patient_index: position in the training set; patients are numbered in order of appearance.
        slice_position: relative position of the crop's centre along the first axis of the volume, in [0, 1]; 0.5
            for a picture, which is no slice of one.
        key: epoch and position in the epoch, which name every random draw made for this sample.
        alternatives: other images of the same anatomy on the same grid (as another scanner would show it, say);
            label map and weight hold for them as well.
        context: the case's attributes as numbers, for recipes that learn how images depend on them.
    """

    image: Float[Tensor, "channel *spatial"]
    label_map: Int[Tensor, "*spatial"]
    weight: Float[Tensor, "*spatial"]
    annotated: Bool[Tensor, "klass"]
    spacing_mm: tuple[float, ...]
    source_from_sample: Float[Tensor, "row column"]
    case_index: int
    patient_index: int
    slice_position: float
    key: tuple[int, int]
    alternatives: Float[Tensor, "alternative channel *spatial"] | None = None
    context: Float[Tensor, "context"] | None = None
