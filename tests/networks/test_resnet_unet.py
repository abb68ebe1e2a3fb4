"""The ResNet-50 U-Net: published sizes, and its encoder against ResNet-50 written out a second time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.networks import RESNET50_UNET, UNet, build_network, load_resnet50_weights


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(in_channels: int = 1, out_channels: int = 4) -> UNet:
    return build_network(
        RESNET50_UNET,
        dimensions=2,
        in_channels=in_channels,
        out_channels=out_channels,
        generator=torch.Generator().manual_seed(0),
    )


def weights_under_torchvision_names() -> dict[str, Tensor]:
    """Random weights of a ResNet-50 for three channels and 1000 classes."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, inside: int, size: int) -> None:
        state[f"{name}.weight"] = (
            torch.randn(out, inside, size, size, generator=generator) * (2 / (inside * size**2)) ** 0.5
        )

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    inside = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            shapes = [(inner, inside, 1), (inner, inner, 3), (4 * inner, inner, 1)]
            for i, shape in enumerate(shapes, start=1):
                conv(f"{name}.conv{i}", *shape)
                norm(f"{name}.bn{i}", shape[0])
            if block == 0:
                conv(f"{name}.downsample.0", 4 * inner, inside, 1)
                norm(f"{name}.downsample.1", 4 * inner)
            inside = 4 * inner
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    return state


def resnet50_features(x: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """The stem and four stages in evaluation mode, as the paper's Table 1 has them."""

    def norm(y: Tensor, name: str) -> Tensor:
        part = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, *part)

    y = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    found = [y]
    y = F.max_pool2d(y, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage > 0 and block == 0 else 1
            z = F.relu(norm(F.conv2d(y, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
            z = F.relu(norm(F.conv2d(z, state[f"{name}.conv2.weight"], stride=stride, padding=1), f"{name}.bn2"))
            z = norm(F.conv2d(z, state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if block == 0:
                y = norm(F.conv2d(y, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            y = F.relu(y + z)
        found.append(y)
    return found


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return weights_under_torchvision_names()


@pytest.fixture(scope="module")
def weights_file(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(published, path)
    return path


def test_it_has_the_published_numbers_of_parameters() -> None:
    network = build()
    assert count(network.encoder) == 23_501_760
    assert count(network.decoder) == 9_012_928
    assert count(network) == 32_515_268


def test_the_wide_decoder_of_the_dense_contrastive_paper_has_its_size() -> None:
    plan = RESNET50_UNET.model_copy(update={"features": (32, 128, 256, 512, 1024, 2048)})
    network = build_network(
        plan, dimensions=2, in_channels=1, out_channels=1, generator=torch.Generator().manual_seed(0)
    )
    assert round(count(network.decoder) / 1e6, 2) == 50.12
    assert count(network.heads) == 289


def test_the_sample_weights_have_the_size_of_resnet50(published: dict[str, Tensor]) -> None:
    trained = [value for name, value in published.items() if "running" not in name and "num_" not in name]
    assert sum(value.numel() for value in trained) == 25_557_032  # as published for ResNet-50 with its classifier


def test_with_loaded_weights_the_encoder_computes_resnet50(published: dict[str, Tensor], weights_file: Path) -> None:
    network = build(in_channels=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_resnet50_weights(network, weights_file)
    assert (report.count("matched"), report.count("adapted"), report.count("skipped")) == (318, 0, 2)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    features = network.eval().features(x, stop_at="encoder.4")
    for i, expected in enumerate(resnet50_features(x, published)):
        torch.testing.assert_close(features[f"encoder.{i}"], expected, rtol=1e-3, atol=1e-3)
    after = network.state_dict()
    untouched = [name for name in after if torch.equal(after[name], before[name])]
    assert {name for name in after if not name.startswith("encoder.")} <= set(untouched)


def test_for_one_channel_the_first_convolution_sees_a_grey_picture_as_three_equal_channels(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(published, path)
    network = build(in_channels=1)
    report = load_resnet50_weights(network, path)
    assert [row.name for row in report.rows if row.outcome == "adapted"] == ["encoder.0.conv1.weight"]
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(5))
    expected = resnet50_features(grey.expand(-1, 3, -1, -1), published)[0]
    actual = network.eval().features(grey, stop_at="encoder.0")["encoder.0"]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
