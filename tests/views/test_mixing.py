"""Mixed batches: what is put where, and that everything known of a pixel goes with it."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scantling.shapes import IGNORE
from scantling.views.mixing import (
    Mix,
    Origin,
    draw_blend,
    draw_box,
    draw_organs,
    mix_images,
    mix_labels,
    mix_tags,
    mix_views,
    mix_weights,
    origin,
    unmix,
)
from scantling.views.view import ViewBatch

SHAPES = [(9, 14), (5, 8, 7)]
shapes = st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def number_of_each_pixel(batch: int, shape: tuple[int, ...]) -> Tensor:
    """An image whose values say where they are from: sample and place."""
    return torch.arange(batch * math.prod(shape), dtype=torch.float64).reshape(batch, 1, *shape)


def box_of(mask: Tensor) -> list[tuple[int, int]]:
    """First and last index + 1 along each axis of what is True."""
    found = []
    for axis in range(mask.ndim):
        others = [k for k in range(mask.ndim) if k != axis]
        line = mask.any(dim=others[0]) if len(others) == 1 else mask.any(dim=others[1]).any(dim=others[0])
        where = [i for i, hit in enumerate(line.tolist()) if hit]
        found.append((where[0], where[-1] + 1))
    return found


def view_batch(batch: int = 4, views: int = 2, shape: tuple[int, ...] = (6, 5), classes: int = 4) -> ViewBatch:
    generator = seeded(5)
    dimensions = len(shape)
    matrices = torch.eye(dimensions + 1, dtype=torch.float64).expand(batch, views, -1, -1).clone()
    matrices[..., 0, -1] = torch.arange(batch * views, dtype=torch.float64).reshape(batch, views)
    return ViewBatch(
        images=torch.rand((batch, views, 2, *shape), generator=generator),
        label_maps=torch.randint(IGNORE, classes, (batch, views, *shape), generator=generator),
        weights=torch.randint(0, 3, (batch, views, *shape), generator=generator) / 2,
        annotated=torch.ones(batch, classes, dtype=torch.bool),
        source_from_view=matrices,
        spacing_mm=(1.0,) * dimensions,
        case_indices=torch.arange(batch) + 10,
        patient_indices=torch.arange(batch) + 20,
        slice_positions=torch.rand(batch, generator=generator),
        displacements=torch.rand((batch, views, dimensions, *[4] * dimensions), generator=generator),
        image_numbers=torch.randint(0, 9, (batch, views), generator=generator),
    )


# Boxes


@given(shape=shapes, fraction=st.floats(0.01, 1), seed=st.integers(0, 2**31), batch=st.integers(1, 5))
@settings(deadline=None, max_examples=80)
def test_a_box_has_the_fraction_of_the_volume_within_half_a_pixel_of_its_last_side(
    shape: tuple[int, ...], fraction: float, seed: int, batch: int
) -> None:
    mix = draw_box(batch, shape, fraction=fraction, generator=seeded(seed))
    assert mix.mask is not None
    assert mix.mask.shape == (batch, *shape)
    for mask in mix.mask:
        box = box_of(mask)
        sides = [stop - start for start, stop in box]
        assert int(mask.sum()) == math.prod(sides), "the box is not full"
        first = math.prod(sides[:-1])
        wanted = fraction * math.prod(shape)
        assert abs(sides[-1] - min(max(wanted / first, 1), shape[-1])) <= 0.5 + 1e-6


def test_boxes_of_a_fifth_cover_a_fifth_of_a_picture_of_224_pixels() -> None:
    mix = draw_box(200, (224, 224), fraction=0.2, generator=seeded())
    assert mix.mask is not None
    share = mix.mask.flatten(1).double().mean(dim=1)
    assert (share - 0.2).abs().max() <= 0.5 / 224 + 1e-9  # half a pixel of the longest possible side
    assert share.mean().item() == pytest.approx(0.2, abs=2e-4)


@pytest.mark.parametrize("shape", [(200, 200), (40, 40, 40)])
def test_sides_are_powers_of_the_fraction_whose_exponents_are_uniform_pieces_of_one(shape: tuple[int, ...]) -> None:
    n, fraction = 600, 0.125
    mix = draw_box(n, shape, fraction=fraction, generator=seeded(3))
    assert mix.mask is not None
    lines = [mix.mask.movedim(axis, 1).flatten(2).any(dim=2) for axis in range(1, mix.mask.ndim)]
    sides = torch.stack([line.sum(dim=1) for line in lines], dim=1)
    exponents = (sides / shape[0]).log() / math.log(fraction)
    dimensions = len(shape)
    torch.testing.assert_close(exponents.mean(dim=0), torch.full((dimensions,), 1 / dimensions), atol=0.03, rtol=0)
    # of D uniform pieces one is longer than t with probability (1 - t)^(D - 1)
    for t in (0.25, 0.5, 0.75):
        longer = (exponents > t).double().mean(dim=0)
        assert (longer - (1 - t) ** (dimensions - 1)).abs().max() < 0.06


def test_a_box_lies_anywhere_with_equal_probability() -> None:
    mix = draw_box(4000, (6, 1), fraction=0.5, generator=seeded())
    assert mix.mask is not None
    starts = torch.tensor([box_of(mask)[0][0] for mask in mix.mask if box_of(mask)[0][1] - box_of(mask)[0][0] == 3])
    assert len(starts) > 200
    counts = torch.bincount(starts, minlength=4).double() / len(starts)
    assert len(counts) == 4
    assert (counts - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / len(starts))


def test_a_range_of_fractions_is_drawn_anew_for_each_image() -> None:
    mix = draw_box(500, (50, 50), fraction=(0.25, 0.5), generator=seeded())
    assert mix.mask is not None
    share = mix.mask.flatten(1).double().mean(dim=1)
    assert share.min() > 0.24
    assert share.max() < 0.51
    assert share.min() < 0.27
    assert share.max() > 0.48
    assert share.mean().item() == pytest.approx(0.375, abs=0.015)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.2, (0.5, 0.25), (0.0, 0.5), math.nan])
def test_impossible_fractions_are_refused(fraction: Any) -> None:
    with pytest.raises(ValueError, match=r"wanted axes and a fraction in \(0, 1\]"):
        draw_box(2, (4, 4), fraction=fraction, generator=seeded())


# Partners


@given(batch=st.integers(2, 9), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_another_image_is_never_the_image_itself_and_each_is_given_once(batch: int, seed: int) -> None:
    mix = draw_blend(batch, generator=seeded(seed))
    assert mix.base.tolist() == list(range(batch))
    assert sorted(mix.partner.tolist()) == list(range(batch))
    assert (mix.partner != mix.base).all()


def test_permuted_partners_are_two_independent_permutations() -> None:
    same = []
    for seed in range(300):
        mix = draw_blend(4, generator=seeded(seed), partners="permuted")
        assert sorted(mix.base.tolist()) == sorted(mix.partner.tolist()) == [0, 1, 2, 3]
        same.append((mix.base == mix.partner).double().mean().item())
    assert sum(same) / len(same) == pytest.approx(0.25, abs=0.05)


def test_the_same_generator_gives_the_same_mix_and_another_one_another() -> None:
    first, again, other = (draw_box(4, (20, 20), fraction=0.3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert first.mask is not None
    assert again.mask is not None
    assert other.mask is not None
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.partner, again.partner)
    assert not torch.equal(first.mask, other.mask)


# One mix, everything


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("partners", ["another", "permuted"])
def test_image_label_weight_and_prediction_share_the_mask_pixel_by_pixel(shape: tuple[int, ...], partners: Any) -> None:
    batch, classes = 4, 3
    generator = seeded(1)
    numbers = number_of_each_pixel(batch, shape)
    labels = torch.randint(IGNORE, classes, (batch, *shape), generator=generator)
    weights = torch.rand((batch, *shape), generator=generator)
    probs = torch.rand((batch, classes, *shape), generator=generator)
    other_probs = torch.rand((batch, classes, *shape), generator=generator)
    mix = draw_box(batch, shape, fraction=0.3, generator=generator, partners=partners)
    assert mix.mask is not None
    image, label, weight = mix_images(numbers, mix), mix_labels(labels, mix), mix_weights(weights, mix)
    prob = mix_images(probs, mix, other_probs)
    pseudo = mix_labels(probs.argmax(dim=1), mix, other_probs.argmax(dim=1))
    for i in range(batch):
        for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
            at = tuple(place)
            inside = bool(mix.mask[(i, *at)])
            source = int(mix.partner[i] if inside else mix.base[i])
            assert image[(i, 0, *at)] == numbers[(source, 0, *at)]
            assert label[(i, *at)] == labels[(source, *at)]
            assert weight[(i, *at)] == weights[(source, *at)]
            expected = (other_probs if inside else probs)[(source, slice(None), *at)]
            assert torch.equal(prob[(i, slice(None), *at)], expected)
            assert pseudo[(i, *at)] == expected.argmax()


@given(shape=shapes, seed=st.integers(0, 2**31), batch=st.integers(1, 4), how=st.sampled_from(["box", "organs"]))
@settings(deadline=None, max_examples=60)
def test_mixed_tags_equal_the_tags_of_the_pixel_s_origin(
    shape: tuple[int, ...], seed: int, batch: int, how: str
) -> None:
    generator = seeded(seed)
    labels = torch.randint(IGNORE, 3, (batch, *shape), generator=generator)
    weights = torch.randint(0, 2, (batch, *shape), generator=generator).float()
    mix = (
        draw_box(batch, shape, fraction=0.4, generator=generator, partners="permuted")
        if how == "box"
        else draw_organs(labels, classes=[1], generator=generator)
    )
    where = origin(mix, shape, view=1, partner_view=3)
    assert where.sample.shape == (1, batch, *shape)
    assert (where.share == 1).all()
    per_sample = torch.arange(batch) * 7 + 3
    tags = per_sample.reshape(-1, *[1] * len(shape)).expand(batch, *shape)
    assert torch.equal(mix_tags(tags, mix), where.of(per_sample))
    place = torch.arange(math.prod(shape)).reshape(shape)
    numbers = number_of_each_pixel(batch, shape)
    assert torch.equal(
        mix_images(numbers, mix)[:, 0], numbers[:, 0].flatten(1)[where.sample[0], place.expand(1, *shape)]
    )
    mixed_labels, mixed_weights = mix_labels(labels, mix), mix_weights(weights, mix)
    assert set(mixed_labels.unique().tolist()) <= set(labels.unique().tolist())
    assert torch.equal(mixed_weights == 0, mix_tags(weights == 0, mix)[0])
    assert mix.mask is not None
    assert torch.equal(where.view[0] == 3, mix.mask)
    assert torch.equal(where.view[0] == 1, ~mix.mask)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_blend_is_the_weighted_mean_and_has_two_origins_whose_shares_sum_to_one(shape: tuple[int, ...]) -> None:
    batch, generator = 3, seeded(2)
    images = torch.rand((batch, 2, *shape), generator=generator, dtype=torch.float64)
    mix = draw_blend(batch, generator=generator, concentration=0.7)
    assert mix.base_share is not None
    mixed = mix_images(images, mix)
    for i in range(batch):
        share = float(mix.base_share[i])
        torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[int(mix.partner[i])])
    where = origin(mix, shape, view=0, partner_view=1)
    assert where.sample.shape == (2, batch, *shape)
    torch.testing.assert_close(where.share.sum(dim=0), torch.ones(batch, *shape))
    tags = torch.arange(batch) + 5
    tag_maps = tags.reshape(-1, *[1] * len(shape)).expand(batch, *shape)
    assert torch.equal(mix_tags(tag_maps, mix), where.of(tags))
    assert (where.sample[0] == mix.base.reshape(-1, *[1] * len(shape))).all()
    assert (where.sample[1] == mix.partner.reshape(-1, *[1] * len(shape))).all()
    assert where.view[:, 0].flatten(1).unique(dim=1).tolist() == [[0], [1]]
    # the content is what its origins say
    from_origins = (where.share.unsqueeze(2) * torch.stack((images[mix.base], images[mix.partner]))).sum(dim=0)
    torch.testing.assert_close(mixed, from_origins.double(), atol=1e-6, rtol=0)


def test_a_blend_keeps_the_label_both_have_and_the_smaller_weight() -> None:
    mix = Mix(base=torch.tensor([0, 1]), partner=torch.tensor([1, 0]), base_share=torch.tensor([0.3, 0.8]))
    labels = torch.tensor([[0, 1, 2, IGNORE, 1]]).new_tensor([[0, 1, 2, IGNORE, 1], [0, 2, 2, 1, IGNORE]])[:, None]
    weights = torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.5], [0.5, 1.0, 1.0, 1.0, 1.0]])[:, None]
    expected = [[0, IGNORE, 2, IGNORE, IGNORE]]
    assert mix_labels(labels, mix).tolist() == [expected, expected]
    assert mix_weights(weights, mix).tolist() == [[[0.5, 1.0, 0.0, 1.0, 0.5]]] * 2


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(concentration: float) -> None:
    mix = draw_blend(4000, generator=seeded(), concentration=concentration)
    assert mix.base_share is not None
    share = mix.base_share.double()
    assert ((share >= 0) & (share <= 1)).all()
    assert share.mean().item() == pytest.approx(0.5, abs=0.03)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.08)  # of Beta(a, a)


def test_impossible_blends_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted concentration > 0, got 0"):
        draw_blend(2, generator=seeded(), concentration=0)


def test_organs_are_pasted_where_the_partner_is_labelled_so_and_nowhere_else() -> None:
    labels = torch.tensor([[[0, 1, 2, IGNORE, 3, 1]], [[2, 2, IGNORE, 1, 0, 3]]])
    weights = torch.tensor([[[1.0, 1, 1, 1, 1, 0]], [[1.0, 0, 1, 1, 1, 1]]])
    plain = draw_organs(labels, classes=[1, 2], generator=seeded())
    assert plain.mask is not None
    assert plain.partner.tolist() == [1, 0]
    assert plain.mask.int().tolist() == [[[1, 1, 0, 1, 0, 0]], [[0, 1, 1, 0, 0, 1]]]
    trusted = draw_organs(labels, classes=[1, 2, IGNORE], generator=seeded(), weights=weights)
    assert trusted.mask is not None
    assert trusted.mask.int().tolist() == [[[1, 0, 0, 1, 0, 0]], [[0, 1, 1, 0, 0, 0]]]
    assert mix_labels(labels, plain).tolist() == [[[2, 2, 2, 1, 3, 1]], [[2, 1, 2, 1, 0, 1]]]


@pytest.mark.parametrize("how", ["box", "blend"])
def test_a_partner_that_is_the_image_itself_changes_nothing(how: str) -> None:
    generator = seeded(7)
    images = torch.randn((3, 2, 6, 7), generator=generator)
    labels = torch.randint(IGNORE, 3, (3, 6, 7), generator=generator)
    weights = torch.rand((3, 6, 7), generator=generator)
    own = torch.arange(3)
    drawn = (
        draw_box(3, (6, 7), fraction=0.5, generator=generator) if how == "box" else draw_blend(3, generator=generator)
    )
    mix = replace(drawn, base=own, partner=own)
    assert torch.equal(mix_images(images, mix), images)
    assert torch.equal(mix_labels(labels, mix), labels)
    assert torch.equal(mix_weights(weights, mix), weights)
    assert not unmix(images, mix).altered.any()


def test_a_batch_of_one_is_its_own_partner() -> None:
    assert draw_box(1, (4, 4), fraction=0.5, generator=seeded()).partner.tolist() == [0]


@pytest.mark.parametrize("shape", SHAPES)
def test_unmixing_names_the_pixels_whose_content_changed_and_gives_the_images_back(shape: tuple[int, ...]) -> None:
    images = number_of_each_pixel(4, shape)
    for partners in ("another", "permuted"):
        mix = draw_box(4, shape, fraction=0.3, generator=seeded(11), partners=partners)
        target, altered = unmix(images, mix)
        assert altered.shape == (4, *shape)
        assert torch.equal(target, images[mix.base])
        assert torch.equal(altered, (mix_images(images, mix) != target)[:, 0])
        assert altered.any()
    blend = draw_blend(4, generator=seeded(1))
    assert unmix(images, blend).altered.all()
    untouched = Mix(base=blend.base, partner=blend.partner, base_share=torch.ones(4))
    assert not unmix(images, untouched).altered.any()
    assert torch.equal(mix_images(images, untouched), images)


def test_gradients_reach_the_image_that_gave_the_pixel() -> None:
    images = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    for mix in (draw_box(2, (4, 4), fraction=0.3, generator=seeded()), draw_blend(2, generator=seeded())):
        assert torch.autograd.gradcheck(lambda x, mix=mix: mix_images(x, mix), images)


# Views


@pytest.mark.parametrize("shape", SHAPES)
def test_one_view_is_mixed_and_the_others_are_as_they_were(shape: tuple[int, ...]) -> None:
    batch = view_batch(shape=shape)
    before = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, Tensor)}
    mix = draw_box(4, shape, fraction=0.4, generator=seeded(2))
    mixed, where = mix_views(batch, mix, view=1, partner_view=0)
    assert torch.equal(mixed.images[:, 0], batch.images[:, 0])
    assert torch.equal(mixed.label_maps[:, 0], batch.label_maps[:, 0])
    for name, value in before.items():
        assert torch.equal(getattr(batch, name), value), f"{name} of the input was written to"
    # every pixel is the pixel of the sample and the view that its origin names
    sample, view = where.sample[0], where.view[0]
    places = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    assert torch.equal(mixed.images[:, 1].movedim(1, -1), batch.images.movedim(2, -1)[(sample, view, *places)])
    assert torch.equal(mixed.label_maps[:, 1], batch.label_maps[(sample, view, *places)])
    assert torch.equal(mixed.weights[:, 1], batch.weights[(sample, view, *places)])
    assert torch.equal(where.of(batch.case_indices)[0], batch.case_indices[sample])
    assert (view == 0).any()
    assert (view == 1).any()


def test_all_that_is_known_of_a_sample_goes_with_its_base() -> None:
    batch = view_batch()
    mix = Mix(
        base=torch.tensor([2, 0, 3, 1]), partner=torch.tensor([0, 1, 2, 3]), mask=torch.zeros(4, 6, 5, dtype=torch.bool)
    )
    mixed, _ = mix_views(batch, mix)
    for field in fields(ViewBatch):
        value, source = getattr(mixed, field.name), getattr(batch, field.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, source[[2, 0, 3, 1]]), field.name


@pytest.mark.parametrize("how", ["box", "blend"])
def test_a_label_put_in_counts_only_as_far_as_it_is_true_for_what_the_base_looked_for(how: str) -> None:
    shape = (1, 4)
    batch = view_batch(batch=2, views=1, shape=shape)
    labels = torch.tensor([0, 1, 2, 3]).expand(2, 1, *shape).clone()
    # sample 0 looked for 1 and 2, sample 1 for 1, 2 and 3
    annotated = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    batch = replace(batch, label_maps=labels, annotated=annotated)
    everywhere = torch.ones(2, *shape, dtype=torch.bool)
    part: dict[str, Any] = {"mask": everywhere} if how == "box" else {"base_share": torch.tensor([0.5, 0.5])}
    mix = Mix(base=torch.tensor([0, 1]), partner=torch.tensor([1, 0]), **part)
    mixed, _ = mix_views(batch, mix)
    assert torch.equal(mixed.annotated, annotated)
    # into 0: background of 1 is background, class 3 was not looked for; into 1: background of 0 may be class 3, and
    # nobody in 0 has looked for class 3, yet what was drawn there is class 3
    assert mixed.label_maps[0].flatten().tolist() == [0, 1, 2, IGNORE]
    assert mixed.label_maps[1].flatten().tolist() == [IGNORE, 1, 2, 3]


def test_nothing_waits_for_the_device() -> None:
    """On the meta device there are no values: whatever asked for one would fail."""
    meta = torch.device("meta")
    shape = (6, 5)
    batch = view_batch(shape=shape).to(meta)
    organs = draw_organs(view_batch(shape=shape).label_maps[:, 0], classes=[1, 2], generator=seeded())
    for mix in (
        draw_box(4, shape, fraction=0.4, generator=seeded(), device=meta),
        draw_blend(4, generator=seeded(), device=meta),
        organs.to(meta),
    ):
        mixed, where = mix_views(batch, mix)
        assert mixed.images.shape == batch.images.shape
        assert isinstance(where, Origin)
        assert where.of(batch.case_indices).shape == where.sample.shape
        assert unmix(batch.images[:, 0], mix).altered.shape == (4, *shape)


def test_a_mix_of_another_size_is_refused() -> None:
    mix = draw_box(2, (4, 4), fraction=0.5, generator=seeded())
    for call in (
        lambda: mix_images(torch.zeros(2, 1, 4, 5), mix),
        lambda: mix_images(torch.zeros(2, 1, 1, 1), mix),
        lambda: mix_labels(torch.zeros(2, 3, 4, dtype=torch.long), mix),
        lambda: origin(mix, (3, 3)),
    ):
        with pytest.raises(ValueError, match="draw it for these"):
            call()


def test_a_mix_is_either_masked_or_blended() -> None:
    own = torch.arange(2)
    with pytest.raises(ValueError, match="either a mask or a base_share"):
        Mix(base=own, partner=own)
    with pytest.raises(ValueError, match="either a mask or a base_share"):
        Mix(base=own, partner=own, mask=torch.ones(2, 3, dtype=torch.bool), base_share=torch.ones(2))
