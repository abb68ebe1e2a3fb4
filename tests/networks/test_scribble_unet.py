"""The scribble benchmark's network: its published size, its parts, its dropout."""

from __future__ import annotations

import torch
from torch import nn

from scantling.networks import SCRIBBLE_UNET, UNet, build_network
from scantling.seeding import global_torch_seed


def build() -> UNet:
    generator = torch.Generator().manual_seed(0)
    return build_network(SCRIBBLE_UNET, dimensions=2, in_channels=1, out_channels=4, generator=generator)


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in build().parameters()) == 1_813_764


def test_dropout_grows_with_depth_in_the_encoder_and_the_decoder_has_none() -> None:
    network = build()
    rates = [part.p for part in network.encoder.modules() if isinstance(part, nn.Dropout)]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert not any(isinstance(part, nn.Dropout) for part in network.decoder.modules())


def test_a_level_is_convolution_norm_activation_dropout_and_again_without_dropout() -> None:
    level = build().encoder[1].train()
    x = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    functional = nn.functional
    with global_torch_seed(0, "dropout"):
        actual = level(x)
    pooled = functional.max_pool2d(x, 2)
    first = functional.conv2d(pooled, level.first.weight, level.first.bias, padding=1)
    first = functional.leaky_relu(functional.batch_norm(first, None, None, training=True), 0.01)
    with global_torch_seed(0, "dropout"):
        dropped = functional.dropout(first, 0.1)
    second = functional.conv2d(dropped, level.second.weight, level.second.bias, padding=1)
    second = functional.leaky_relu(functional.batch_norm(second, None, None, training=True), 0.01)
    torch.testing.assert_close(actual, second, rtol=1e-4, atol=1e-5)


def test_dropout_follows_the_seed_set_around_it_and_is_off_in_evaluation() -> None:
    network = build()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    draws = []
    for key in (0, 0, 1):
        with global_torch_seed(0, "dropout", key):
            draws.append(network(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    network.eval()
    assert torch.equal(network(x), network(x))
