"""One of several processes that share a step: `shared_step.py FOLDER`, with torchrun's variables in the environment.

Computes the gradients of one batch, spread unevenly over the processes; the first writes them to FOLDER, with
what the processes agree on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from recipes.contract import PATCH, Shapes, build
from scantling.processes import launched, process_count, process_rank
from scantling.training.batches import StepSamples
from scantling.training.distributed import agree, joined_processes, wait_for_all
from scantling.training.optimisation import OptimisationConfig
from scantling.training.step import Stepper

BATCH = 5


class Uneven(Shapes):
    """Shapes of which some have few labelled pixels, so that means of means would differ from the mean."""

    def sample(self, epoch: int, position: int) -> object:  # type: ignore[override]
        sample = super().sample(epoch, position)
        sample.label_map[: 8 * (position % 4)] = -1
        return sample


def gradients(rank: int, processes: int, parts: int) -> dict[str, torch.Tensor]:
    """Gradients and terms of step 3 as this process sees them."""
    samples = StepSamples(Uneven(), BATCH, steps_per_epoch=2, rank=rank, processes=processes)
    config = OptimisationConfig(gradient_clip=0.0)
    stepper = Stepper(build("supervised"), config, precision="float32", seed=0, device=torch.device("cpu"))
    outcome = stepper.backward(samples[3], 3, patch_size=PATCH, batch_size=BATCH, parts=parts)
    found = {name: p.grad.clone() for name, p in stepper.recipe.named_parameters() if p.grad is not None}
    return found | {f"term {name}": torch.tensor(value) for name, value in outcome.terms.items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, count, _ = launched()
    with joined_processes(torch.device("cpu")):
        assert (process_rank(), process_count()) == (rank, count)
        found = {f"{parts} {name}": t for parts in (1, 2) for name, t in gradients(rank, count, parts).items()}
        stop, elapsed = agree(rank == 1, 10.0 + rank)
        found["agreed"] = torch.tensor([float(stop), elapsed])
        if rank == 0:
            torch.save(found, folder / "shared.pt")
        wait_for_all()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
