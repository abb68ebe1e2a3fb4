"""An averaged copy of a network: the teacher of consistency methods, and the weights that are deployed."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn


class AveragedCopy:
    """Exponential moving average of a module's parameters; buffers are copied.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is
    forgotten within the first tenth of a run.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", Eq. 1.
    """

    def __init__(self, source: nn.Module, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(source).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move towards `source` by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in source.parameters()], 1 - decay)
        for own, other in zip(self.module.buffers(), source.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers, and the number of updates under `__updates__`."""
        state = cast("dict[str, Tensor]", self.module.state_dict())
        return {**state, "__updates__": torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        tensors = dict(state)
        self.updates = int(tensors.pop("__updates__"))
        self.module.load_state_dict(tensors)
