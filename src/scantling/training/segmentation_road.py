"""The road to a segmentation network: labelled patients, a plan, prepared patches; held-out cases scored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, final

from torch import nn

from scantling.config import Config
from scantling.data.dataset import PatchDataset
from scantling.data.plan import Plan
from scantling.inference.device import device_memory_gb
from scantling.inference.model_folder import save_model
from scantling.recipes import build_recipe
from scantling.seeding import torch_generator
from scantling.training.checkpoint import has_checkpoint
from scantling.training.held_out import held_out_seconds, score_held_out
from scantling.training.initial import Start, begin, start_of
from scantling.training.interruption import StopSignals
from scantling.training.loop import Loop
from scantling.training.materials import Materials, gather
from scantling.training.needs import Later, later_needs
from scantling.training.observations import active_warnings
from scantling.training.road import Road
from scantling.training.validation import inner_validation


@final
class SegmentationRoad(Road):
    """From a folder to a network that segments, and its score on held-out patients."""

    plan_type: ClassVar[type[Config]] = Plan
    materials: Materials
    start: Start | None

    def gather(self) -> None:
        self.start = None if has_checkpoint(self.run.checkpoints) else start_of(self.config)
        self.materials = gather(
            self.run,
            self.config,
            device_kind="cuda" if self.device.type == "cuda" else "cpu",
            memory_gb=device_memory_gb(self.device),
            start=self.start,
            display=self.display,
        )

    @property
    def batch_size(self) -> int:
        return self.materials.plan.batch_size

    @property
    def sentence(self) -> str:
        return self.materials.split.sentence

    def loop(self, stop: StopSignals) -> Loop:
        config, plan = self.config, self.materials.plan
        recipe = build_recipe(config.recipe, config.settings, plan, torch_generator(config.seed, "weights"))
        begin(recipe.deployable(), plan, config, self.start, run=self.run, display=self.display)
        source = PatchDataset(
            self.materials.train,
            plan,
            seed=config.seed,
            samples_per_epoch=plan.batch_size * config.training.steps_per_epoch,
            include_unlabelled=recipe.uses_unlabelled,
        )
        divisor = tuple(math.prod(strides) for strides in zip(*plan.network.strides, strict=True))
        loop = self.loop_over(recipe, source, patch_size=plan.patch_size, patch_divisor=divisor, stop=stop)
        if cases := self.materials.validation.cases:
            loop.validate = inner_validation(
                cases, plan, device=self.device, precision=loop.precision,
                as_in_training=config.data.choose_on == "held_out",
            )  # fmt: skip
        return loop

    def later(self, loop: Loop) -> Later:
        return later_needs(loop, self.materials)

    def reserve_seconds(self, loop: Loop) -> float:
        return held_out_seconds(loop, self.materials, self.device)

    def finish(self, loop: Loop, network: nn.Module, *, stop: StopSignals) -> None:
        run, display = self.run, self.display
        plan = self.materials.plan.model_copy(update={"patch_size": loop.patch_size})
        materials = replace(self.materials, plan=plan)
        meta = self.facts_of(loop, self.materials.manifest.name, self.materials.split, score="validation_mean_dice")
        save_model(run.model, network, plan, meta)
        run.update(
            status="predicting",
            steps=loop.state.step,
            skipped_steps=loop.state.skipped,
            contrast_warnings=active_warnings(loop.state),
            training_seconds=round(loop.state.elapsed, 1),
        )
        display.close()  # of the bar
        if materials.split.heldout:
            display.say(f"Predicting and scoring {len(materials.split.heldout)} held-out cases.")
        with stop.breakable():
            evaluation = score_held_out(
                run, materials, network, meta,
                device=self.device, seed=self.config.seed, display=display, stop=stop,
            )  # fmt: skip
        if evaluation is not None:
            save_model(run.model, network, plan, {**meta, "held_out": evaluation.headline()})
