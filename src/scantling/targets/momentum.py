"""The averaged copy that teaches within a recipe: part of its state, on its device, and never in training mode."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from scantling.targets.teacher import AveragedCopy


@final
class MomentumTeacher(nn.Module):
    """An exponential moving average of a module, as a module; calling it asks the average, without gradient.

    What it says rests on running statistics where layers have them, whatever mode the recipe around it is in, so
    that an answer does not depend on what else is in the batch.

    Source: He et al. 2020, "Momentum contrast for unsupervised visual representation learning", Eq. 2.
    Differs: the decay is warmed up as `AveragedCopy` says, so that the random start is forgotten; and statistics are
    those of the copy instead of those of a shuffled batch, which serve the same end.
    """

    updates: Tensor

    def __init__(self, source: nn.Module, *, decay: float) -> None:
        """The source as it is.

        Args:
            decay: in [0, 1).
        """
        super().__init__()
        self._average = AveragedCopy(source, decay=decay)
        self.module = self._average.module
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, *inputs: Any) -> Any:
        """What the average says."""
        self.module.eval()
        return self._average(*inputs)

    def update(self, source: nn.Module) -> None:
        """Move towards `source` by one step."""
        self._average.updates = int(self.updates)
        self._average.update(source)
        self.updates += 1
