"""Projections against dense convolutions, dense features against single views, and what is frozen by gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scantling.data.plan import NetworkPlan
from scantling.errors import ConfigError
from scantling.networks import SCRIBBLE_UNET, UNet, build_network
from scantling.networks.projection import ImageProjection, PixelProjection, chosen_tap, dense_features, freeze_beyond
from scantling.seeding import torch_generator

PLANS = {
    "2D": NetworkPlan(features=(4, 6, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3),
    "3D": NetworkPlan(features=(4, 6, 8), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((3, 3, 3),) * 3),
    "scribble": SCRIBBLE_UNET.model_copy(update={"features": (2, 3, 4, 5, 6)}),
    "deep supervision": NetworkPlan(
        features=(4, 6, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3, deep_supervision=True
    ),
}


def network(name: str) -> UNet:
    return build_network(
        PLANS[name],
        dimensions=len(PLANS[name].strides[0]),
        in_channels=2,
        out_channels=3,
        generator=torch_generator(0, "w"),
    )


def images(name: str) -> torch.Tensor:
    shape = {"3D": (4, 8, 8), "scribble": (16, 16)}.get(name, (8, 12))
    return torch.randn(2, 3, 2, *shape, generator=torch_generator(1, "images"))


def test_a_projected_pixel_is_that_pixel_of_the_map_after_two_1x1_convolutions() -> None:
    projection = PixelProjection(5, 7, 3, generator=torch_generator(0, "w"))
    with torch.no_grad():
        projection.hidden.bias.normal_(generator=torch_generator(2, "bias"))
        projection.embedding.bias.normal_(generator=torch_generator(3, "bias"))
    feature_map = torch.randn(2, 5, 4, 6, generator=torch_generator(4, "map"))
    hidden = F.relu(F.conv2d(feature_map, projection.hidden.weight[:, :, None, None], projection.hidden.bias))
    wanted = F.conv2d(hidden, projection.embedding.weight[:, :, None, None], projection.embedding.bias)
    pixels = feature_map.flatten(2).transpose(1, 2)
    torch.testing.assert_close(projection(pixels), wanted.flatten(2).transpose(1, 2))


def test_weights_come_from_the_generator_alone_and_keep_the_size_of_what_they_see() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (PixelProjection(400, 300, 200, generator=torch_generator(seed, "w")) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(first.hidden.weight, other.hidden.weight)
    x = torch.randn(2000, 400, generator=torch_generator(5, "x"))
    assert first(x).square().mean().sqrt().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 3)])
def test_an_image_is_projected_by_the_mean_of_its_features(shape: tuple[int, ...]) -> None:
    projection = ImageProjection(5, 7, 3, generator=torch_generator(0, "w"))
    feature_map = torch.randn(2, 5, *shape, generator=torch_generator(4, "map"))
    means = torch.stack([torch.stack([channel.sum() / channel.numel() for channel in one]) for one in feature_map])
    torch.testing.assert_close(projection(feature_map), projection.projection(means))


@pytest.mark.parametrize("name", ["2D", "3D"])
def test_dense_features_are_those_of_each_view_alone_and_nothing_beyond_the_tap_is_computed(name: str) -> None:
    net, views = network(name), images(name)
    computed = []
    for level, module in (*net.encoder.named_children(), *net.decoder.named_children()):
        module.register_forward_hook(lambda *_, level=level: computed.append(level))
    found = dense_features(net, views, "decoder.0")
    assert len(computed) == len(net.encoder) + 1
    for b in range(2):
        for v in range(3):
            alone = net.features(views[b : b + 1, v])["decoder.0"][0]
            torch.testing.assert_close(found[b, v], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PLANS)
def test_frozen_is_just_what_a_tap_does_not_depend_on(name: str) -> None:
    for tap in network(name).taps:
        net = network(name)
        freeze_beyond(net, tap)
        dense_features(net, images(name), tap).square().sum().backward()
        trained = {name for name, p in net.named_parameters() if p.requires_grad}
        assert trained == {name for name, p in net.named_parameters() if p.grad is not None}
        everything = network(name)
        dense_features(everything, images(name), tap).square().sum().backward()
        assert trained == {name for name, p in everything.named_parameters() if p.grad is not None}


def test_the_finest_decoder_level_is_the_tap_where_none_is_named() -> None:
    net = network("deep supervision")
    assert chosen_tap(net, "") == "decoder.1"
    assert chosen_tap(net, "encoder.2") == "encoder.2"


def test_a_quarter_is_the_finest_decoder_level_of_at_most_a_quarter_of_the_side() -> None:
    def of(*strides: tuple[int, ...]) -> str:
        plan = NetworkPlan(
            features=(4,) * len(strides), strides=strides, kernels=((3,) * len(strides[0]),) * len(strides)
        )
        net = build_network(
            plan, dimensions=len(strides[0]), in_channels=1, out_channels=2, generator=torch_generator(0, "w")
        )
        return chosen_tap(net, "1/4")

    assert of((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)) == "decoder.1"  # between 1/8 and 1/2
    assert of((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)) == "decoder.0"  # its sides are 1/2, 1/4 and 1/4
    assert of((1, 1), (2, 2), (2, 2)) == "decoder.0"  # half the side is the coarsest there is


def test_a_tap_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"recipe.tap = 'decoder.7': .*encoder.0, .*decoder.1.*E-CFG-60"):
        chosen_tap(network("2D"), "decoder.7")
    with pytest.raises(ValueError, match=r"no tap 'decoder.7', only encoder.0"):
        freeze_beyond(network("2D"), "decoder.7")
