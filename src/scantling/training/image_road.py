"""The road to an image model: images with their attributes, a causal graph, whole images; counterfactuals judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast, final

from torch import nn

from scantling.config import Config
from scantling.counterfactuals.attribute_predictor import AttributePredictor
from scantling.counterfactuals.causal_graph import CausalGraph
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.graph_files import DESCRIPTION, load_graph, save_graph
from scantling.counterfactuals.hvae import HVAE
from scantling.counterfactuals.image_plan import ImagePlan, derive_image_plan
from scantling.counterfactuals.judge import JudgeConfig, train_judge
from scantling.counterfactuals.model_files import save_image_model
from scantling.counterfactuals.noise_effects import MOST_IMAGES, fit_noise_effects
from scantling.counterfactuals.table import row_of, table_of
from scantling.counterfactuals.whole_images import WholeImages
from scantling.data.case import Annotation, Case
from scantling.data.inspect import inspect_dataset
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.splits import Split, make_split
from scantling.errors import DataError, PlanMismatch
from scantling.files import read_json, write_json
from scantling.inference.memory import resident_bytes
from scantling.recipes import build_recipe, parse_settings
from scantling.recipes.counterfactual_vae import CounterfactualVAEConfig
from scantling.seeding import torch_generator
from scantling.training.image_validation import bound_validation
from scantling.training.interruption import StopSignals
from scantling.training.loop import Loop
from scantling.training.materials import cache_folder, keep_lock
from scantling.training.needs import Later
from scantling.training.road import Road
from scantling.training.watchdog import NOTICE_AFTER, Watchdog

_JUDGE_STEP_SECONDS = 0.05
_LOOK_SECONDS = 0.01
"""At an image's noise; both of 64 x 64 pixels."""
_FEWEST_IMAGES = 8
_MOST_VALIDATION = 64


@final
class ImageRoad(Road):
    """From a folder of images with attributes to a model that gives counterfactuals, and a judge of them."""

    plan_type: ClassVar[type[Config]] = ImagePlan
    manifest: Manifest
    split: Split
    graph: FittedGraph
    plan: ImagePlan
    train: WholeImages
    validation: WholeImages | None

    @property
    def settings(self) -> CounterfactualVAEConfig:
        """Of the recipe."""
        return cast("CounterfactualVAEConfig", parse_settings(self.config.recipe, self.config.settings))

    def gather(self) -> None:
        run, config, display = self.run, self.config, self.display
        manifest = open_dataset(Path(config.data.path), layout=config.data.layout)
        inspection = inspect_dataset(manifest)
        for line in inspection.summary_lines():
            display.say(line)
        self.manifest = inspection.usable
        keep_lock(run, self.manifest, inspection)
        self.split = Split.load(run.split) if run.split.is_file() else split_images(self.manifest, self)
        if run.writable:
            self.split.save(run.split)
        cases = [self.manifest.case(c) for c in self.split.train]
        self.graph = self._graph(cases)
        self.plan = self._plan(cases)
        for note in (*self.graph.notes, *self.plan.reasons.values()):
            display.detail(f"  {note}")
        display.say(f"Recipe: {config.recipe} on {len(cases)} images; {describe(self.plan)}")
        self.train = self._images(cases)
        held_back = [self.manifest.case(c) for c in self.split.validation]
        self.validation = self._images(held_back) if held_back else None
        run.update(counts={**self.split.counts, "unlabelled": 0})

    @property
    def batch_size(self) -> int:
        return self.plan.batch_size

    @property
    def sentence(self) -> str:
        return self.split.sentence

    def loop(self, stop: StopSignals) -> Loop:
        config, plan = self.config, self.plan
        recipe = build_recipe(config.recipe, config.settings, plan, torch_generator(config.seed, "weights"))
        # the model is for one size: where memory does not suffice, batches are cut, and never the image
        loop = self.loop_over(recipe, self.train, patch_size=plan.size, patch_divisor=plan.size, stop=stop)
        if self.validation is not None:
            loop.validate = bound_validation(
                self.validation, seed=config.seed, batch_size=plan.batch_size, device=self.device,
                precision=loop.precision, beta=self.settings.beta,
            )  # fmt: skip
        return loop

    def later(self, loop: Loop) -> Later:
        """The judge, which is small, is all that comes afterwards; a validation takes no more than a step."""
        return Later(
            memory=resident_bytes(),
            stage="holding weights",
            validation_seconds=0.0 if self.validation is None else 0.3 * len(self.validation.cases) / self.batch_size,
            held_out_seconds=self.reserve_seconds(loop),
        )

    def reserve_seconds(self, loop: Loop) -> float:
        pixels = math.prod(self.plan.size)
        looks = min(len(self.train.cases), MOST_IMAGES) * _LOOK_SECONDS
        return 5.0 + (looks + self.settings.judge_steps * _JUDGE_STEP_SECONDS) * pixels / 64**2

    def finish(self, loop: Loop, network: nn.Module, *, stop: StopSignals) -> None:
        run, display = self.run, self.display
        meta = self.facts_of(loop, self.manifest.name, self.split, score="validation_bound")
        hvae, effects = cast("HVAE", network), None
        save_image_model(run.model, hvae, self.plan, self.graph, meta)
        run.update(
            status="judging",
            steps=loop.state.step,
            skipped_steps=loop.state.skipped,
            training_seconds=round(loop.state.elapsed, 1),
            verdict=self._verdict({}),
        )
        display.close()  # of the bar
        if hvae.config.keep == "noise":
            with stop.breakable():
                effects = fit_noise_effects(
                    hvae, self.train.values, self.train.contexts, batch_size=self.plan.batch_size
                )
            save_image_model(run.model, hvae, self.plan, self.graph, meta, effects=effects)
        if not self.settings.judge_steps:
            return
        display.say("Training the judge of counterfactuals, on real images alone.")
        with stop.breakable():
            judge, scores = self._judge()
        scores = {name: round(score, 4) for name, score in scores.items()}
        meta["judge"] = {k: None if math.isnan(v) else v for k, v in scores.items()}
        run.update(verdict=self._verdict(scores), judge=meta["judge"])
        save_image_model(run.model, hvae, self.plan, self.graph, meta, effects=effects, judge=judge)

    def _judge(self) -> tuple[AttributePredictor, dict[str, float]]:
        patients = [case.patient_id for case in self.train.cases]
        return train_judge(
            self.train.images, self.train.contexts, self.graph.attributes, patients,
            generator=torch_generator(self.config.seed, "judge"),
            config=JudgeConfig(steps=self.settings.judge_steps), device=self.device,
        )  # fmt: skip

    def _verdict(self, scores: Mapping[str, float]) -> str:
        """What the run has made, and how far what it makes can be judged."""
        made = f"An image model of {len(self.split.train)} images: {describe(self.plan)}."
        if not scores:
            return f"{made} There is no judge, so counterfactuals will be written without a word on their effect."
        read = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        return (
            f"{made} The judge of counterfactuals reads attributes of patients it has not seen (share read rightly, "
            f"mean over values; of numbers the variance explained): {read}. How sound counterfactuals are is measured "
            "when they are made: scantling generate."
        )

    def _graph(self, cases: list[Case]) -> FittedGraph:
        """The graph in the run folder, or one learnt from the training cases, which is then there."""
        if (self.run.path / DESCRIPTION).is_file():
            return load_graph(self.run.path)
        settings = self.settings
        rows = table_of(replace(self.manifest, cases=tuple(cases)))
        if settings.causal_graph is not None:
            graph = CausalGraph.load(Path(settings.causal_graph))
        else:
            graph = CausalGraph.of_table(rows, settings.attributes or None)
        fitted = graph.fit(rows, torch_generator(self.config.seed, "causal graph"))
        save_graph(self.run.path, fitted)
        return fitted

    def _plan(self, cases: list[Case]) -> ImagePlan:
        run, settings = self.run, self.settings
        if run.plan.is_file():
            plan = ImagePlan.parse(read_json(run.plan), where=str(run.plan))
            if plan.attributes != self.graph.attributes:
                names = [
                    ", ".join(a.name for a in attributes) for attributes in (plan.attributes, self.graph.attributes)
                ]
                raise PlanMismatch(
                    f"plan.json: was made for the attributes {names[0]}, as its own data showed them; this run's are "
                    f"{names[1]}: plan anew",
                    code="E-PLN-06",
                )
            return plan
        plan = derive_image_plan(
            self.manifest, cases, self.graph, settings.network,
            size=settings.size or None, batch_size=self.config.plan.batch_size,
        )  # fmt: skip
        write_json(run.plan, plan.model_dump(mode="json"))
        return plan

    def _images(self, cases: list[Case]) -> WholeImages:
        contexts = self.graph.encode([row_of(case) for case in cases])
        with Watchdog(self.display.say, notice_after=NOTICE_AFTER) as dog:
            dog.at("preparing images")
            return WholeImages(cases, self.plan, contexts, seed=self.config.seed, cache=cache_folder(self.run))


def split_images(manifest: Manifest, road: Road) -> Split:
    """A split by patient in which every real image counts as an example, whether or not somebody labelled it.

    Raises:
        DataError: too few images.
    """
    data = road.config.data
    examples = tuple(
        replace(case, annotations=(Annotation(path=case.images[0], kind="full"),)) for case in manifest.real
    )
    split = make_split(
        replace(manifest, cases=examples),
        fold=None if data.fold == "none" else data.fold,
        labels=data.labels,
        seed=road.config.seed,
        label_kinds=("full",),
        train_on=data.train_on or None,
        test_on=data.test_on or None,
        max_validation=_MOST_VALIDATION,
        allow_leak=data.allow_leak,
    )
    if len(split.train) < _FEWEST_IMAGES:
        raise DataError(
            f"{manifest.name}: {len(split.train)} images are left to learn from, wanted at least {_FEWEST_IMAGES}; "
            "an image model needs hundreds",
            code="E-DAT-20",
        )
    return replace(split, sentence=split.sentence.replace("labelled case", "image"))


def describe(plan: ImagePlan) -> str:
    """A plan in one line."""
    size = " x ".join(map(str, plan.size))
    names = ", ".join(attribute.name for attribute in plan.attributes)
    return f"{plan.dimensions}D images of {size} given {names}, batch {plan.batch_size}"
