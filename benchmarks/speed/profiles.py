"""Where the time of a training step and of a prediction goes, as text; `table.py` puts it into docs/benchmarks.md.

Each is cut into its parts, timed by CPU time over several repetitions with one thread, and the operators below are
those of torch's profiler over the same work, by their own time. The step is that of `loop_overhead.py`; the
prediction is that of a cardiac volume of 10 x 224 x 224 with the network its plan derives (untrained: the time is the
same), from the file to the file. (Not named after the module of the standard library that profilers import.)
"""

from measuring import ROOT  # isort: skip  (sets the number of threads first)

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from loop_overhead import SEED, scene
from torch.profiler import ProfilerActivity, profile

from scantling.data.catalog.phantom import write_cardiac_phantom
from scantling.data.fingerprint import fingerprint
from scantling.data.image_io import read_image, write_label_map
from scantling.data.layouts import open_dataset
from scantling.data.planning import derive_plan
from scantling.data.prepare import prepare_image, restore_label_map
from scantling.inference.sliding_window import predict_labels
from scantling.inference.tiling import tile
from scantling.networks import build_network
from scantling.seeding import torch_generator
from scantling.targets.teacher import AveragedCopy
from scantling.training.optimisation import build_optimiser
from scantling.views.maker import make_views

OUT = ROOT / "docs" / "results" / "profiles.txt"
REPETITIONS = 5
N_OPERATORS = 12


class Parts:
    """CPU milliseconds of named parts, one list of repetitions each."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.milliseconds.setdefault(name, []).append(1000 * (time.process_time() - began))

    def lines(self) -> list[str]:
        medians = {name: statistics.median(each) for name, each in self.milliseconds.items()}
        total = sum(medians.values())
        rows = [f"{name:<44}{ms:10.1f}{100 * ms / total:8.1f} %" for name, ms in medians.items()]
        return [f"{'part':<44}{'CPU ms':>10}{'share':>10}", *rows, f"{'all':<44}{total:10.1f}{100:8.1f} %"]


def operators(work: Callable[[], object]) -> list[str]:
    """torch's operators by the time spent in each itself."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    averages = sorted(recorded.key_averages(), key=lambda each: -each.self_cpu_time_total)
    total = sum(each.self_cpu_time_total for each in averages)
    lines = [f"{'operator':<44}{'calls':>10}{'CPU ms':>10}{'share':>10}"]
    for each in averages[:N_OPERATORS]:
        share = 100 * each.self_cpu_time_total / total
        lines.append(f"{each.key[:43]:<44}{each.count:10d}{each.self_cpu_time_total / 1000:10.1f}{share:8.1f} %")
    return lines


def training_step(folder: Path) -> list[str]:
    given = scene(folder, steps=100, size=200)
    plan, config = given.plan, given.config.optimisation
    recipe = given.recipe().train()
    optimiser, average = build_optimiser(recipe, config), AveragedCopy(recipe.deployable(), decay=0.995)

    def step(number: int, parts: Parts) -> None:
        with parts.part("read the samples"):
            samples = given.samples[number]
        with parts.part("make the views"):
            batch = make_views(samples, recipe.views(), plan.patch_size, seed=SEED)
        optimiser.zero_grad(set_to_none=True)
        with parts.part("network and losses, forward"):
            terms = recipe.losses(batch, torch_generator(SEED, "recipe", number, 0))
            total = torch.stack(list(terms.values())).sum()
        with parts.part("network and losses, backward"):
            torch.autograd.backward(total)
        with parts.part("gradient norm and clipping"):
            torch.nn.utils.clip_grad_norm_(recipe.parameters(), config.gradient_clip)
        with parts.part("AdamW"):
            optimiser.step()
        with parts.part("averaged weights"):
            average.update(recipe.deployable())

    parts = Parts()
    step(0, Parts())
    for number in range(1, REPETITIONS + 1):
        step(number, parts)
    shape = " x ".join(map(str, (plan.batch_size, *plan.patch_size)))
    features = "-".join(map(str, plan.network.features))
    head = f"Training step: {plan.network.kind} of {features} features, {shape}, float32"
    return [head, "", *parts.lines(), "", *operators(lambda: step(REPETITIONS + 1, Parts()))]


def prediction(folder: Path) -> list[str]:
    data = folder / "cardiac"
    write_cardiac_phantom(
        data, n_labelled=4, n_unlabelled=0, n_test=0, seed=SEED, shape=(10, 224, 224), spacing_mm=(8.0, 1.4, 1.4)
    )
    manifest = open_dataset(data)
    plan = derive_plan(fingerprint(manifest, manifest.cases, ("full",)), manifest)
    n_classes = len(plan.classes.names)
    network = build_network(
        plan.network, dimensions=plan.dimensions, in_channels=len(plan.channels), out_channels=n_classes,
        generator=torch_generator(SEED, "weights"),
    ).eval()  # fmt: skip
    slices = plan.dimensions < plan.image_axes
    patch = (1, *plan.patch_size) if slices else plan.patch_size

    def alone(image: torch.Tensor) -> None:
        """The network on as many patches as the window has."""
        window = tile(tuple(image.shape[1:]), patch, overlap=0.5, batch_size=plan.batch_size)
        for batch in window.batches:
            network(torch.zeros(len(batch), image.shape[0], *plan.patch_size))

    def predict(parts: Parts) -> None:
        with parts.part("read the file"):
            source = read_image(manifest.cases[0].images[0])
        with parts.part("prepare (orientation, grid, intensities)"):
            prepared = prepare_image([source], plan)
            image = torch.from_numpy(prepared.values())
        with torch.inference_mode(), parts.part("network alone"):
            alone(image)
        with parts.part("window with network"):
            labels = predict_labels(
                network, image, patch_size=plan.patch_size, n_classes=n_classes, slices=slices,
                batch_size=plan.batch_size,
            )  # fmt: skip
        with parts.part("back to the image's own grid"):
            restored = restore_label_map(labels.numpy(), prepared.grid)
        with parts.part("write the file"):
            write_label_map(folder / "out.nii.gz", restored, source.geometry)

    parts = Parts()
    predict(Parts())
    for _ in range(REPETITIONS):
        predict(parts)
    # what the window adds to the network, instead of both
    both, bare = parts.milliseconds.pop("window with network"), parts.milliseconds["network alone"]
    parts.milliseconds["network on the patches"] = parts.milliseconds.pop("network alone")
    parts.milliseconds["window around it"] = [max(a - b, 0.0) for a, b in zip(both, bare, strict=True)]
    shape = " x ".join(map(str, patch))
    features = "-".join(map(str, plan.network.features))
    head = f"Prediction of a volume: {plan.network.kind} of {features} features, patches {shape}, overlap 0.5"
    image = torch.from_numpy(prepare_image([read_image(manifest.cases[0].images[0])], plan).values())
    work = {"patch_size": plan.patch_size, "n_classes": n_classes, "slices": slices, "batch_size": plan.batch_size}
    return [head, "", *parts.lines(), "", *operators(lambda: predict_labels(network, image, **work))]


def main() -> int:
    torch.set_num_threads(1)
    texts = []
    for work in (training_step, prediction):
        with tempfile.TemporaryDirectory() as scratch:
            texts.append("\n".join(work(Path(scratch))))
    text = "\n\n\n".join(texts) + "\n"
    print(text)
    OUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
