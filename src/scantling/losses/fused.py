"""When the block kernels for CUDA make the sums of a contrast: after they have proven themselves on this device."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any, Final

import torch
from torch import Tensor

_TYPES: Final = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Of the vectors, with the largest relative error that their products may give the sums of the proof."""


def kernels_for(vectors: Tensor) -> Any | None:
    """The module of kernels if it can be used for these vectors, else None: then tiles give the same sums."""
    if vectors.device.type != "cuda" or vectors.dtype not in _TYPES:
        return None
    kernels = _proven(vectors.device, vectors.dtype)
    return kernels if kernels is not None and vectors.shape[1] <= kernels.LARGEST_DIM else None


@functools.cache
def _proven(device: torch.device, dtype: torch.dtype) -> Any | None:
    """The kernels, if on this device they give what the formulas give; otherwise None, and a warning says why."""
    try:
        kernels = importlib.import_module("scantling.losses.triton_kernels")
    except ImportError:  # Triton comes with torch for CUDA on Linux, and not everywhere
        return None
    try:
        error = largest_error(kernels, device, dtype)
    except Exception as failure:  # noqa: BLE001  (compilers of kernels fail in many ways; none of them may end a run)
        reason = f"{type(failure).__name__}: {failure}"
    else:
        if error <= _TYPES[dtype]:
            return kernels
        reason = f"their sums are off by {error:.1e}"
    warnings.warn(
        f"the contrast's kernels are not used on {device} ({reason}); the slower tiles give the same loss",
        stacklevel=2,
    )
    return None


def largest_error(kernels: Any, device: torch.device, dtype: torch.dtype) -> float:
    """Of both sums on a small problem against their formulas in float64, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    n, m, dim, temperature, own = 150, 170, 48, 0.1, 3
    vectors = torch.nn.functional.normalize(torch.randn(n + m, dim, generator=generator), dim=1).to(device, dtype)
    rows, columns = vectors[:n].contiguous(), vectors[n:].contiguous()
    weights = torch.rand(2, n + m, generator=generator).to(device)
    of_rows, of_columns = weights[:, :n].contiguous(), weights[:, n:].contiguous()
    tile = (rows.double() @ columns.double().T / temperature).exp()
    tile.diagonal(own).zero_()
    expected = tile @ of_columns[0].double(), (tile * (of_rows.double().T @ of_columns.double())) @ columns.double()
    setting = {"temperature": temperature, "own": own}
    actual = (
        kernels.denominators(rows, columns, of_columns[0].contiguous(), **setting),
        kernels.gradients(rows, columns, of_rows, of_columns, **setting) * temperature,
    )
    errors = [(a - e).abs().max() / e.abs().max() for a, e in zip(actual, expected, strict=True)]
    return float(torch.stack(errors).max())
