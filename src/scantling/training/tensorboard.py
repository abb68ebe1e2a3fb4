"""The epochs of `log.jsonl` as TensorBoard scalars, for those who have installed the extra."""

from __future__ import annotations

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
        """Add the losses, the learning rate, the throughput and the validation scores of an epoch's event."""
        scalars = {f"loss/{name}": value for name, value in event["losses"].items()}
        scalars |= {name: event[name] for name in ("learning_rate", "samples_per_second") if event[name] is not None}
        if event["validation"] is not None:
            scalars["validation/mean_dice"] = event["validation"]["mean_dice"]
            scalars |= {f"validation/{name}": value for name, value in event["validation"]["per_class"].items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, event["step"])
        self._writer.flush()
