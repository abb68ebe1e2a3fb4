"""What every network of ours promises: sizes, taps, stopping early, and a word on inputs that do not fit."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from scantling.data.plan import NetworkPlan
from scantling.networks import RESNET50_UNET, SCRIBBLE_UNET, Tap, UNet, build_network

ANISOTROPIC = {
    "features": (4, 6, 8),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
}
PLANS = {
    "plain 2D": NetworkPlan(features=(4, 6, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3),
    "plain 3D": NetworkPlan(**ANISOTROPIC),
    "residual 3D": NetworkPlan(kind="residual_unet", norm="batch", **ANISOTROPIC),
    "stride 4": NetworkPlan(features=(4, 8), strides=((1, 1), (4, 2)), kernels=((3, 3),) * 2, convs_per_stage=1),
    "scribble": SCRIBBLE_UNET.model_copy(update={"features": (4, 5, 6, 7, 8)}),
    "resnet50": RESNET50_UNET.model_copy(update={"features": (4, 5, 6, 7, 8, 2048)}),
}


def make(name: str, *, deep: bool = False, seed: int = 0) -> UNet:
    plan = PLANS[name].model_copy(update={"deep_supervision": deep})
    return build_network(
        plan,
        dimensions=len(plan.strides[0]),
        in_channels=2,
        out_channels=3,
        generator=torch.Generator().manual_seed(seed),
    )


def images(network: UNet, *, batch: int = 2, times: int = 2) -> Tensor:
    times = 1 if max(network.divisor) == 32 else times  # the ResNet takes its time
    size = [times * step for step in network.divisor]
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("name", PLANS)
def test_logits_have_the_size_of_the_input_and_one_channel_a_class(name: str) -> None:
    network = make(name).eval()
    x = images(network)
    assert network(x).shape == (2, 3, *x.shape[2:])


@pytest.mark.parametrize("name", PLANS)
def test_taps_tell_the_channels_and_stride_of_every_feature_map(name: str) -> None:
    network = make(name).eval()
    x = images(network)
    features = network.features(x)
    assert list(features) == list(network.taps)
    for tap, feature in features.items():
        stride = tuple(a // b for a, b in zip(x.shape[2:], feature.shape[2:], strict=True))
        assert network.taps[tap] == Tap(feature.shape[1], stride), tap


def test_levels_are_named_in_the_order_of_computation() -> None:
    taps = make("plain 3D").taps
    assert taps == {
        "encoder.0": Tap(4, (1, 1, 1)),
        "encoder.1": Tap(6, (1, 2, 2)),
        "encoder.2": Tap(8, (2, 4, 4)),
        "decoder.0": Tap(6, (1, 2, 2)),
        "decoder.1": Tap(4, (1, 1, 1)),
    }


@pytest.mark.parametrize("name", PLANS)
def test_stopping_at_a_tap_gives_the_tensors_of_a_full_pass_and_computes_nothing_beyond(name: str) -> None:
    network = make(name).eval()
    x = images(network)
    full = network.features(x)
    order = list(network.taps)
    computed: list[str] = []
    for tap in order:
        part, index = tap.split(".")
        level = getattr(network, part)[int(index)]
        level.register_forward_hook(lambda *_, tap=tap: computed.append(tap))
    for position, stop in enumerate(order):
        computed.clear()
        found = network.features(x, stop_at=stop)
        assert computed == list(found) == order[: position + 1]
        assert all(torch.equal(found[tap], full[tap]) for tap in found)


@pytest.mark.parametrize("name", PLANS)
def test_logits_from_features_are_those_of_a_forward_pass(name: str) -> None:
    network = make(name, deep=True).eval()
    x = images(network)
    assert torch.equal(network.logits(network.features(x)), network(x))


def test_a_tap_that_does_not_exist_is_named_with_those_that_do() -> None:
    network = make("plain 2D")
    with pytest.raises(ValueError, match=r"stop_at='decoder.7'.*encoder.0, encoder.1, encoder.2, decoder.0, decoder.1"):
        network.features(images(network), stop_at="decoder.7")


def test_logits_of_a_pass_that_was_stopped_are_refused() -> None:
    network = make("plain 2D")
    features = network.features(images(network), stop_at="decoder.0")
    with pytest.raises(ValueError, match="the features end before it"):
        network.logits(features)


def test_deep_supervision_gives_logits_of_several_sizes_in_training_only() -> None:
    network = make("scribble", deep=True)
    x = images(network)
    levels = network(x)
    assert [tuple(level.shape) for level in levels] == [(2, 3, 32, 32), (2, 3, 16, 16), (2, 3, 8, 8)]
    alone = network.eval()(x)
    assert isinstance(alone, Tensor)
    assert alone.shape == (2, 3, 32, 32)


def test_deep_supervision_of_two_levels_has_two_logits() -> None:
    assert len(make("plain 3D", deep=True)(images(make("plain 3D")))) == 2


@pytest.mark.parametrize(
    ("name", "size", "padded"),
    [("plain 2D", (9, 8), (12, 8)), ("plain 3D", (3, 8, 10), (4, 8, 12)), ("resnet50", (33, 64), (64, 64))],
)
def test_an_input_that_does_not_divide_is_refused_with_the_size_to_pad_to(
    name: str, size: tuple[int, ...], padded: tuple[int, ...]
) -> None:
    network = make(name)
    text = f"{size} .* multiple of {network.divisor}: pad to {padded}"
    with pytest.raises(ValueError, match=re.sub(r"([()])", r"\\\1", text)):
        network(torch.zeros(1, 2, *size))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 2, 8, 8, 8), (1, 2, 8)])
def test_an_input_of_other_channels_or_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted \[batch, 2, y, x\]"):
        make("plain 2D")(torch.zeros(shape))


@pytest.mark.parametrize("name", PLANS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = make(name, deep=True)
    logits = network(images(network))
    sum(level.square().mean() for level in (logits if isinstance(logits, list) else [logits])).backward()
    silent = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent


@pytest.mark.parametrize("name", ["plain 3D", "residual 3D"])
def test_a_few_steps_learn_to_mark_bright_pixels(name: str) -> None:
    network = make(name)
    x = images(network, times=4)
    target = (x[:, 0] > 0.5).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_copy_and_a_network_filled_from_its_state_give_the_same_logits() -> None:
    network = make("residual 3D").eval()
    other = make("residual 3D", seed=1).eval()
    x = images(network)
    expected = network(x)
    assert not torch.equal(other(x), expected)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), expected)
    assert torch.equal(copy.deepcopy(network)(x), expected)


def test_a_plain_unet_is_what_its_picture_shows() -> None:
    network = make("stride 4").eval()
    x = images(network)
    state = network.state_dict()

    def level(value: Tensor, prefix: str, stride: tuple[int, int] = (1, 1)) -> Tensor:
        value = nn.functional.conv2d(value, state[f"{prefix}.conv.weight"], stride=stride, padding=1)
        return nn.functional.leaky_relu(nn.functional.instance_norm(value), 0.01)

    fine = level(x, "encoder.0.0")
    coarse = level(fine, "encoder.1.0", (4, 2))
    up = nn.functional.conv2d(coarse, state["decoder.0.project.weight"])
    up = up.repeat_interleave(4, dim=2).repeat_interleave(2, dim=3)
    last = level(torch.cat((up, fine), dim=1), "decoder.0.convs.0")
    expected = nn.functional.conv2d(last, state["heads.0.weight"], state["heads.0.bias"])
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
