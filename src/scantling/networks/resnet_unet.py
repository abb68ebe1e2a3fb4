"""A U-Net on a ResNet-50 encoder that can start from ImageNet weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.data.plan import NetworkPlan
from scantling.networks.blocks import convolution
from scantling.networks.transfer import TransferReport, load_matching, read_state
from scantling.networks.unet import Tap, UNet
from scantling.shapes import Features

STEM_WIDTH: Final = 64
STAGES: Final = (
    (3, 64, 1),
    (4, 128, 2),
    (6, 256, 2),
    (3, 512, 2),
)  # blocks, inner width, stride: He et al., Table 1
EXPANSION: Final = 4
DEEPEST_WIDTH: Final = STAGES[-1][1] * EXPANSION

TORCHVISION_NAMES: Final = (
    (r"^fc\.", ""),
    (r"^(conv1|bn1)\.", r"encoder.0.\1."),
    (r"^layer([1-4])\.(\d+)\.downsample\.0\.", r"encoder.\1.blocks.\2.shortcut."),
    (r"^layer([1-4])\.(\d+)\.downsample\.1\.", r"encoder.\1.blocks.\2.shortcut_norm."),
    (r"^layer([1-4])\.", r"encoder.\1.blocks."),
)
"""From the tensor names of torchvision's ResNet-50 to ours; the classifier `fc` has no counterpart."""
HEAD_NAMES: Final = ((r"^heads\.", ""),)


@final
class Stem(nn.Module):
    """7x7 convolution of stride 2, batch norm, ReLU."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, STEM_WIDTH, (7, 7), (2, 2))
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)

    def forward(self, x: Features) -> Float[Tensor, "batch 64 h w"]:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)


@final
class Bottleneck(nn.Module):
    """1x1 to the inner width, 3x3 with the stride, 1x1 to four times the inner width, plus a shortcut.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", Fig. 5 right.
    Differs: the stride sits in the 3x3 convolution, where the commonly distributed ImageNet weights have it.
    """

    def __init__(self, in_channels: int, inner: int, stride: int) -> None:
        super().__init__()
        outer = inner * EXPANSION
        self.conv1 = convolution(in_channels, inner, (1, 1))
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, inner, (3, 3), (stride, stride))
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = convolution(inner, outer, (1, 1))
        self.bn3 = nn.BatchNorm2d(outer)
        changes = stride > 1 or in_channels != outer
        self.shortcut = convolution(in_channels, outer, (1, 1), (stride, stride)) if changes else nn.Identity()
        self.shortcut_norm = nn.BatchNorm2d(outer) if changes else nn.Identity()

    def forward(self, x: Float[Tensor, "batch feature h w"]) -> Float[Tensor, "batch out h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut_norm(self.shortcut(x)), inplace=True)


@final
class BottleneckStage(nn.Module):
    """[3x3 max-pool of stride 2,] then bottlenecks, the first of which takes the stride."""

    def __init__(self, in_channels: int, inner: int, *, blocks: int, stride: int, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        outer = inner * EXPANSION
        self.blocks = nn.Sequential(
            Bottleneck(in_channels, inner, stride), *(Bottleneck(outer, inner, 1) for _ in range(blocks - 1))
        )

    def forward(self, x: Float[Tensor, "batch feature h w"]) -> Float[Tensor, "batch out h2 w2"]:
        result: Tensor = self.blocks(self.pool(x))
        return result


@final
class NearestUpStage(nn.Module):
    """Enlarge by 2, join with the skip if there is one, twice 3x3 convolution, batch norm, ReLU."""

    def __init__(self, below_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = convolution(below_channels + skip_channels, out_channels, (3, 3))
        self.first_norm = nn.BatchNorm2d(out_channels)
        self.second = convolution(out_channels, out_channels, (3, 3))
        self.second_norm = nn.BatchNorm2d(out_channels)

    def forward(
        self, below: Float[Tensor, "batch feature h w"], skip: Float[Tensor, "batch skip h2 w2"] | None = None
    ) -> Float[Tensor, "batch out h2 w2"]:
        x = F.interpolate(below, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        x = F.relu(self.first_norm(self.first(x)), inplace=True)
        return F.relu(self.second_norm(self.second(x)), inplace=True)


def build_resnet50_unet(plan: NetworkPlan, *, dimensions: int, in_channels: int, out_channels: int) -> UNet:
    """ResNet-50 encoder (23,501,760 parameters for one channel), decoder of five enlargements, 3x3 head.

    `plan.features` holds the five decoder widths, finest first, and the encoder's last width. With the
    widths 256, 128, 64, 32, 16 the decoder has 9,012,928 parameters.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", Table 1; decoder as in Ronneberger
    et al. 2015, "U-Net", with nearest-neighbour enlargement.
    """
    encoder: list[tuple[nn.Module, Tap]] = [(Stem(in_channels), Tap(STEM_WIDTH, (2,) * dimensions))]
    channels = STEM_WIDTH
    for i, (blocks, inner, stride) in enumerate(STAGES):
        level = BottleneckStage(channels, inner, blocks=blocks, stride=stride, pool=i == 0)
        channels = inner * EXPANSION
        encoder.append((level, Tap(channels, (2 ** (i + 2),) * dimensions)))
    decoder: list[tuple[nn.Module, Tap]] = []
    skips: Sequence[int] = [tap.channels for _, tap in encoder[-2::-1]] + [0]
    for i, (width, skip) in enumerate(zip(plan.features[-2::-1], skips, strict=True)):
        decoder.append((NearestUpStage(channels, skip, width), Tap(width, (2 ** (4 - i),) * dimensions)))
        channels = width
    return UNet(
        in_channels=in_channels,
        out_channels=out_channels,
        encoder=encoder,
        decoder=decoder,
        head_kernel=(3, 3),
        deep_supervision=plan.deep_supervision,
    )


def load_resnet50_weights(network: UNet, path: Path) -> TransferReport:
    """Fill the encoder from a local file of ResNet-50 weights under torchvision's names.

    The first convolution is adapted to the network's channels; the decoder keeps what it has.

    Raises:
        DataError: the file is missing, damaged, unsafe, or holds no tensor of this encoder.
    """
    return load_matching(network, path, rename=TORCHVISION_NAMES)


def load_initial(network: nn.Module, path: Path, plan: NetworkPlan, *, heads: bool = True) -> TransferReport:
    """Fill a network from any file of weights; torchvision's ResNet-50 names are understood where they fit.

    Args:
        heads: off, the file's logit heads are left: they tell other classes apart.

    Raises:
        DataError: the file is missing, damaged, unsafe, or holds no tensor of this network.
    """
    foreign = plan.kind == "resnet50_unet" and "layer1.0.conv1.weight" in read_state(path)
    rename = (*(() if heads else HEAD_NAMES), *(TORCHVISION_NAMES if foreign else ()))
    return load_matching(network, path, rename=rename)
