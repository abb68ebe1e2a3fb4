"""The shape all our segmentation networks share: encoder levels, decoder levels with skips, logit heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor, nn

from scantling.data.plan import NetworkPlan
from scantling.networks.blocks import UpStage, convolution, plain_stage, residual_stage
from scantling.shapes import Images, Logits

DEEP_LEVELS: Final = 3  # finest decoder levels that get logits under deep supervision; coarser ones see too little


@dataclass(frozen=True)
class Tap:
    """A feature map that can be asked for by name.

    Attributes:
        channels: its width.
        stride: input pixels per feature pixel, one per axis.
    """

    channels: int
    stride: tuple[int, ...]


@final
class UNet(nn.Module):
    """Encoder levels from fine to coarse, decoder levels from coarse to fine, logits at the input's size.

    `encoder.0` is the finest encoder level and `decoder.0` the coarsest decoder level: both count in the
    order in which they are computed. Decoder level i takes the level below and the encoder level
    `len(encoder) - 2 - i`, or no skip where the encoder has no such level. What the levels are made of is
    decided by the builders.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        encoder: Sequence[tuple[nn.Module, Tap]],
        decoder: Sequence[tuple[nn.Module, Tap]],
        head_kernel: Sequence[int],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.encoder = nn.ModuleList(level for level, _ in encoder)
        self.decoder = nn.ModuleList(level for level, _ in decoder)
        self.taps: dict[str, Tap] = {f"encoder.{i}": tap for i, (_, tap) in enumerate(encoder)}
        self.taps |= {f"decoder.{i}": tap for i, (_, tap) in enumerate(decoder)}
        self.divisor = encoder[-1][1].stride
        finest_first = [f"decoder.{i}" for i in reversed(range(len(decoder)))]
        self.head_taps = tuple(finest_first[: DEEP_LEVELS if deep_supervision else 1])
        self.heads = nn.ModuleList(
            convolution(self.taps[name].channels, out_channels, head_kernel, bias=True) for name in self.head_taps
        )

    def forward(self, x: Images) -> Logits | list[Tensor]:
        """Logits at the input's size; in training mode with deep supervision a list of them, finest first.

        Raises:
            ValueError: the input's channels, axes or size do not fit the network.
        """
        wanted = self.head_taps if self.training else self.head_taps[:1]
        found = {name: feature for name, feature in self._levels(x) if name in wanted}
        logits = [head(found[name]) for name, head in zip(wanted, self.heads, strict=False)]
        return logits if self.training and len(self.heads) > 1 else logits[0]

    def features(self, x: Images, stop_at: str | None = None) -> dict[str, Tensor]:
        """Every tap up to and with `stop_at`, in the order of computation; nothing beyond it is computed.

        Raises:
            ValueError: `stop_at` is no tap, or the input does not fit the network.
        """
        if stop_at is not None and stop_at not in self.taps:
            raise ValueError(f"stop_at={stop_at!r}: the network has no such tap, only {', '.join(self.taps)}")
        found: dict[str, Tensor] = {}
        for name, feature in self._levels(x):
            found[name] = feature
            if name == stop_at:
                break
        return found

    def logits(self, features: dict[str, Tensor]) -> Logits:
        """Logits at the input's size from a full `features` pass, for methods that need both.

        Raises:
            ValueError: the pass was stopped before the last decoder level.
        """
        last = self.head_taps[0]
        if last not in features:
            raise ValueError(f"logits need the tap {last!r}, but the features end before it; leave out stop_at")
        result: Tensor = self.heads[0](features[last])
        return result

    def _levels(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each level as it is computed; a skip is let go as soon as it is used."""
        self._check(x)
        skips: list[Tensor] = []
        for i, level in enumerate(self.encoder):
            x = level(x)
            skips.append(x)
            yield f"encoder.{i}", x
        skips.pop()
        for i, level in enumerate(self.decoder):
            x = level(x, skips.pop()) if skips else level(x)
            yield f"decoder.{i}", x

    def _check(self, x: Tensor) -> None:
        size = tuple(x.shape[2:])
        if len(size) != len(self.divisor) or x.shape[1] != self.in_channels:
            wanted = f"[batch, {self.in_channels}, {', '.join('zyx'[-len(self.divisor) :])}]"
            raise ValueError(f"network input has shape {tuple(x.shape)}; wanted {wanted}")
        padded = tuple(-(-length // step) * step for length, step in zip(size, self.divisor, strict=True))
        if size != padded:
            raise ValueError(
                f"network input of size {size} does not fit the coarsest level; each axis must be "
                f"a multiple of {self.divisor}: pad to {padded}"
            )


def build_unet(plan: NetworkPlan, *, dimensions: int, in_channels: int, out_channels: int) -> UNet:
    """A plain or residual U-Net whose strides and kernels may differ by axis.

    The residual kind has residual encoder levels; its decoder is plain.

    Source: Ronneberger et al. 2015, "U-Net"; strides and kernels per axis: Isensee et al. 2021, "nnU-Net",
    Methods; residual encoder: Isensee et al. 2024, "nnU-Net Revisited".
    """
    stage = residual_stage if plan.kind == "residual_unet" else plain_stage
    encoder: list[tuple[nn.Module, Tap]] = []
    channels, total = in_channels, (1,) * dimensions
    for width, stride, kernel in zip(plan.features, plan.strides, plan.kernels, strict=True):
        total = tuple(before * step for before, step in zip(total, stride, strict=True))
        level = stage(channels, width, kernel, stride, plan.norm, plan.convs_per_stage)
        encoder.append((level, Tap(width, total)))
        channels = width
    decoder: list[tuple[nn.Module, Tap]] = []
    for i in reversed(range(len(encoder) - 1)):
        width, kernel = plan.features[i], plan.kernels[i]
        convs = plain_stage(2 * width, width, kernel, None, plan.norm, plan.convs_per_stage)
        decoder.append((UpStage(channels, width, plan.strides[i + 1], convs), encoder[i][1]))
        channels = width
    return UNet(
        in_channels=in_channels,
        out_channels=out_channels,
        encoder=encoder,
        decoder=decoder,
        head_kernel=(1,) * dimensions,
        deep_supervision=plan.deep_supervision,
    )
