"""The sliding window against a brute-force one in float64, and its slabs against its whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scantling.errors import IntegrityError, PlanMismatch
from scantling.inference import sliding_window
from scantling.inference.sliding_window import iterate_slabs, predict_labels, predict_logits, running_argmax
from scantling.inference.tiling import tile, tile_starts

VOLUMES = [
    ((13, 21, 9), (6, 8, 6)),
    ((21, 7, 9), (8, 4, 6)),
    ((5, 21, 9), (8, 8, 8)),  # padded along one axis
    ((9, 5, 27), (8, 8, 8)),  # sweeps the last axis, padded along another
    ((3, 4, 5), (8, 8, 8)),  # a single, padded patch
    ((8, 8, 8), (8, 8, 8)),
]
PICTURES = [((37, 21), (16, 12)), ((9, 50), (16, 16)), ((16, 16), (16, 16)), ((5, 7), (8, 8))]


def network_for(axes: int, n_classes: int = 4) -> nn.Module:
    torch.manual_seed(axes)
    convolution = nn.Conv2d if axes == 2 else nn.Conv3d
    return nn.Sequential(convolution(2, 6, 3, padding=1), nn.Tanh(), convolution(6, n_classes, 3, padding=1))


def image_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(7))


def brute_force(network: nn.Module, image: Tensor, patch: tuple[int, ...], n_classes: int) -> np.ndarray:
    """Every patch in turn, a Gaussian per voxel from its definition, one count volume, all in float64."""
    shape = image.shape[1:]
    canvas = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    before = [(c - n) // 2 for c, n in zip(canvas, shape, strict=True)]
    widths = [(b, c - n - b) for b, c, n in zip(before, canvas, shape, strict=True)]
    padded = np.pad(image.numpy(), [(0, 0), *widths])
    starts = [tile_starts(c, p, 0.5) for c, p in zip(canvas, patch, strict=True)]
    total, count = np.zeros((n_classes, *canvas)), np.zeros(canvas)
    weight = np.ones(patch)
    for index in np.ndindex(*patch):
        for i, p, s in zip(index, patch, starts, strict=True):
            if len(s) > 1:
                weight[index] *= np.exp(-((i - (p - 1) / 2) ** 2) / (2 * (p / 8) ** 2))
    for corner in itertools.product(*starts):
        where = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        with torch.no_grad():
            logits = network(torch.from_numpy(padded[(slice(None), *where)].copy())[None])[0].numpy()
        total[(slice(None), *where)] += weight * logits.astype(np.float64)
        count[where] += weight
    inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    return (total / count)[(slice(None), *inside)]


@pytest.mark.parametrize(("shape", "patch"), VOLUMES + PICTURES)
def test_logits_equal_a_brute_force_window_with_a_count_volume(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    network, image = network_for(len(shape)), image_of(shape)
    actual = predict_logits(network, image, patch_size=patch, n_classes=4, batch_size=5)
    np.testing.assert_allclose(actual.numpy(), brute_force(network, image, patch, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), VOLUMES + PICTURES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_labels_of_the_rolling_slab_are_those_of_the_full_sum_bit_by_bit(
    shape: tuple[int, ...], patch: tuple[int, ...], batch_size: int
) -> None:
    network, image = network_for(len(shape)), image_of(shape)
    options = {"patch_size": patch, "n_classes": 4, "batch_size": batch_size}
    full = predict_logits(network, image, **options)
    slabs = torch.full_like(full, torch.nan)
    rows = 0
    for slab in iterate_slabs(network, image, **options):
        assert slab.start == rows
        rows = slab.stop
        slabs[:, *slab.place] = slab.logits
    labels = predict_labels(network, image, **options)
    assert torch.equal(slabs, full)
    assert torch.equal(labels.long(), full.argmax(0))
    assert len(labels.unique()) > 2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_2d_network_predicts_each_slice_of_a_volume_as_it_would_alone(batch_size: int) -> None:
    network, image = network_for(2), image_of((4, 13, 9))
    options = {"patch_size": (8, 6), "n_classes": 4, "mirror_axes": (0, 1)}
    volume = predict_logits(network, image, slices=True, batch_size=batch_size, **options)
    labels = predict_labels(network, image, slices=True, batch_size=batch_size, **options)
    alone = torch.stack([predict_logits(network, image[:, z], **options) for z in range(4)], dim=1)
    torch.testing.assert_close(volume, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(labels.long(), volume.argmax(0))


def test_whole_slices_go_through_the_network_many_at_a_time_and_come_out_untouched() -> None:
    network, image = network_for(2), image_of((10, 8, 8))
    batches: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    actual = predict_logits(network, image, patch_size=(8, 8), n_classes=4, batch_size=4, slices=True)
    with torch.no_grad():
        parts = [network(image[:, z : z + 4].movedim(1, 0)) for z in (0, 4, 8)]
    assert batches[:3] == [4, 4, 2]
    assert torch.equal(actual, torch.cat(parts).movedim(0, 1))


def test_a_picture_no_larger_than_the_patch_is_one_forward_pass_with_zeros_around_it() -> None:
    network, image = network_for(2), image_of((5, 7))
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    actual = predict_logits(network, image, patch_size=(8, 8), n_classes=4)
    (patch,) = seen
    wanted = torch.zeros(1, 2, 8, 8)
    wanted[0, :, 1:6, 0:7] = image
    with torch.no_grad():
        assert torch.equal(patch, wanted)
        assert torch.equal(actual, network(wanted)[0, :, 1:6, 0:7])


class Constant(nn.Module):
    """Gives the same logits everywhere."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return self.values.reshape(shape).expand(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize(("shape", "patch"), VOLUMES + PICTURES)
def test_a_constant_network_gives_its_constant_at_every_voxel(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    values = torch.tensor([-2.0, 3.5, 1e4])
    actual = predict_logits(Constant(values), image_of(shape), patch_size=patch, n_classes=3, overlap=0.75)
    wanted = values.reshape(-1, *[1] * len(shape)).expand(3, *shape)
    torch.testing.assert_close(actual, wanted, rtol=2e-6, atol=0)


class AlongAxes(nn.Module):
    """Logits that are the image itself, and a ramp that points along the patch's axes."""

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.arange(x[0, 0].numel(), dtype=x.dtype).reshape(x.shape[2:]).expand(len(x), 1, *x.shape[2:])
        return torch.cat([x[:, :1], ramp], dim=1)


def test_mirrored_predictions_are_turned_back_before_they_are_averaged() -> None:
    image = image_of((20, 13, 9))
    options = {"patch_size": (8, 6, 4), "n_classes": 2, "mirror_axes": (0, 1, 2)}
    actual = predict_logits(AlongAxes(), image, **options)
    torch.testing.assert_close(actual[0], image[0])  # what follows the image stays in place
    middle = torch.full_like(actual[1], (8 * 6 * 4 - 1) / 2)  # what follows the patch is averaged away
    torch.testing.assert_close(actual[1], middle)


def test_averaging_over_all_mirrored_copies_commutes_with_mirroring_the_image() -> None:
    network, image = network_for(2), image_of((16, 16))
    options = {"patch_size": (16, 16), "n_classes": 4, "mirror_axes": (0, 1)}
    straight = predict_logits(network, image, **options)
    mirrored = predict_logits(network, image.flip(2), **options)
    torch.testing.assert_close(mirrored.flip(2), straight, rtol=1e-5, atol=1e-6)


def test_the_accumulator_of_labels_is_as_deep_as_a_patch_not_as_the_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[int] = []
    accumulator = sliding_window.Accumulator

    def remembering(buffer: Tensor, window: object) -> object:
        held.append(buffer.numel())
        return accumulator(buffer, window)  # type: ignore[arg-type]

    monkeypatch.setattr(sliding_window, "Accumulator", remembering)
    network, image = network_for(3), image_of((40, 12, 10))
    predict_labels(network, image, patch_size=(8, 8, 8), n_classes=4)
    predict_labels(network_for(2), image, patch_size=(12, 10), n_classes=4, slices=True, batch_size=3)
    predict_logits(network, image, patch_size=(8, 8, 8), n_classes=4)
    assert held == [4 * 8 * 12 * 10, 4 * 3 * 12 * 10, 4 * 40 * 12 * 10]


def test_a_batch_that_straddles_two_steps_of_the_sweep_needs_one_step_more() -> None:
    assert tile((100, 12, 10), (8, 8, 8), overlap=0.5, batch_size=4).unfinished == (8, 12, 10)
    assert tile((100, 12, 10), (8, 8, 8), overlap=0.5, batch_size=3).unfinished == (12, 12, 10)


def test_a_value_that_is_not_finite_is_refused_and_never_becomes_a_label() -> None:
    for value in (torch.nan, torch.inf):
        network = Constant(torch.tensor([0.0, value, 1.0]))
        with pytest.raises(IntegrityError, match="not finite"):
            predict_labels(network, image_of((9, 9)), patch_size=(8, 8), n_classes=3)
        with pytest.raises(IntegrityError, match="not finite"):
            predict_logits(network, image_of((9, 9)), patch_size=(8, 8), n_classes=3)


def test_a_network_with_other_classes_than_asked_for_is_refused_by_name() -> None:
    with pytest.raises(PlanMismatch, match=r"gave logits of \(1, 4, 8, 8\), wanted \(1, 3, 8, 8\)"):
        predict_labels(network_for(2), image_of((9, 9)), patch_size=(8, 8), n_classes=3)


def test_mirror_axes_that_the_patch_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="axes 0 to 1"):
        predict_labels(network_for(2), image_of((9, 9)), patch_size=(8, 8), n_classes=4, mirror_axes=(2,))


def test_every_module_is_in_evaluation_mode_while_predicting_and_as_before_afterwards() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Dropout(0.9), nn.BatchNorm2d(4))
    network.train()
    network[2].eval()
    before = network[2].running_mean.clone()  # type: ignore[union-attr, operator]
    first = predict_logits(network, image_of((20, 20)), patch_size=(8, 8), n_classes=4)
    second = predict_logits(network, image_of((20, 20)), patch_size=(8, 8), n_classes=4)
    assert torch.equal(first, second)
    assert [module.training for module in network.modules()] == [True, True, True, False]
    assert torch.equal(network[2].running_mean, before)  # type: ignore[arg-type]


def test_results_are_ordinary_tensors_that_may_be_changed_in_place() -> None:
    network = network_for(2)
    logits = predict_logits(network, image_of((9, 9)), patch_size=(8, 8), n_classes=4)
    labels = predict_labels(network, image_of((9, 9)), patch_size=(8, 8), n_classes=4)
    assert not logits.requires_grad
    assert not logits.add_(1).is_inference()
    assert not labels.add_(1).is_inference()


@pytest.mark.parametrize("n_classes", [1, 2, 5, 130])
def test_the_running_argmax_is_argmax_with_the_first_of_equals(n_classes: int) -> None:
    generator = torch.Generator().manual_seed(n_classes)
    logits = torch.randint(0, 4, (n_classes, 6, 7), generator=generator).float()
    actual = running_argmax(logits)
    assert np.array_equal(actual.numpy(), logits.numpy().argmax(0))  # NumPy promises the first
    assert actual.dtype == (torch.int8 if n_classes < 128 else torch.int16)


def test_half_precision_is_the_networks_alone_the_sum_is_float32() -> None:
    network, image = network_for(2), image_of((30, 30))
    logits = predict_logits(network, image, patch_size=(8, 8), n_classes=4, amp=torch.bfloat16)
    full = predict_logits(network, image, patch_size=(8, 8), n_classes=4)
    assert logits.dtype == torch.float32
    assert 0 < (logits - full).abs().max() < 0.05
