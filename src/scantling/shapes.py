"""Names for the tensors that cross module borders; `*spatial` is two axes in 2D and three in 3D.

Axes are in array order: `(y, x)` in 2D and `(z, y, x)` in 3D. The tests switch on run-time checking of every
annotated function of the package.
"""

from __future__ import annotations

from typing import Final

from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORE: Final = -1
"""The label of a pixel nobody looked at, or outside the image: no loss, no metric counts it."""

Image = Float[Tensor, "channel *spatial"]
Images = Float[Tensor, "batch channel *spatial"]
LabelMap = Int[Tensor, "*spatial"]
LabelMaps = Int[Tensor, "batch *spatial"]
Logits = Float[Tensor, "batch klass *spatial"]
Probs = Float[Tensor, "batch klass *spatial"]
Weights = Float[Tensor, "batch *spatial"]
Features = Float[Tensor, "batch feature *spatial"]
Embeddings = Float[Tensor, "pixel embedding"]
ClassMask = Bool[Tensor, "batch klass"]
