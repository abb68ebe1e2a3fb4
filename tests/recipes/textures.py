"""What recipes of pretraining are tried on, stripes of each image's own direction and width, and must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recipes.contract import CROP, SHAPES, SOLID_CROP, SOLIDS, Task
from scantling.data.sample import Sample
from scantling.recipes.recipe import Recipe
from scantling.seeding import numpy_generator, torch_generator
from scantling.training.optimisation import OptimisationConfig
from scantling.training.step import Stepper
from scantling.views.maker import make_views
from scantling.views.view import ViewBatch


@dataclass(frozen=True)
class Stripes:
    """Image `position` is the same picture in every epoch, under new noise; one half of it is class 1."""

    shape: tuple[int, ...] = (CROP, CROP)

    def sample(self, epoch: int, position: int) -> Sample:
        rng = numpy_generator(0, "stripes", position)
        dimensions = len(self.shape)
        direction = rng.normal(size=dimensions)
        direction *= rng.uniform(0.5, 2.5) / np.linalg.norm(direction)
        phase = np.tensordot(direction, np.indices(self.shape), axes=1) + rng.uniform(0, 2 * np.pi)
        image = np.sin(phase) * rng.uniform(0.3, 2.0) + numpy_generator(0, "noise", epoch, position).normal(
            0, 0.1, self.shape
        )
        return Sample(
            image=torch.from_numpy(image[None]).float(), label_map=torch.from_numpy((phase > 0).astype(np.int64)),
            weight=torch.ones(self.shape), annotated=torch.ones(3, dtype=torch.bool), spacing_mm=(1.0,) * dimensions,
            source_from_sample=torch.eye(dimensions + 1, dtype=torch.float64), case_index=position,
            patient_index=position, slice_position=0.5, key=(epoch, position),
        )  # fmt: skip


def with_batch_norm(task: Task) -> Task:
    """The task for a network whose features keep the size of what they found: instance norm divides it out."""
    network = task.plan.network.model_copy(update={"norm": "batch"})
    return replace(task, plan=task.plan.model_copy(update={"network": network}))


STRIPES = replace(with_batch_norm(SHAPES), source=Stripes())
SOLID_STRIPES = replace(
    with_batch_norm(SOLIDS),
    plan=with_batch_norm(SOLIDS).plan.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)}),
    source=Stripes(SOLID_CROP),
)
CALM = {"jitter_probability": 0.0, "blur_probability": 0.0, "solarise_probability": 0.0}
CALM_VIEWS = {"rotation_deg": 5.0, "crop_area": [0.5, 1.0], "intensity": CALM, "intensity_of_others": CALM}
"""What a network of two levels can learn in 40 steps."""


def exact_batch(recipe: Recipe, task: Task, n: int = 3, *, seed: int = 0) -> ViewBatch:
    """Views of the task's first samples, as the recipe wants them, in float64; the recipe becomes float64 too."""
    recipe.double()
    batch = make_views([task.source.sample(0, i) for i in range(n)], recipe.views(), task.patch, seed=seed)
    return replace(batch, images=batch.images.double())


def nce_by_hand(
    anchor: torch.Tensor, positives: Sequence[torch.Tensor], negatives: Sequence[torch.Tensor], temperature: float
) -> float:
    """Of one anchor: the mean over its positives of -log of a positive's share of all."""

    def logit(key: torch.Tensor) -> float:
        return float(anchor @ key / math.sqrt(float(anchor @ anchor) * float(key @ key))) / temperature

    total = math.log(sum(math.exp(logit(key)) for key in (*positives, *negatives)))
    return sum(total - logit(key) for key in positives) / len(positives)


def assert_no_gradient(recipe: Recipe, batch: ViewBatch, *, rounding: float = 0.0) -> None:
    """Every term is 0, and so are the gradients of everything that is trained, but for rounding."""
    terms = recipe.train().losses(batch, torch_generator(0, "recipe"))
    assert max(abs(term.item()) for term in terms.values()) <= rounding
    torch.stack(list(terms.values())).sum().backward()
    trained = {name: p.grad for name, p in recipe.named_parameters() if p.requires_grad}
    assert trained
    assert all(g is not None and bool((g.abs() <= rounding).all()) for g in trained.values()), trained.keys()


def assert_trained_up_to(recipe: Recipe, last: str) -> None:
    """What lies beyond a tap is not trained, all else is, and gets a gradient."""
    network = recipe.deployable()
    names = list(network.taps)
    for name in names:
        wanted = names.index(name) <= names.index(last)
        assert all(p.requires_grad == wanted for p in network.get_submodule(name).parameters()), name
    assert not any(p.requires_grad for p in network.heads.parameters())


def assert_undone_steps_leave_no_trace(recipe: Recipe, task: Task) -> None:
    """A step that is broken off leaves parameters, memories and teachers as they were, to the bit."""
    config = OptimisationConfig(gradient_clip=0.0, average_decay=0.0)
    stepper = Stepper(recipe, config, precision="float32", seed=0, device=torch.device("cpu"))
    samples = [task.source.sample(0, i) for i in range(4)]
    stepper.backward(samples, 0, patch_size=task.patch, batch_size=4)
    stepper.take()
    before = {name: value.clone() for name, value in recipe.state_dict().items()}
    stepper.backward(samples, 1, patch_size=task.patch, batch_size=4)
    stepper.undo()
    after = recipe.state_dict()
    assert before.keys() == after.keys()
    assert not [name for name in before if not torch.equal(before[name], after[name])]
