"""The shape of a hierarchical VAE as settings: layout strings, widths, latents; presets by name.

A layout string lists stages by resolution: `64b1d2` is one block at 64 pixels and one more that halves the map, `4d4`
only one that divides it by four, `16b3` three blocks and no way down. Resolutions say how stages relate: an image of
another size, oblong or with a third axis, gets the same strides, and resolution 1 always means the whole image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from scantling.config import Config, nearest
from scantling.errors import ConfigError

PUBLISHED_LOG_SCALE: Final = -4.605170185988091  # ln(0.01); as a scale log2(1 + 2^ln(0.01)) = 0.0581

_STAGE: Final = re.compile(r"(?P<resolution>\d+)(?:b(?P<blocks>\d+))?(?:d(?P<down>\d+))?")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The blocks at one resolution, and by what an encoder divides it afterwards (1: it stays)."""

    resolution: int
    blocks: int
    down: int = 1


def parse_layout(text: str) -> tuple[Stage, ...]:
    """The stages of a layout string, in its order.

    Raises:
        ValueError: a part that is no stage, with what a stage looks like.
    """
    stages = []
    for part in text.split(","):
        found = _STAGE.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"layout {text!r}: {part.strip()!r} is no stage; wanted the like of 64b2d2, 16d4 or 8b3")
        resolution, blocks, down = (int(found[name] or default) for name, default in _DEFAULTS)
        if resolution < 1 or down < 1:
            raise ValueError(f"layout {text!r}: {part.strip()!r} has a zero; resolution and stride must be at least 1")
        stages.append(Stage(resolution=resolution, blocks=blocks, down=down))
    return tuple(stages)


_DEFAULTS: Final = (("resolution", "0"), ("blocks", "0"), ("down", "1"))


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "tiny": MappingProxyType(
            {
                "encoder": "32b1d2,16b1d2,8b2d2,4b1d4,1b1",
                "decoder": "1b1,4b2,8b3,16b2,32b1",
                "patch": 2,
                "widths": (32, 48, 64, 64, 96),
                "latent_channels": (16, 8, 6, 4),
                "stochastic_up_to": 16,
                "bottleneck": 2,
                "scale": "per_pixel",
                "log_scale": 0.0,
                "keep": "noise",
                "cdf": "exact",
                "dropout": 0.0,
            }
        ),
        "small": MappingProxyType(
            {
                "encoder": "128b1d2,64b2d2,32b3d2,16b4d2,8b4d2,4b2d4,1b2",
                "decoder": "1b2,4b4,8b6,16b6,32b4,64b2,128b1",
                "widths": (16, 32, 64, 96, 128, 128, 256),
                "latent_channels": (32, 16, 12, 8, 6),
                "stochastic_up_to": 32,
                "bottleneck": 4,
                "scale": "per_pixel",
                "log_scale": 0.0,
                "keep": "noise",
                "cdf": "exact",
                "dropout": 0.05,
            }
        ),
        "published": MappingProxyType(
            {
                "encoder": "224b2d2,112b4d2,56b9d2,28b14d2,14b14d2,7b9d7,1b5",
                "decoder": "1b5,7b10,14b15,28b15,56b10,112b5,224b3",
                "widths": (32, 64, 96, 128, 160, 192, 512),
                "latent_channels": (48, 30, 24, 18, 12),
                "stochastic_up_to": 96,
                "bottleneck": 4,
                "dropout": 0.1,
                "encoder_kernel_at_one": 3,
            }
        ),
    }
)
"""What each preset sets; every key may be overridden beside the preset's name."""


class HVAEConfig(Config):
    """Layout, widths and likelihood of a hierarchical VAE; without arguments the published one.

    Attributes:
        preset: whose values stand where nothing else is said; "custom" says nothing.
        encoder, decoder: layout strings, finest stage first and coarsest stage first.
        patch: pixels an axis that are folded into channels before the first stage, whose resolution is then that many
            times coarser than the image; blocks at full resolution are most of the time on a CPU.
        widths: channels of each encoder stage; the decoder's stages have the same by resolution.
        latent_channels: channels of a latent in each stage that has any, coarsest first.
        stochastic_up_to: stages of at most this resolution draw latents, finer ones are deterministic.
        bias_up_to: stages of at most this resolution learn a constant map, so that places can differ.
        bottleneck: by what a block divides its width inside.
        dropout: within blocks, in [0, 1).
        context_width: of the two layers that embed the context.
        conditional_prior: whether the prior sees the context. Where it does not, latents pay for all they say about
            it, and so learn to leave it to the decoder.
        keep: what a counterfactual keeps of the latents: their "values", as published, or their "noise", how far they
            lie from their prior; where the prior sees the context, latents then move as the context asks.
        scale: of the likelihood: "fixed" everywhere, one "learnt" number a channel, or a map made "per_pixel".
        log_scale: raw value of the fixed scale, and of the others at the start; `softplus_2` makes it a scale.
        smallest_scale: of a learnt likelihood, in the units of an image of [-1, 1]; half a grey value by default.
        encoder_kernel_at_one: kernel of the encoder's blocks on a map of one pixel; the published network has 3
            there, so that eight ninths of those weights only ever see padding.
    """

    preset: Literal["tiny", "small", "published", "custom"] = "published"
    encoder: str
    decoder: str
    widths: tuple[int, ...]
    latent_channels: tuple[int, ...]
    patch: int = Field(default=1, ge=1)
    stochastic_up_to: int = Field(ge=1)
    bias_up_to: int = Field(default=64, ge=0)
    bottleneck: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    context_width: int = Field(default=32, ge=1)
    conditional_prior: bool = True
    keep: Literal["values", "noise"] = "values"
    scale: Literal["fixed", "learnt", "per_pixel"] = "fixed"
    log_scale: float = PUBLISHED_LOG_SCALE
    smallest_scale: float = Field(default=1 / 255, gt=0)
    cdf: Literal["tanh", "exact"] = "tanh"
    encoder_kernel_at_one: Literal[1, 3] = 1

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("preset", "published")
        if name not in PRESETS and name != "custom":
            raise ValueError(f"preset {name!r}: there is no such preset{nearest(str(name), (*PRESETS, 'custom'))}")
        return {**PRESETS.get(name, {}), **values}

    @model_validator(mode="after")
    def _consistent(self) -> HVAEConfig:
        down, up = self.encoder_stages, self.decoder_stages
        for finer, coarser in pairwise(down):
            if finer.resolution != coarser.resolution * finer.down:
                raise ValueError(
                    f"encoder {self.encoder!r}: {finer.resolution} divided by {finer.down} is not "
                    f"{coarser.resolution}; each stage but the last ends in d and the stride to the next"
                )
        if down[-1].down != 1 or any(stage.down != 1 for stage in up):
            raise ValueError("layout: only the encoder goes down, and nothing follows its last stage; drop that d")
        if [stage.resolution for stage in up] != [stage.resolution for stage in reversed(down)]:
            raise ValueError(f"decoder {self.decoder!r}: its resolutions must be the encoder's in reverse order")
        if any(stage.blocks < 1 for stage in up):
            raise ValueError(f"decoder {self.decoder!r}: every stage needs at least one block")
        if len(self.widths) != len(down) or min(self.widths) < 1:
            raise ValueError(f"widths {self.widths}: wanted one of at least 1 for each of {len(down)} encoder stages")
        if len(self.latent_channels) != len(self.stochastic_stages) or min(self.latent_channels, default=0) < 1:
            raise ValueError(
                f"latent_channels {self.latent_channels}: wanted one of at least 1 for each of "
                f"{len(self.stochastic_stages)} stages of resolution up to {self.stochastic_up_to}, at least one"
            )
        return self

    @property
    def encoder_stages(self) -> tuple[Stage, ...]:
        """Finest first."""
        return parse_layout(self.encoder)

    @property
    def decoder_stages(self) -> tuple[Stage, ...]:
        """Coarsest first."""
        return parse_layout(self.decoder)

    @property
    def stochastic_stages(self) -> tuple[Stage, ...]:
        """The decoder stages that draw latents, coarsest first."""
        return tuple(stage for stage in self.decoder_stages if stage.resolution <= self.stochastic_up_to)

    def stage_sizes(self, size: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
        """Resolution -> the map's size there, for images of this size.

        Raises:
            ConfigError: an axis is no multiple of the coarsest stride.
        """
        finest = self.encoder_stages[0].resolution
        strides = {stage.resolution: finest // stage.resolution for stage in self.encoder_stages}
        step = self.patch * max((stride for resolution, stride in strides.items() if resolution > 1), default=1)
        if any(length < 1 or length % step for length in size):
            raise ConfigError(
                f"image size {size}: this HVAE divides every axis by {step}; resize, crop or pad to multiples of {step}"
            )
        return {
            r: tuple(1 if r == 1 else length // (stride * self.patch) for length in size)
            for r, stride in strides.items()
        }
