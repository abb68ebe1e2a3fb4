"""Shuffled blocks: every pixel once, whole blocks, any block in any set."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from contrast.view_batches import plain_batch
from scantling.contrast.blocks import block_counts, shuffled_blocks
from scantling.shapes import IGNORE


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shape", "block"),
    [((12, 8), 4), ((13, 10), 4), ((7, 9), (3, 9)), ((5, 6, 7), 3), ((4, 4), 9)],
)
def test_every_pixel_of_every_view_comes_once_in_a_block_of_its_neighbours(
    shape: tuple[int, ...], block: int | tuple[int, ...]
) -> None:
    points = shuffled_blocks(plain_batch(shape), block, rng())
    lengths = (block,) * len(shape) if isinstance(block, int) else block
    counts = block_counts(shape, block)
    n_blocks = math.prod(counts)
    assert counts == tuple(-(-n // length) for n, length in zip(shape, lengths, strict=True))
    assert len(points) % n_blocks == 0
    size = len(points) // n_blocks
    assert points.group is not None
    everything = sorted(itertools.product(*map(range, shape)))
    for b, v in itertools.product(range(2), range(2)):
        kept = points.usable[b, v]
        assert sorted(tuple(map(int, place)) for place in points.indices[b, v][kept].tolist()) == everything
        for k in range(n_blocks):
            there = points.usable[b, v, k * size : (k + 1) * size]
            places = points.indices[b, v, k * size : (k + 1) * size][there]
            extent = (places.amax(dim=0) - places.amin(dim=0) + 1).tolist()
            assert math.prod(extent) == len(places)  # a whole box
            assert all(n <= length for n, length in zip(extent, lengths, strict=True))
            assert (points.group[b, v, k * size : (k + 1) * size][there] == k).all()
    assert torch.equal(points.group == -1, ~points.usable)


def test_any_block_comes_in_any_set_whatever_the_other_views_have() -> None:
    """9 blocks, 400 views: a block is in the first set 44 times on average, with a standard deviation of 6."""
    points = shuffled_blocks(plain_batch((9, 9), n_samples=200), 3, rng())
    block = (points.indices[..., 0] // 3 * 3 + points.indices[..., 1] // 3).long().reshape(400, 9, 9)[:, :, 0]
    for k in range(9):
        counts = torch.bincount(block[:, k], minlength=9)
        assert counts.min() > 18
        assert counts.max() < 75
    assert len({tuple(order) for order in block.tolist()}) > 390


def test_a_coarse_map_has_its_own_pixels_in_blocks() -> None:
    points = shuffled_blocks(plain_batch((12, 12)), 2, rng(), map_shape=(4, 6))
    assert len(points) == 24
    assert sorted(set(points.indices[0, 0, :, 0].tolist())) == [1.0, 4.0, 7.0, 10.0]
    assert sorted(set(points.indices[0, 0, :, 1].tolist())) == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]


def test_blocks_without_foreground_are_left_out() -> None:
    """Foreground in one pixel of one block of view (0, 0); view (0, 1) has unknown and background alone."""
    labels = torch.zeros(1, 2, 9, 7, dtype=torch.int64)
    labels[0, 0, 8, 6] = 2
    labels[0, 1, :4] = IGNORE
    points = shuffled_blocks(plain_batch((9, 7), n_samples=1), 3, rng(), label_maps=labels)
    assert points.klass is not None
    assert points.usable.sum(dim=2).tolist() == [[9, 0]]  # the corner block of 3 x 3
    kept = points.indices[0, 0][points.usable[0, 0]]
    assert kept.amin(dim=0).tolist() == [6.0, 4.0]
    assert sorted(points.klass[0, 0][points.usable[0, 0]].tolist()) == [0] * 8 + [2]
    assert (points.klass[~points.usable] == IGNORE).all()
    assert points.group is not None
    assert torch.equal(points.group == -1, ~points.usable)
    coarse = shuffled_blocks(plain_batch((9, 7), n_samples=1), 3, rng(), label_maps=torch.ones(1, 2, 3, 1).long())
    assert int(coarse.usable.sum()) == 2 * 63
