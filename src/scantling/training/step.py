"""One step of training: gradients of a batch, and the move they make, or do not make."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scantling.contrast.observation import Observation
from scantling.data.sample import Sample
from scantling.errors import IntegrityError
from scantling.inference.device import autocast, mixed_precision
from scantling.processes import process_count, process_rank
from scantling.recipes.recipe import Recipe
from scantling.seeding import global_torch_seed, torch_generator
from scantling.targets.teacher import AveragedCopy
from scantling.training.checkpoint import optimiser_state, restore_optimiser
from scantling.training.optimisation import OptimisationConfig, build_optimiser, gradient_norm
from scantling.views.maker import make_views
from scantling.views.view import ViewBatch

PRECISIONS: Final = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the backward passes of a step gave: the terms, the gradient norm before clipping, seconds, samples, and
    what the recipe's diagnostics saw, if it was their turn."""

    terms: Mapping[str, float]
    gradient_norm: float
    seconds: float
    n_samples: int
    observations: Sequence[Observation] = ()

    @property
    def bad_terms(self) -> list[str]:
        """Names of the terms that are not finite."""
        return [name for name, value in self.terms.items() if not math.isfinite(value)]

    @property
    def finite(self) -> bool:
        return math.isfinite(self.gradient_norm) and not self.bad_terms


class _Terms(nn.Module):
    """A recipe whose forward pass is its losses, which is what DistributedDataParallel wraps."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        return self.recipe.losses(batch, rng)


@final
class Stepper:
    """Everything a step changes: the recipe, the optimiser, the averaged weights, the loss scale.

    `backward` changes gradients, and buffers of the recipe such as running statistics; then `take` moves the
    weights, or `undo` puts the buffers back, and nothing has happened.
    """

    def __init__(
        self, recipe: Recipe, config: OptimisationConfig, *, precision: str, seed: int, device: torch.device
    ) -> None:
        self.recipe = recipe.to(device).train()
        self.config, self.seed, self.device = config, seed, device
        self.precision = mixed_precision(device) if precision == "auto" else PRECISIONS[precision]
        self.optimiser = build_optimiser(self.recipe, config)
        decay = config.average_decay
        self.average = AveragedCopy(recipe.deployable(), decay=decay) if decay > 0 else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self._buffers = list(recipe.buffers())
        self._buffers_before = [buffer.clone() for buffer in self._buffers]
        self._outstanding = False  # gradients that are neither taken nor undone
        self._terms: nn.Module = _Terms(recipe)
        if process_count() > 1:
            self._terms = DistributedDataParallel(self._terms)

    def backward(
        self, samples: Sequence[Sample], step: int, *, patch_size: tuple[int, ...], batch_size: int, parts: int = 1
    ) -> Outcome:
        """Gradients of one step, the batch cut into `parts` where it does not fit.

        Args:
            batch_size: samples of all processes together.
            parts: the terms and gradients are the mean of those of the parts.
        """
        began = time.perf_counter()
        diagnostics = self.recipe.diagnostics
        if diagnostics is not None:
            diagnostics.begin(step)
        if self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)
        self._outstanding = True
        self.recipe.zero_grad(set_to_none=True)
        totals = self._accumulate(
            self._terms, samples, step, patch_size, part_shares(batch_size, process_count(), parts)
        )
        self.scaler.unscale_(self.optimiser)
        norm = gradient_norm(self.recipe, clip=self.config.gradient_clip)
        values = torch.stack([norm.float(), *(value.float() for value in totals.values())]).tolist()
        terms = dict(zip(totals, values[1:], strict=True))
        observations = diagnostics.collect() if diagnostics is not None else ()
        seconds = time.perf_counter() - began
        return Outcome(
            terms=terms, gradient_norm=values[0], seconds=seconds, n_samples=len(samples), observations=observations
        )

    def take(self) -> None:
        """Move the weights along the gradients."""
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.recipe.deployable())
        self.recipe.after_step()
        self._outstanding = False

    def undo(self) -> None:
        """Make the last `backward` not have happened; what was taken stays."""
        if self._buffers and self._outstanding:
            torch._foreach_copy_(self._buffers, self._buffers_before)
        self.recipe.zero_grad(set_to_none=True)
        if self.recipe.diagnostics is not None:
            self.recipe.diagnostics.drop()
        self._outstanding = False

    def skip(self) -> None:
        """`undo` for gradients that are not finite: a loss scale that was too large becomes smaller."""
        self.undo()
        self.scaler.update()

    def trial(
        self, samples: Sequence[Sample], *, patch_size: tuple[int, ...], batch_size: int, parts: int = 1
    ) -> float:
        """Seconds the gradients of a step take, by two of them on a copy of the recipe."""
        twin = copy.deepcopy(self.recipe)
        shares = part_shares(batch_size, process_count(), parts)
        seconds = math.nan
        for _ in range(2):
            began = time.perf_counter()
            twin.zero_grad(set_to_none=True)
            totals = self._accumulate(_Terms(twin), samples, 0, patch_size, shares)
            torch.stack(list(totals.values())).tolist()  # waits for the device
            seconds = time.perf_counter() - began
        return seconds

    def deployable(self) -> nn.Module:
        """The averaged network, or the live one without averaging."""
        return self.average.module if self.average is not None else self.recipe.deployable()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that must survive a restart, as tensors and scalars."""
        optimiser_tensors, optimiser_scalars = optimiser_state(self.optimiser)
        tensors: dict[str, Tensor] = {f"recipe/{k}": v for k, v in self.recipe.state_dict().items()}
        tensors |= {f"optimiser/{k}": v for k, v in optimiser_tensors.items()}
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        return tensors, {"optimiser": optimiser_scalars, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Raises:
            IntegrityError: it is the state of another recipe or network.
        """
        parts: dict[str, dict[str, Tensor]] = {"recipe": {}, "optimiser": {}, "average": {}}
        for name, tensor in tensors.items():
            part, key = name.split("/", 1)
            parts[part][key] = tensor
        try:
            self.recipe.load_state_dict(parts["recipe"])
            if self.average is not None:
                self.average.load_state_dict(parts["average"])
        except (RuntimeError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise IntegrityError(
                f"checkpoint: holds the weights of another network ({first}); its run was started with another plan "
                "or recipe, start anew with 'train'",
                code="E-CHK-05",
            ) from error
        restore_optimiser(self.optimiser, parts["optimiser"], scalars["optimiser"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(scalars["scaler"])

    def _accumulate(
        self,
        terms_of: Callable[[ViewBatch, torch.Generator], Mapping[str, Tensor]],
        samples: Sequence[Sample],
        step: int,
        patch_size: tuple[int, ...],
        shares: Sequence[float],
    ) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        own = (process_rank(),) if process_count() > 1 else ()
        with global_torch_seed(self.seed, "layers", step, *own):
            for index, share in enumerate(shares):
                batch = make_views(
                    samples[index :: len(shares)], self.recipe.views(), patch_size,
                    seed=self.seed, train=True, device=self.device,
                )  # fmt: skip
                last = index == len(shares) - 1
                with contextlib.nullcontext() if last else _without_exchange(terms_of):
                    with autocast(self.device, self.precision):
                        terms = terms_of(batch, torch_generator(self.seed, "recipe", step, index, *own))
                    torch.autograd.backward(self.scaler.scale(torch.stack(list(terms.values())).sum() * share))
                for name, term in terms.items():
                    value = term.detach() * share
                    totals[name] = totals[name] + value if name in totals else value
        return totals


def part_shares(batch_size: int, processes: int, parts: int) -> list[float]:
    """Share of the whole batch in each part, where every process cuts its own samples into equal parts.

    >>> part_shares(5, 2, 2)  # one process has 3 samples, cut into 2 + 1, the other 2, cut into 1 + 1
    [0.6, 0.4]
    """
    sizes = [len(range(rank, batch_size, processes)) for rank in range(processes)]
    parts = min(parts, *sizes)
    return [sum(len(range(part, size, parts)) for size in sizes) / batch_size for part in range(parts)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the machine's or the device's, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text


def _without_exchange(terms_of: object) -> AbstractContextManager[object]:
    """Gradients stay in their process until the last part, which exchanges the sum."""
    if isinstance(terms_of, DistributedDataParallel):
        exchange: AbstractContextManager[object] = terms_of.no_sync()
        return exchange
    return contextlib.nullcontext()
