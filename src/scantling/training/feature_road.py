"""The road to features: every image of the training side, with labels or without, for a network to be fine-tuned."""

from __future__ import annotations

import math
import time
from typing import ClassVar, Final, final

import torch
from torch import nn

from scantling.config import Config
from scantling.data.case import LabelKind
from scantling.data.dataset import DEFAULT_MARGIN, FOREGROUND_FRACTION, PatchDataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.data.splits import Split
from scantling.data.store import PreparedSet, Store
from scantling.errors import ConfigError
from scantling.inference.device import autocast, device_memory_gb
from scantling.inference.memory import PeakGauge
from scantling.inference.model_folder import FEATURES, SEGMENTATION, save_model
from scantling.networks import UNet, untrained
from scantling.recipes import RECIPES, build_recipe, parse_settings
from scantling.recipes.recipe import Recipe
from scantling.seeding import torch_generator
from scantling.training.checkpoint import has_checkpoint
from scantling.training.feature_health import Examined, examined_cases, health_in_words, last_health
from scantling.training.feature_pixels import CASE_VOXELS, WHOLE_VOXELS
from scantling.training.feature_split import feature_split, readable, scored_kinds, tuning_split, whom
from scantling.training.feature_validation import feature_validation
from scantling.training.initial import Start, begin, check_start, start_of
from scantling.training.interruption import StopSignals
from scantling.training.loop import Loop
from scantling.training.loop_state import Validation
from scantling.training.materials import (
    alternatives_sentence,
    cache_folder,
    prepared,
    read_data,
    shows_alternatives,
    without_labels,
)
from scantling.training.needs import Later, worker_bytes
from scantling.training.observations import active_warnings
from scantling.training.road import Road
from scantling.training.run_plan import plan_of_run

_FITTING_SECONDS: Final = 1.0
"""Of a linear probe and clusters, on features that are there (measured)."""
_MAY_SEGMENT: Final = {
    FEATURES: "They segment nothing yet: fine-tune with 'train DATA --init RUN'.",
    SEGMENTATION: "The network also segments as it is ('predict'), as its labels taught it; nothing was scored.",
}


@final
class FeatureRoad(Road):
    """From a folder of images to a network whose features know the anatomy.

    Patients of the held-out fold and of the validation are not learnt from, as `train` with the same options will hold
    them out. A method that reads no labels is given none; another one those of `data.label_kinds`.
    """

    plan_type: ClassVar[type[Config]] = Plan
    manifest: Manifest
    split: Split
    plan: Plan
    train: PreparedSet
    examined: Examined
    start: Start | None
    left_out: set[str]
    tap: str

    @property
    def label_kinds(self) -> tuple[LabelKind, ...]:
        """Annotations that are read."""
        recipe = RECIPES[self.config.recipe]
        return self.config.data.label_kinds if recipe.from_labels or not recipe.uses_unlabelled else ()

    def gather(self) -> None:
        run, config, display = self.run, self.config, self.display
        if config.tune != "full":
            raise ConfigError(
                f"tune {config.tune!r}: pretraining trains all of a network; use it when fine-tuning", code="E-CFG-74"
            )
        self.start = None if has_checkpoint(run.checkpoints) else start_of(config)
        self.manifest = manifest = read_data(run, config, display)
        run.update(learns="features")
        read, scored = self.label_kinds, scored_kinds(manifest, config.data)
        tuning = tuning_split(manifest, config.data, seed=config.seed)
        self.split = (
            Split.load(run.split)
            if run.split.is_file()
            else feature_split(
                manifest, tuning, read,
                scored=scored, uses_unlabelled=RECIPES[config.recipe].uses_unlabelled, recipe=config.recipe,
            )
        )  # fmt: skip
        if run.writable:
            self.split.save(run.split)
        if self.start is not None:
            check_start(self.start, config, self.split, run, display)
        cases = [readable(manifest.case(c), tuning, read, scored) for c in self.split.train]
        cases += [without_labels(manifest.case(c)) for c in self.split.unlabelled]
        measured = [manifest.case(c) for c in (*self.split.train, *self.split.unlabelled)]
        self.plan = plan_of_run(
            run, manifest, [readable(case, tuning, (*scored, *read), scored) for case in measured], config,
            device_kind="cuda" if self.device.type == "cuda" else "cpu", memory_gb=device_memory_gb(self.device),
            label_kinds=read, measured_kinds=(*scored, *read), start=self.start, n_views=self._n_views(),
            display=display, head=f"Recipe: {config.recipe} on {whom(self.split, read)}",
        )  # fmt: skip
        store, others = Store(cache_folder(run)), shows_alternatives(config)
        self.train = prepared(store, cases, manifest, self.plan, display, alternatives=others)
        if others:
            display.say(alternatives_sentence(self.train))
        self.examined = examined_cases(
            manifest, self.plan, config, tuning=tuning, scored=scored, train=self.train, store=store, display=display
        )
        for note in self.train.notes:
            display.say(note)
        run.update(counts=self.split.counts)

    @property
    def batch_size(self) -> int:
        return self.plan.batch_size

    @property
    def sentence(self) -> str:
        return self.split.sentence

    def loop(self, stop: StopSignals) -> Loop:
        config, plan = self.config, self.plan
        recipe = build_recipe(config.recipe, config.settings, plan, torch_generator(config.seed, "weights"))
        network = recipe.deployable()
        begin(network, plan, config, self.start, run=self.run, display=self.display)
        self.left_out, self.tap = self._left_out(network), _finest_trained(network)
        source = self._samples(recipe)
        divisor = tuple(math.prod(strides) for strides in zip(*plan.network.strides, strict=True))
        loop = self.loop_over(recipe, source, patch_size=plan.patch_size, patch_divisor=divisor, stop=stop)
        examine = feature_validation(
            self.examined.reference, self.examined.probe, plan,
            tap=self.tap or None, device=self.device, precision=loop.precision, seed=config.seed,
        )  # fmt: skip

        def validate(trained: nn.Module) -> Validation:
            return examine(trained).as_validation(chooses=config.selection == "probe")

        loop.validate = validate
        return loop

    def later(self, loop: Loop) -> Later:
        """The largest piece of a case is looked at once, to know what a validation takes; nothing is predicted."""
        cases = self.examined.cases
        shapes = [case.grid.shape[-self.plan.dimensions :] for case in cases]
        largest = max((math.prod(shape) for shape in shapes), default=0)
        side = max(shapes, key=math.prod) if largest <= WHOLE_VOXELS else self.plan.patch_size
        with PeakGauge() as gauge:
            seconds = self._pass_seconds(loop, side) / math.prod(side)
        voxels = sum(min(math.prod(case.grid.shape), CASE_VOXELS) for case in cases)
        return Later(
            memory=gauge.bytes + worker_bytes(loop, loop.workers),
            stage="looking at features",
            validation_seconds=_FITTING_SECONDS + seconds * voxels,
            held_out_seconds=0.0,
        )

    def reserve_seconds(self, loop: Loop) -> float:
        """To write the model and the report."""
        return 2.0

    def finish(self, loop: Loop, network: nn.Module, *, stop: StopSignals) -> None:
        run, plan = self.run, self.plan.model_copy(update={"patch_size": loop.patch_size})
        health = last_health(run.read_log())
        meta = self.facts_of(loop, self.manifest.name, self.split, score="validation_probe_dice")
        learnt_from = whom(self.split, self.label_kinds)
        meta |= {
            "learns": "features",
            "n_training_cases": len(self.split.train) + len(self.split.unlabelled),
            "learnt_from": learnt_from,
            "tap": self.tap,
            "health": health,
        }
        kind = FEATURES if self.left_out else SEGMENTATION
        save_model(run.model, network, plan, meta, kind=kind, left_out=self.left_out)
        chosen = "with the best probe" if loop.state.best_score is not None else "the last"
        run.update(
            steps=loop.state.step,
            skipped_steps=loop.state.skipped,
            contrast_warnings=active_warnings(loop.state),
            training_seconds=round(loop.state.elapsed, 1),
            health=health,
            verdict=f"Features learnt by {self.config.recipe} from {learnt_from}; {loop.state.step} steps, {chosen} "
            f"weights. {health_in_words(health)} {_MAY_SEGMENT[kind]}",
        )
        self.display.close()  # of the bar

    def _left_out(self, network: nn.Module) -> set[str]:
        """What is not worth keeping: levels that are not trained, and heads of a method that knows no classes."""
        heads = {name for name in network.state_dict() if name.startswith("heads.")}
        return untrained(network) | (set() if self.label_kinds else heads)

    def _n_views(self) -> int:
        views = getattr(parse_settings(self.config.recipe, self.config.settings), "views", None)
        return int(getattr(views, "n_views", 1))

    def _samples(self, recipe: Recipe) -> PatchDataset:
        """Patches of every case. Labels say where to look only to a method that reads them; where a view shows a box
        of its sample, the sample is the patch and no more, so that the largest box is the image."""
        cropped = recipe.views().crop_probability > 0
        return PatchDataset(
            self.train,
            self.plan,
            seed=self.config.seed,
            samples_per_epoch=self.plan.batch_size * self.config.training.steps_per_epoch,
            margin=1.0 if cropped else DEFAULT_MARGIN,
            foreground_fraction=FOREGROUND_FRACTION if self.label_kinds else 0.0,
            include_unlabelled=True,
        )

    @torch.inference_mode()
    def _pass_seconds(self, loop: Loop, shape: tuple[int, ...]) -> float:
        """Seconds of a forward pass over one piece of an image, padded to what the network divides."""
        network: nn.Module = loop.deployable()
        divisor = getattr(network, "divisor", (1,) * len(shape))
        padded = tuple(-(-n // step) * step for n, step in zip(shape, divisor, strict=True))
        image = torch.zeros((1, len(self.plan.intensities), *padded), device=loop.device)
        was_training = network.training
        network.eval()
        began = time.monotonic()
        with autocast(loop.device, loop.precision):
            float(network(image).sum())  # waits for the device
        network.train(was_training)
        return time.monotonic() - began


def _finest_trained(network: nn.Module) -> str:
    """The last level, in the order of computation, that is trained; "" where levels have no names."""
    if not isinstance(network, UNet):
        return ""
    trained = [name for name in network.taps if any(p.requires_grad for p in network.get_submodule(name).parameters())]
    return trained[-1] if trained else ""
