"""P13: CPU time of a step of our training loop over that of a bare loop with the same network, views and data.

The bare loop is what one would write by hand: read the samples, make the views, losses, backward, clip, AdamW.
Ours also averages the weights, refuses steps that are not finite, keeps what undoes a step, tells the display and
watches the clock. The two take turns step by step in one process: the loop asks after each step whether to stop, and
in that question the bare loop makes its step, untimed for ours. Checkpoints (one a minute) and epoch ends (one in
100 steps) are in the mean and not in the median. Afterwards both networks must have the same weights, bit for bit.
"""

from measuring import Row, record  # isort: skip  (sets the number of threads first)

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.dataset import PatchDataset
from scantling.data.fingerprint import fingerprint
from scantling.data.layouts import open_dataset
from scantling.data.plan import Plan
from scantling.data.planning import derive_plan
from scantling.data.store import Store
from scantling.networks.build import SCRIBBLE_UNET
from scantling.recipes import build_recipe
from scantling.recipes.recipe import Recipe
from scantling.seeding import derived_seed, torch_generator
from scantling.training.batches import StepSamples
from scantling.training.loop import Loop
from scantling.training.loop_state import LoopConfig
from scantling.training.optimisation import build_optimiser, learning_rate, set_learning_rate
from scantling.training.run_folder import RunFolder
from scantling.views.maker import make_views

SEED = 0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scene:
    """What both loops are given; each builds its own recipe, with equal weights."""

    plan: Plan
    samples: StepSamples
    config: LoopConfig

    def recipe(self) -> Recipe:
        return build_recipe("supervised", {}, self.plan, torch_generator(SEED, "weights"))


def scene(folder: Path, *, steps: int, size: int, scribble_unet: bool = False) -> Scene:
    """Phantom radiographs and the plan derived from them, or the scribble benchmark's network on 256 x 256."""
    data = folder / "data"
    write_chest_phantom(data, n_labelled=8, n_unlabelled=0, n_test=2, seed=SEED, size=size)
    manifest = open_dataset(data)
    plan = derive_plan(fingerprint(manifest, manifest.cases, ("full",)), manifest)
    if scribble_unet:
        plan = plan.model_copy(update={"network": SCRIBBLE_UNET, "patch_size": (256, 256), "batch_size": 2})
    prepared = Store(folder / "cache").prepare(manifest.cases, manifest, plan)
    config = LoopConfig(steps=steps, precision="float32")
    dataset = PatchDataset(prepared, plan, seed=SEED, samples_per_epoch=plan.batch_size * config.steps_per_epoch)
    return Scene(plan, StepSamples(dataset, plan.batch_size, config.steps_per_epoch), config)


class BareLoop:
    """Training without anything around it."""

    def __init__(self, given: Scene) -> None:
        self.given = given
        self.recipe = given.recipe().train()
        self.optimiser = build_optimiser(self.recipe, given.config.optimisation)
        self.done = 0

    def step(self) -> None:
        given, settings = self.given, self.given.config.optimisation
        set_learning_rate(self.optimiser, learning_rate(self.done / given.config.steps, settings))
        torch.manual_seed(derived_seed(SEED, "layers", self.done))  # for dropout
        samples = given.samples[self.done]
        batch = make_views(samples, self.recipe.views(), given.plan.patch_size, seed=SEED)
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.recipe.losses(batch, torch_generator(SEED, "recipe", self.done, 0))
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.recipe.parameters(), settings.gradient_clip)
        self.optimiser.step()
        self.done += 1


def measure(folder: Path, name: str, given: Scene, *, steps_per_round: int, warmups: int) -> Row:
    bare = BareLoop(given)
    ours: list[float] = []
    theirs: list[float] = []
    began = 0.0

    def in_between() -> bool:
        nonlocal began
        ended = time.process_time()
        ours.append(ended - began)
        bare.step()
        began = time.process_time()
        theirs.append(began - ended)
        return False

    run = RunFolder.create(folder / "run")
    loop = Loop(
        given.recipe(), given.samples, given.config, patch_size=given.plan.patch_size, run=run, seed=SEED,
        device=CPU, stop=in_between,
    )  # fmt: skip
    began = time.process_time()
    loop.run()
    rounds = [slice(first, first + steps_per_round) for first in range(warmups, len(ours), steps_per_round)]
    ratio = statistics.median(sum(ours[part]) / sum(theirs[part]) for part in rounds)
    mean = sum(ours[warmups:]) / sum(theirs[warmups:])
    weights = zip(loop.recipe.state_dict().values(), bare.recipe.state_dict().values(), strict=True)
    equal = all(torch.equal(own, other) for own, other in weights)
    return Row(
        bar="P13", what=f"training step, {name}", peer="bare loop", ours=1000 * statistics.median(ours[warmups:]),
        theirs=1000 * statistics.median(theirs[warmups:]), unit="ms", ratio=ratio, floor="<= 1.05",
        target="<= 1.02", equal=equal,
        check=f"weights after {len(ours)} steps {'equal bit for bit' if equal else 'DIFFER'}; mean ratio {mean:.3f}",
    )  # fmt: skip


def main() -> int:
    torch.set_num_threads(1)
    rows = []
    for name, scribble_unet, size in (("default plan", False, 200), ("scribble U-Net", True, 300)):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            given = scene(folder, steps=23 if scribble_unet else 39, size=size, scribble_unet=scribble_unet)
            shape = " x ".join(map(str, (given.plan.batch_size, *given.plan.patch_size)))
            rounds = {"steps_per_round": 3, "warmups": 2} if scribble_unet else {"steps_per_round": 5, "warmups": 4}
            rows.append(measure(folder, f"{name}, {shape}", given, **rounds))
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
