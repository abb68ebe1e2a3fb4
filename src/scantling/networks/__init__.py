"""From image batches to feature maps with named taps and to logits."""

from __future__ import annotations

from scantling.networks.build import (
    NETWORKS,
    PRESETS,
    RESNET50_UNET,
    SCRIBBLE_UNET,
    build_network,
    check_network_plan,
)
from scantling.networks.fixing import Tune, fix_parts, untrained
from scantling.networks.resnet_unet import load_initial, load_resnet50_weights
from scantling.networks.transfer import TransferReport, TransferRow, load_matching, read_state
from scantling.networks.unet import Tap, UNet

__all__ = [
    "NETWORKS",
    "PRESETS",
    "RESNET50_UNET",
    "SCRIBBLE_UNET",
    "Tap",
    "TransferReport",
    "TransferRow",
    "Tune",
    "UNet",
    "build_network",
    "check_network_plan",
    "fix_parts",
    "load_initial",
    "load_matching",
    "load_resnet50_weights",
    "read_state",
    "untrained",
]
