"""The epochs of `log.jsonl` as TensorBoard scalars, for those who have installed the extra."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scantling.errors import ConfigError


class TensorBoard:
    """Writes one point a term and epoch into `folder`.

    Raises:
        ConfigError: the extra is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ConfigError(
                "training.tensorboard: the package tensorboard is missing; pip install 'scantling[tensorboard]'",
                code="E-CFG-16",
            ) from None
        self._writer: Any = SummaryWriter(str(folder))

    def epoch(self, event: dict[str, Any]) -> None:
        """Add the losses, the learning rate, the throughput, the validation scores, what the contrast saw, and the
        health of the features."""
        scalars = {f"loss/{name}": value for name, value in event["losses"].items()}
        scalars |= {name: event[name] for name in ("learning_rate", "samples_per_second") if event[name] is not None}
        if event["validation"] is not None:
            scores = {**event["validation"], **event["validation"]["per_class"]}
            scalars |= {f"validation/{name}": value for name, value in scores.items() if name != "per_class"}
        scalars |= _by_path("contrast", event.get("contrast", {}))
        scalars |= {f"health/{name}": value for name, value in event.get("health", {}).items() if math.isfinite(value)}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, event["step"])
        self._writer.flush()


def _by_path(path: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of nested tables, named `path/of/tables/name`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        found |= _by_path(f"{path}/{name}", value) if isinstance(value, Mapping) else {f"{path}/{name}": value}
    return found
