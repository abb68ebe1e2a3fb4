"""The two sums of a contrast as block kernels for CUDA: denominators, and what they give to the gradients.

A block of rows stays on the chip while all columns pass by; neither similarities nor their exponentials are ever
written to memory. Products are made in the vectors' own precision (float32 as three TF32 products), sums in
float32. Import this module only where Triton is installed; `TRITON_INTERPRET=1` runs it without a GPU.
"""

# ruff: noqa: N803  (compile-time arguments of a kernel are written in capitals)

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_DIM = 256
"""Of the vectors: a block of gradients must fit into registers."""


@triton.jit
@no_type_check
def _block(
    vectors, first, n, dim, ROWS: tl.constexpr, DIM: tl.constexpr
):  # rows of a matrix, 0 beyond its edges  # fmt: skip
    rows, columns = first + tl.arange(0, ROWS), tl.arange(0, DIM)
    inside = (rows[:, None] < n) & (columns[None, :] < dim)
    return tl.load(vectors + rows[:, None] * dim + columns[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def _exponentials(
    rows, columns, row_start, column_start, n_columns, scale, own,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_OWN: tl.constexpr,
):  # fmt: skip
    logits = tl.dot(rows, tl.trans(columns), input_precision="tf32x3") * scale
    place = column_start + tl.arange(0, COLUMNS)
    kept = (place < n_columns)[None, :]
    if HAS_OWN:
        kept = kept & ((row_start + own + tl.arange(0, ROWS))[:, None] != place[None, :])
    return tl.where(kept, tl.exp(logits), 0.0)


@triton.jit
@no_type_check
def _denominators(
    row_vectors, column_vectors, weights, sums, n_rows, n_columns, dim, scale, own,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr, HAS_OWN: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * ROWS
    rows = _block(row_vectors, start, n_rows, dim, ROWS, DIM)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for first in range(0, n_columns, COLUMNS):
        columns = _block(column_vectors, first, n_columns, dim, COLUMNS, DIM)
        tile = _exponentials(rows, columns, start, first, n_columns, scale, own, ROWS, COLUMNS, HAS_OWN)
        place = first + tl.arange(0, COLUMNS)
        weight = tl.load(weights + place, mask=place < n_columns, other=0.0)
        total += tl.sum(tile * weight[None, :], axis=1)
    place = start + tl.arange(0, ROWS)
    tl.store(sums + place, total, mask=place < n_rows)


@triton.jit
@no_type_check
def _gradients(
    row_vectors, column_vectors, row_weights, column_weights, gradients, n_rows, n_columns, dim, scale, own,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr, HAS_OWN: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * ROWS
    rows = _block(row_vectors, start, n_rows, dim, ROWS, DIM)
    place = start + tl.arange(0, ROWS)
    first_of_row = tl.load(row_weights + place, mask=place < n_rows, other=0.0)
    second_of_row = tl.load(row_weights + n_rows + place, mask=place < n_rows, other=0.0)
    total = tl.zeros((ROWS, DIM), dtype=tl.float32)
    for first in range(0, n_columns, COLUMNS):
        columns = _block(column_vectors, first, n_columns, dim, COLUMNS, DIM)
        tile = _exponentials(rows, columns, start, first, n_columns, scale, own, ROWS, COLUMNS, HAS_OWN)
        other = first + tl.arange(0, COLUMNS)
        first_of_column = tl.load(column_weights + other, mask=other < n_columns, other=0.0)
        second_of_column = tl.load(column_weights + n_columns + other, mask=other < n_columns, other=0.0)
        tile *= first_of_row[:, None] * first_of_column[None, :] + second_of_row[:, None] * second_of_column[None, :]
        total += tl.dot(tile.to(columns.dtype), columns, input_precision="tf32x3")
    column = tl.arange(0, DIM)
    inside = (place[:, None] < n_rows) & (column[None, :] < dim)
    tl.store(gradients + place[:, None] * dim + column[None, :], total * scale, mask=inside)


def denominators(rows: Tensor, columns: Tensor, weights: Tensor, *, temperature: float, own: int | None) -> Tensor:
    """For each row the sum over columns, by weight, of exp(product / temperature).

    Args:
        rows, columns: `[n, dim]` and `[m, dim]`, contiguous, of one type.
        own: column `own + i` is left out of row i; None leaves out none.
    """
    sums = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    sizes = _sizes(rows)
    _denominators[(triton.cdiv(len(rows), sizes["ROWS"]),)](
        rows, columns, weights, sums, len(rows), len(columns), rows.shape[1], 1 / temperature, own or 0,
        HAS_OWN=own is not None, **sizes,
    )  # fmt: skip
    return sums


def gradients(
    rows: Tensor,
    columns: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    *,
    temperature: float,
    own: int | None,
) -> Tensor:
    """At each row the sum over columns of exp(product / temperature) (a_i c_j + b_i d_j) column_j / temperature.

    Args:
        row_weights: a and b, `[2, n]`, contiguous.
        column_weights: c and d, `[2, m]`, contiguous.
    """
    found = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    sizes = _sizes(rows)
    _gradients[(triton.cdiv(len(rows), sizes["ROWS"]),)](
        rows, columns, row_weights, column_weights, found, len(rows), len(columns), rows.shape[1],
        1 / temperature, own or 0, HAS_OWN=own is not None, **sizes,
    )  # fmt: skip
    return found


def _sizes(vectors: Tensor) -> dict[str, int]:
    """Of the blocks: what fits a multiprocessor of compute capability 8.0 and later with some room."""
    dim = max(16, triton.next_power_of_2(vectors.shape[1]))
    wide = dim > 128 or vectors.dtype == torch.float32
    return {"ROWS": 64 if wide else 128, "COLUMNS": 32 if dim > 128 and wide else 64, "DIM": dim}
