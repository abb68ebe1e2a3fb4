"""Counting in blocks; the oracle counts voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest

from scantling.training import validation
from scantling.training.validation import overlap_counts


@pytest.mark.parametrize("block", [1, 7, 60, 2**20])
def test_overlap_counts_are_those_of_a_loop_over_known_voxels(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 3, (3, 4, 5)).astype(np.int8)
    reference = rng.integers(-1, 3, (3, 4, 5)).astype(np.int8)
    annotated = np.array([True, True, False])
    wanted = np.zeros((3, 3))
    for p, r in zip(predicted.flat, reference.flat, strict=True):
        if r >= 0:
            wanted[1, p] += 1
            wanted[2, r] += 1
            wanted[0, r] += p == r
    wanted[:, 2] = 0  # nobody looked for it
    monkeypatch.setattr(validation, "_BLOCK", block)
    np.testing.assert_array_equal(overlap_counts(predicted, reference, annotated), wanted)
