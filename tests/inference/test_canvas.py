"""An image that is normalised as it is cut is, to the bit, the image that was normalised and padded before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scantling.data.prepare import normalised_values
from scantling.inference.canvas import Canvas, StoredImage
from scantling.inference.sliding_window import predict_labels, predict_logits
from scantling.inference.tiling import box, tile

SCALE, OFFSET = (0.013, 2.5), (-1.7, 0.3)


def stored(shape: tuple[int, ...], dtype: type = np.int16) -> StoredImage:
    array = np.random.default_rng(0).integers(0, 200, (2, *shape)).astype(dtype)
    return StoredImage(array=torch.from_numpy(array), scale=SCALE, offset=OFFSET)


def normalised(image: StoredImage) -> Tensor:
    return torch.from_numpy(normalised_values(image.array.numpy(), image.scale, image.offset))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("shape", [(20, 17), (5, 30), (6, 7), (9, 14, 11), (3, 14, 4)])
def test_every_tile_is_cut_from_the_normalised_image_with_zeros_around_it(shape: tuple[int, ...], dtype: type) -> None:
    image = stored(shape, dtype)
    window = tile(shape, (8,) * len(shape), overlap=0.5, batch_size=1)
    pairs = list(zip(window.before, window.canvas, shape, strict=True))
    padding = [n for before, length, n_ in reversed(pairs) for n in (before, length - n_ - before)]
    whole = F.pad(normalised(image), padding)
    canvas, plain = (Canvas(each, window, torch.device("cpu")) for each in (image, normalised(image)))
    for batch in window.batches:
        expected = whole[:, *box(batch[0], window.patch)]
        assert torch.equal(canvas.cut(batch[0]), expected)
        assert torch.equal(plain.cut(batch[0]), expected)


def test_cutting_changes_neither_integers_nor_floats() -> None:
    image = stored((9, 9))
    floats = StoredImage(array=image.array.float(), scale=SCALE, offset=OFFSET)
    window = tile((9, 9), (9, 9), overlap=0.5, batch_size=1)
    for each in (image, floats):
        before = each.array.clone()
        first = Canvas(each, window, torch.device("cpu")).cut((0, 0))
        assert torch.equal(each.array, before)
        assert torch.equal(first, normalised(image))


@pytest.mark.parametrize("slices", [False, True])
def test_predictions_are_those_of_the_normalised_image_to_the_bit(slices: bool) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3, padding=1) if slices else nn.Conv3d(2, 3, 3, padding=1)
    patch = (8, 10) if slices else (6, 8, 10)
    image = stored((5, 13, 21))
    for predict in (predict_logits, predict_labels):
        first, second = (
            predict(network, each, patch_size=patch, n_classes=3, batch_size=4, slices=slices)
            for each in (image, normalised(image))
        )
        assert torch.equal(first, second)
