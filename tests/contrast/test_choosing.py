"""Choosing by random keys: how many are found, how often each, and what happens where there are too few."""

from __future__ import annotations

import itertools

import pytest
import torch

from scantling.contrast.choosing import choose, choose_halves, generator_on, pixel_indices, random_keys


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rows_with_too_few_give_all_they_have_and_say_so() -> None:
    chances = torch.tensor([[True] * 5, [False, True, False, True, False], [False] * 5])
    places, there = choose(random_keys(chances, rng()), 3)
    assert there.tolist() == [[True] * 3, [True, True, False], [False] * 3]
    assert sorted(places[1, :2].tolist()) == [1, 3]
    assert len(set(places[0].tolist())) == 3
    places, there = choose(random_keys(chances, rng()), 9)
    assert there.sum(dim=1).tolist() == [5, 2, 0]
    assert places.shape == (3, 9)
    assert sorted(places[0, :5].tolist()) == [0, 1, 2, 3, 4]


def test_weights_are_how_often_a_place_is_drawn_first() -> None:
    """20 000 rows: four standard deviations of a share are below 0.015."""
    weights = torch.tensor([4.0, 0.0, 1.0, 3.0, 2.0])
    places, there = choose(random_keys(weights.expand(20_000, 5), rng()), 5)
    assert (there.sum(dim=1) == 4).all()
    shares = torch.bincount(places[:, 0], minlength=5) / 20_000
    assert torch.allclose(shares, weights / 10, atol=0.015)
    second = torch.bincount(places[places[:, 0] == 0, 1], minlength=5).float()
    assert torch.allclose(second / second.sum(), torch.tensor([0, 0, 1, 3, 2]) / 6, atol=0.025)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_either_half_fills_up_what_the_other_is_short_of(share: float) -> None:
    """All sizes of both sides from 0 to 7, a quota of 5; `wanted` is the quota's share, halves rounded up."""
    quota = 5
    wanted = {0.0: 0, 0.25: 1, 0.5: 3, 1.0: 5}[share]
    for n_preferred, n_others in itertools.product(range(8), range(8)):
        preferred = torch.arange(20) < 10
        chances = (torch.arange(20) < n_preferred) | ((torch.arange(20) >= 10) & (torch.arange(20) < 10 + n_others))
        keys = random_keys(chances, rng(n_preferred * 8 + n_others))
        places, there, first = choose_halves(keys, preferred, quota, share=share)
        taken = min(n_preferred, wanted)
        rest = min(n_others, quota - taken)
        taken = min(n_preferred, quota - rest)
        assert int(there.sum()) == taken + rest
        assert int(first.sum()) == taken
        assert torch.equal(first & there, first)
        found = places[there].tolist()
        assert len(set(found)) == len(found)
        assert chances[places[there]].all()
        assert torch.equal(preferred[places[there]], first[there])


def test_the_same_generator_draws_the_same_and_another_does_not() -> None:
    chances = torch.rand(50, generator=rng(9)) < 0.7
    first, again, other = (random_keys(chances, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_of_the_device_is_used_as_it_is() -> None:
    generator = rng()
    assert generator_on(generator, torch.device("cpu")) is generator


@pytest.mark.parametrize(("map_shape", "view_shape"), [((3, 4), (6, 12)), ((3, 4), (3, 4)), ((2, 3, 5), (4, 3, 20))])
def test_a_pixel_of_a_coarse_map_lies_in_the_middle_of_what_it_covers(
    map_shape: tuple[int, ...], view_shape: tuple[int, ...]
) -> None:
    numbers = torch.arange(int(torch.tensor(map_shape).prod()))
    found = pixel_indices(numbers, map_shape, view_shape)
    for number, place in enumerate(itertools.product(*map(range, map_shape))):
        for axis, i in enumerate(place):
            covered = view_shape[axis] // map_shape[axis]
            assert found[number, axis] == i * covered + (covered - 1) / 2
