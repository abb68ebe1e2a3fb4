"""Each measure against its definition, one pixel or pair at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scantling.contrast import measures
from scantling.contrast.measures import (
    alignment,
    classes_present,
    effective_rank,
    feature_std,
    gradient_spread,
    groups_told_apart,
    places_held,
    second_moment,
    some_of,
    sums_by_class,
    uniformity,
)
from scantling.contrast.pixels import Pixels, Tags
from scantling.losses.pairs import PairBlock, Pairs

N, M, DIM = 23, 17, 5


def unit(n: int = N, dim: int = DIM, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def some_mask(n: int = N, seed: int = 1) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.6


def dense(positive: Tensor, compared: Tensor | None = None, **more: object) -> Pairs:
    """Pairs given as whole matrices."""

    def block(anchors: slice, keys: slice) -> PairBlock:
        return PairBlock(positive[anchors, keys], None if compared is None else compared[anchors, keys])

    return Pairs(n_anchors=positive.shape[0], n_keys=positive.shape[1], block=block, **more)  # type: ignore[arg-type]


def test_sums_by_class_leave_out_pixels_of_unknown_class() -> None:
    values, classes = torch.arange(6.0), torch.tensor([0, 2, -1, 2, 1, 0])
    assert sums_by_class(values, classes, 4).tolist() == [0 + 5, 4, 1 + 3, 0]
    assert sums_by_class(values[:0], classes[:0], 2).tolist() == [0, 0]


def test_a_class_is_present_where_one_pixel_has_it() -> None:
    assert classes_present(torch.tensor([[0, -1], [2, 0]]), 4).tolist() == [1, 0, 1, 0]


def test_places_of_a_memory_hold_something_if_usable_finite_and_not_zero() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 0.0], [math.nan, 1.0], [0.0, 2.0]])
    bank = Pixels(embeddings=embeddings, tags=Tags(usable=torch.tensor([True, True, True, False])))
    assert places_held(bank).tolist() == [True, False, False, False]
    assert places_held(Pixels(embeddings=embeddings, tags=Tags())).tolist() == [True, False, False, True]


def test_feature_std_is_that_of_the_usable_rows_averaged_over_dimensions() -> None:
    vectors, usable = unit(), some_mask()
    expected = np.mean([np.std(vectors[usable][:, d].numpy()) for d in range(DIM)])
    assert float(feature_std(vectors, usable)) == pytest.approx(expected, rel=1e-5)


def test_feature_std_is_one_over_the_root_of_the_dimension_in_all_directions_and_zero_in_one_point() -> None:
    everywhere = unit(20_000, 16)
    assert float(feature_std(everywhere, torch.ones(20_000, dtype=torch.bool))) == pytest.approx(0.25, rel=0.01)
    one = unit(1).expand(9, DIM)
    assert float(feature_std(one, torch.ones(9, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)
    assert math.isnan(float(feature_std(one, torch.zeros(9, dtype=torch.bool))))


def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values() -> None:
    vectors, usable = unit(), some_mask()
    singular = np.linalg.svd(vectors[usable].double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share if p > 0))
    assert effective_rank(second_moment(vectors, usable)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_effective_rank_counts_equally_strong_directions(rank: int) -> None:
    directions = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0][:rank]
    vectors = directions.repeat(30, 1)
    usable = torch.ones(len(vectors), dtype=torch.bool)
    assert effective_rank(second_moment(vectors, usable)) == pytest.approx(rank, rel=1e-3)
    assert math.isnan(effective_rank(second_moment(vectors, ~usable)))


def test_uniformity_is_the_log_of_the_mean_potential_of_pairs() -> None:
    vectors, usable = unit(), some_mask()
    rows = vectors[usable].double().numpy()
    potentials = [math.exp(-2 * float(((a - b) ** 2).sum())) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    assert float(uniformity(vectors, usable)) == pytest.approx(math.log(np.mean(potentials)), rel=1e-5)
    assert float(uniformity(vectors[:1].expand(4, DIM), torch.ones(4, dtype=torch.bool))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("own", [None, 0, 2])
def test_alignment_is_the_mean_squared_distance_of_positive_pairs(
    own: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "TILE", 6)
    n_keys = N + 3 if own is not None else M
    anchors, keys = unit(), unit(n_keys, seed=5)
    positive = torch.rand(N, n_keys, generator=torch.Generator().manual_seed(2)) < 0.3
    usable, keys_usable = some_mask(), some_mask(n_keys, seed=7)
    pairs = dense(positive, own=own, anchors_usable=usable, keys_usable=keys_usable)
    distances = [
        float((anchors[i] - keys[j]).double().square().sum())
        for i in range(4, 15)
        for j in range(n_keys)
        if positive[i, j] and usable[i] and keys_usable[j] and (own is None or j != own + i)
    ]
    scaled = (Pixels(embeddings=3 * anchors, tags=Tags()), Pixels(embeddings=0.1 * keys, tags=Tags()))
    assert float(alignment(*scaled, pairs, slice(4, 15))) == pytest.approx(np.mean(distances), rel=1e-5)


def test_alignment_without_positives_is_not_a_number() -> None:
    pixels = Pixels(embeddings=unit(), tags=Tags())
    nothing = Pairs(n_anchors=N, n_keys=N, block=lambda a, k: PairBlock(None, None), own=0)
    assert math.isnan(float(alignment(pixels, pixels, nothing, slice(0, N))))


def test_groups_told_apart_are_the_classes_whatever_their_sizes() -> None:
    classes = torch.tensor([0] * 11 + [1] * 2 + [2] * 4 + [3])
    same = classes[:, None] == classes
    positives, negatives = same.sum(dim=1) - 1, (~same).sum(dim=1)
    assert float(groups_told_apart(positives, negatives).mean()) == pytest.approx(4)


def test_gradient_spread_is_the_share_of_anchors_that_get_gradient() -> None:
    everybody = torch.ones(10, dtype=torch.bool)
    assert float(gradient_spread(torch.full((10,), 3e5), everybody)) == pytest.approx(1)
    assert float(gradient_spread(torch.eye(10)[3] * 1e30, everybody)) == pytest.approx(0.1)
    assert float(gradient_spread(torch.tensor([2.0, 2.0, 9.0]), torch.tensor([True, True, False]))) == pytest.approx(1)
    lengths = torch.tensor([1.0, 2.0, 4.0])
    assert float(gradient_spread(lengths, everybody[:3])) == pytest.approx(7**2 / (3 * 21))


def test_some_pixels_are_drawn_without_repetition_and_usable_ones_first() -> None:
    vectors, usable = unit(200), torch.arange(200) % 4 == 0
    drawn, still = some_of(vectors, usable, 60, torch.Generator().manual_seed(0))
    assert still.sum() == 50
    assert len(torch.unique(drawn, dim=0)) == 60
    fewer, all_usable = some_of(vectors, usable, 20, torch.Generator().manual_seed(0))
    assert all_usable.all()
    other, _ = some_of(vectors, usable, 20, torch.Generator().manual_seed(1))
    assert not torch.equal(fewer, other)
    whole, _ = some_of(3 * vectors, usable, 200, torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole, vectors)
