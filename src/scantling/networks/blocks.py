"""Convolution stages that U-Nets are put together from, for two and three dimensions alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.shapes import Features

LEAKY_SLOPE: Final = 0.01
CONVOLUTIONS: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: Final[dict[int, Callable[[int], nn.Module]]] = {
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
AVERAGES: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


@final
class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and variance 1, then a learned scale and shift.

    Computed as a group norm of one channel a group, which on a CPU takes half the time of torch's instance
    norm and gives the shift, not an error, where only one pixel is left.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Features) -> Features:
        return torch.group_norm(x, self.channels, self.weight, self.bias, eps=1e-5)


def make_norm(kind: Literal["instance", "batch"], channels: int, dimensions: int) -> nn.Module:
    """The normalisation a plan asks for."""
    return InstanceNorm(channels) if kind == "instance" else BATCH_NORMS[dimensions](channels)


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    *,
    bias: bool = False,
) -> nn.Module:
    """A zero-padded convolution with odd kernel; without stride the size stays."""
    return CONVOLUTIONS[len(kernel)](
        in_channels,
        out_channels,
        tuple(kernel),
        stride=tuple(stride) if stride is not None else 1,
        padding=tuple(size // 2 for size in kernel),
        bias=bias,
    )


@final
class ConvNormAct(nn.Module):
    """Convolution without bias, normalisation, leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None,
        norm: Literal["instance", "batch"],
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel, stride)
        self.norm = make_norm(norm, out_channels, len(kernel))

    def forward(self, x: Features) -> Float[Tensor, "batch out *smaller"]:
        return F.leaky_relu(self.norm(self.conv(x)), LEAKY_SLOPE, inplace=True)


def plain_stage(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None,
    norm: Literal["instance", "batch"],
    convs: int,
) -> nn.Sequential:
    """`convs` times convolution, normalisation, leaky ReLU; the first convolution takes the stride."""
    first = ConvNormAct(in_channels, out_channels, kernel, stride, norm)
    return nn.Sequential(
        first, *(ConvNormAct(out_channels, out_channels, kernel, None, norm) for _ in range(convs - 1))
    )


@final
class ResidualBlock(nn.Module):
    """Two convolutions added to a shortcut.

    Where size or width change, the shortcut averages over the stride and projects by a 1x1 convolution.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", Eq. 2; averaging shortcut: He et
    al. 2019, "Bag of Tricks for Image Classification", Fig. 2c.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None,
        norm: Literal["instance", "batch"],
    ) -> None:
        super().__init__()
        dimensions = len(kernel)
        stride = tuple(stride) if stride is not None else (1,) * dimensions
        self.first = ConvNormAct(in_channels, out_channels, kernel, stride, norm)
        self.conv = convolution(out_channels, out_channels, kernel)
        self.norm = make_norm(norm, out_channels, dimensions)
        shortcut: list[nn.Module] = []
        if any(step > 1 for step in stride):
            shortcut.append(AVERAGES[dimensions](stride, stride))
        if in_channels != out_channels:
            shortcut.append(convolution(in_channels, out_channels, (1,) * dimensions))
            shortcut.append(make_norm(norm, out_channels, dimensions))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Features) -> Float[Tensor, "batch out *smaller"]:
        return F.leaky_relu(self.norm(self.conv(self.first(x))) + self.shortcut(x), LEAKY_SLOPE, inplace=True)


def residual_stage(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None,
    norm: Literal["instance", "batch"],
    convs: int,
) -> nn.Sequential:
    """Residual blocks of two convolutions each, at least `convs` convolutions; the first takes the stride."""
    first = ResidualBlock(in_channels, out_channels, kernel, stride, norm)
    blocks = (convs + 1) // 2
    return nn.Sequential(
        first, *(ResidualBlock(out_channels, out_channels, kernel, None, norm) for _ in range(blocks - 1))
    )


@final
class UpStage(nn.Module):
    """Project to the skip's width, enlarge by nearest neighbour, join with the skip, convolve.

    The 1x1 projection runs before the enlargement: it commutes with it and costs the fewest operations. A
    transposed convolution of the same stride took three times as long on a CPU and has one weight set per
    sub-pixel position, which can leave a checkerboard.
    """

    def __init__(self, below_channels: int, out_channels: int, stride: Sequence[int], convs: nn.Module) -> None:
        super().__init__()
        self.stride = tuple(float(step) for step in stride)
        self.project = convolution(below_channels, out_channels, (1,) * len(stride))
        self.convs = convs

    def forward(self, below: Features, skip: Float[Tensor, "batch skip *larger"]) -> Float[Tensor, "batch out *larger"]:
        enlarged = F.interpolate(self.project(below), scale_factor=self.stride, mode="nearest")
        result: Tensor = self.convs(torch.cat((enlarged, skip), dim=1))
        return result
