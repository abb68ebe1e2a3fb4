"""What the tests of dual- and multi-view contrast share: a recipe that is listened to, and the methods' formulas.

The formulas are dense and in float64: every pair of pixels is written out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.contract import SHAPES, Shapes, Task, build
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.points import Points
from scantling.data.sample import Sample
from scantling.seeding import torch_generator
from scantling.shapes import IGNORE
from scantling.views.maker import make_views
from scantling.views.view import ViewBatch

SMALL: dict[str, Any] = {"points": 20, "hidden": 12, "embedding": 8, "temperature": 0.7}
GENTLE: dict[str, Any] = {"crop_area": [0.4, 1.0]}


@dataclass
class Heard:
    """What a recipe contrasted in one step.

    Attributes:
        sides: anchors and keys of each contrast; the same pixels twice for a pool.
        points: where they are; for pairs of views one after the other.
    """

    loss: Tensor
    sides: list[tuple[Pixels, Pixels]] = field(default_factory=list)
    points: Points | None = None


class Listener:
    """In place of a recipe's diagnostics."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard

    def observe(self, term: str, pixels: Pixels, pairs: Any, *, keys: Pixels | None = None, labels: Any = None) -> None:
        self.heard.sides.append((pixels, pixels if keys is None else keys))


def batch_for(recipe: Any, samples: list[Sample], patch: tuple[int, ...], *, seed: int = 0) -> ViewBatch:
    """Views as the recipe wants them, with images in float64."""
    batch = make_views(samples, recipe.views(), patch, seed=seed)
    return replace(batch, images=batch.images.double())


def hear(
    name: str,
    settings: dict[str, Any] | None = None,
    *,
    task: Task = SHAPES,
    batch: ViewBatch | None = None,
    n_samples: int = 3,
    seed: int = 0,
) -> Heard:
    """One step of a recipe in float64, listened to."""
    given = {**SMALL, **(settings or {})}
    given["views"] = {**GENTLE, **given.get("views", {})}
    recipe = build(name, given, task=task).double()
    if batch is None:
        samples = [task.source.sample(0, i) for i in range(n_samples)]
        batch = batch_for(recipe, samples, task.patch, seed=seed)
    heard = Heard(loss=torch.tensor(0.0))
    recipe.diagnostics = Listener(heard)
    embed = recipe.embedded

    def embedded(batch: ViewBatch, points: Points, **how: Any) -> Tensor:
        heard.points = points
        return embed(batch, points, **how)

    recipe.embedded = embedded
    heard.loss = recipe.losses(batch, torch_generator(seed, "recipe"))["pixel_contrast"]
    return heard


def with_counterfactuals(n: int = 3, **changes: Any) -> Task:
    """Discs and squares, each with other images of the same anatomy."""
    return replace(SHAPES, source=Shapes(alternatives=n, **changes))


def unlabelled(batch: ViewBatch, rows: Any = slice(None)) -> ViewBatch:
    """The batch without the labels of some samples."""
    labels = batch.label_maps.clone()
    labels[rows] = IGNORE
    return replace(batch, label_maps=labels)


def similarities(anchors: Pixels, keys: Pixels, temperature: float = 0.7) -> np.ndarray:
    """Cosines over the temperature."""
    first, second = (side.embeddings.detach().numpy() for side in (anchors, keys))
    first, second = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (first, second))
    assert first.dtype == np.float64
    return first @ second.T / temperature


def usable(tags: Tags) -> np.ndarray:
    assert tags.usable is not None
    return tags.usable.numpy()


def sup_con(s: np.ndarray, positive: np.ndarray, compared: np.ndarray, trust: np.ndarray | None = None) -> float:
    """The mean over anchors of the mean over their positives of log(sum over what is compared) - s.

    Anchors and positives count by trust; anchors without a positive do not.
    """
    trust_of_anchors, trust_of_keys = (np.ones(len(s)), np.ones(s.shape[1])) if trust is None else (trust, trust)
    total, weights = 0.0, 0.0
    for i, row in enumerate(s):
        mass = positive[i] * trust_of_keys
        if mass.sum() == 0:
            continue
        log_z = np.log(np.exp(row[compared[i]]).sum())
        total += trust_of_anchors[i] * (mass * (log_z - row)).sum() / mass.sum()
        weights += trust_of_anchors[i]
    return total / weights if weights else 0.0


def number(tags: Tags, name: str) -> np.ndarray:
    return tags.need(name).numpy()
