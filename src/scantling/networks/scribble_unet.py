"""The 1.8 M U-Net that scribble-supervised methods are compared with."""

from __future__ import annotations

from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.data.plan import NetworkPlan
from scantling.networks.blocks import LEAKY_SLOPE, convolution
from scantling.networks.unet import Tap, UNet
from scantling.shapes import Features

KERNEL: Final = (3, 3)
ENCODER_DROPOUT: Final = (0.05, 0.1, 0.2, 0.3, 0.5)  # finest first; the decoder drops nothing


@final
class DropoutStage(nn.Module):
    """[Max-pool,] convolution, batch norm, leaky ReLU, dropout, convolution, batch norm, leaky ReLU.

    Dropout draws from torch's global generator, as torch's layer does: the caller sets it by
    `seeding.global_torch_seed`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.first = convolution(in_channels, out_channels, KERNEL, bias=True)
        self.first_norm = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.second = convolution(out_channels, out_channels, KERNEL, bias=True)
        self.second_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Features) -> Float[Tensor, "batch out *smaller"]:
        x = F.leaky_relu(self.first_norm(self.first(self.pool(x))), LEAKY_SLOPE, inplace=True)
        return F.leaky_relu(self.second_norm(self.second(self.dropout(x))), LEAKY_SLOPE, inplace=True)


@final
class BilinearUpStage(nn.Module):
    """1x1 convolution to the skip's width, bilinear enlargement by 2, joined with the skip, convolved."""

    def __init__(self, below_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = convolution(below_channels, out_channels, (1, 1), bias=True)
        self.convs = DropoutStage(2 * out_channels, out_channels, dropout=0.0, pool=False)

    def forward(self, below: Features, skip: Float[Tensor, "batch skip *larger"]) -> Float[Tensor, "batch out *larger"]:
        enlarged = F.interpolate(self.project(below), scale_factor=2.0, mode="bilinear", align_corners=False)
        result: Tensor = self.convs(torch.cat((skip, enlarged), dim=1))
        return result


def build_scribble_unet(plan: NetworkPlan, *, dimensions: int, in_channels: int, out_channels: int) -> UNet:
    """The scribble benchmark's U-Net: 1,813,764 parameters for one channel and four classes.

    Source: Luo et al. 2022, "Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and
    Dynamically Mixed Pseudo Labels Supervision" (the single-branch baseline).
    Differs: descriptions of the network name transposed convolutions on the way up, but with them it would
    have 1,944,324 parameters; the published 1,813,764 are met exactly by a 1x1 convolution and an enlargement
    without weights. We enlarge in the pixel-centre convention.
    """
    encoder: list[tuple[nn.Module, Tap]] = []
    channels = in_channels
    for i, (width, dropout) in enumerate(zip(plan.features, ENCODER_DROPOUT, strict=True)):
        level = DropoutStage(channels, width, dropout=dropout, pool=i > 0)
        encoder.append((level, Tap(width, (2**i,) * dimensions)))
        channels = width
    decoder: list[tuple[nn.Module, Tap]] = []
    for i in reversed(range(len(encoder) - 1)):
        decoder.append((BilinearUpStage(channels, plan.features[i]), encoder[i][1]))
        channels = plan.features[i]
    return UNet(
        in_channels=in_channels,
        out_channels=out_channels,
        encoder=encoder,
        decoder=decoder,
        head_kernel=KERNEL,
        deep_supervision=plan.deep_supervision,
    )
