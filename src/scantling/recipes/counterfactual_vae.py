"""An image model for counterfactuals: a hierarchical VAE of the image given its attributes."""

from __future__ import annotations

from typing import ClassVar, Final, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from scantling.config import Config
from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig, attribute_losses
from scantling.counterfactuals.hvae import HVAE, Elbo, predict_counterfactual
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.counterfactuals.image_plan import ImagePlan
from scantling.counterfactuals.soft_interventions import draw_interventions
from scantling.errors import ConfigError
from scantling.losses.averaging import weighted_mean
from scantling.losses.variational import beta_at
from scantling.processes import sum_over_processes
from scantling.recipes.recipe import Recipe
from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig
from scantling.views.view import ViewBatch


class ConstraintConfig(Config):
    """What counterfactuals are asked to show while the model learns.

    Attributes:
        weight: of the constraint beside the bound, which is in nats a value; 0 leaves it out.
        start, ramp: step from which it counts, and steps until it counts fully.
        told: weight of telling the predictor what counterfactuals hide: it learns to read the old value from them, so
            that only a change which looks like real images of the new value satisfies it. Well below 1, or a model
            that fools it leaves it at chance, and the constraint without a meaning.
        attributes: those that are set anew; () all of them.
        sparse: attributes that change part of an image only, and the price of a change in mean absolute difference.
        hold_prior: whether the constraint leaves the prior of the latents to the bound, and moves the decoder alone.
        way_back: weight of the way back: each counterfactual is abducted and taken back to what it was, and its mean
            absolute distance from the image counts. It keeps a change from running away, for half a step's time more;
            0 leaves it out.
        noise: standard deviation added to what the predictor sees, in units of [-1, 1].
        predictor: its size.
    """

    weight: float = Field(default=0.1, ge=0)
    start: int = Field(default=400, ge=0)
    ramp: int = Field(default=200, ge=1)
    told: float = Field(default=0.3, ge=0)
    attributes: tuple[str, ...] = ()
    sparse: dict[str, float] = Field(default_factory=dict)
    hold_prior: bool = False
    way_back: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.02, ge=0)
    predictor: PredictorConfig = PredictorConfig(depth=2)


class CounterfactualVAEConfig(Config):
    """The image model and what it learns from.

    Attributes:
        network: layout and likelihood; `network.preset` is "tiny", "small" or "published".
        size: of the images in the model, one length an axis; () leaves it to the preset.
        attributes: columns of the table that describe an image; () takes every column something can be learnt from.
        causal_graph: TOML file with the attributes and their parents, in place of `attributes`.
        beta, beta_start, beta_steps: weight of the KL; its weight at first, and steps until it is `beta`.
        free_nats: each block's KL counts at least as this, in nats an image.
        judge_steps: length of the training of the classifier that judges counterfactuals afterwards.
    """

    network: HVAEConfig = Field(default_factory=lambda: HVAEConfig.model_validate({"preset": "tiny"}))
    size: tuple[int, ...] = ()
    attributes: tuple[str, ...] = ()
    causal_graph: str | None = None
    beta: float = Field(default=1.0, gt=0)
    beta_start: float | None = Field(default=None, gt=0)
    beta_steps: int = Field(default=0, ge=0)
    free_nats: float = Field(default=0.0, ge=0)
    constraint: ConstraintConfig = ConstraintConfig()
    judge_steps: int = Field(default=600, ge=0)


def _without_change(kind: type[Config]) -> dict[str, float]:
    """Every probability of a change, as 0."""
    return {name: 0.0 for name in kind.model_fields if name.endswith("_probability")}


_WHOLE: Final = ViewConfig.model_validate(
    {**_without_change(ViewConfig), "intensity": _without_change(IntensityConfig)}
)
"""The image as it is."""


@final
class CounterfactualVAE(Recipe):
    """The bound on the likelihood of images given their attributes, and counterfactuals that show what they should.

    Views: the whole image. Targets: the image itself, and its attributes. The constraint sets one attribute of each
    image anew, decodes the same latents, and asks a predictor of attributes, learnt at the same time, what it sees.

    Source: De Sousa Ribeiro et al. 2023, "High fidelity image counterfactuals with probabilistic causal models", Eq. 5
    (bound) and Sec. 3.4 (constraint by soft interventions).
    Differs: the constraint counts from early on instead of in a second phase; the predictor learns from counterfactuals
    too, where it is told the value that they hide (as a critic is); training is shuffled.
    """

    config_type: ClassVar[type[CounterfactualVAEConfig]] = CounterfactualVAEConfig
    learns: ClassVar = "images"
    run_defaults: ClassVar = {
        "training": {
            "optimisation": {
                "final_share": 0.3,  # as the rate falls further, the constraint loses to the bound
                "weight_decay": 1e-3,
                "gradient_clip": 10.0,
                "average_decay": 0.998,
            }
        }
    }

    price: Tensor
    steps_taken: Tensor

    def __init__(self, config: CounterfactualVAEConfig, plan: ImagePlan, generator: torch.Generator) -> None:
        super().__init__(config, plan, generator)
        self.config, self.attributes = config, plan.attributes
        self.network = HVAE(
            config.network,
            size=plan.size,
            in_channels=len(plan.channels),
            context_dim=len(plan.context),
            generator=generator,
        )
        constraint = config.constraint
        names = [attribute.name for attribute in plan.attributes]
        for name in (*constraint.attributes, *constraint.sparse):
            if name not in names:
                raise ConfigError(
                    f"recipe.constraint: {name!r} is not an attribute of the causal graph ({', '.join(names)})",
                    code="E-CFG-56",
                )
        self.among = [names.index(name) for name in constraint.attributes or names]
        self.predictor = (
            AttributePredictor(
                constraint.predictor,
                plan.attributes,
                in_channels=len(plan.channels),
                dimensions=plan.dimensions,
                generator=generator,
            )
            if constraint.weight > 0
            else None
        )
        self.register_buffer("price", torch.tensor([constraint.sparse.get(name, 0.0) for name in names]))
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    def views(self) -> ViewConfig:
        return _WHOLE

    def losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        images, contexts = batch.images[:, 0], batch.contexts
        if contexts is None:
            raise ValueError("counterfactual_vae: the samples carry no attributes")
        step = int(self.steps_taken)
        elbo = self.network(images, contexts, generator=rng)
        nll = _mean(elbo.nll)
        per_block = torch.stack([_mean(kl) for kl in elbo.kl_per_block]).clamp(min=self.config.free_nats)
        terms = {"likelihood": nll, "divergence": self.beta(step) * per_block.sum() / elbo.values}
        if self.predictor is not None:
            terms |= self._constraint(images, contexts, elbo, step, rng)
        return terms

    def beta(self, step: int) -> float:
        """The weight of the KL at a step."""
        c = self.config
        start = c.beta if c.beta_start is None else c.beta_start
        return beta_at(step, beta=c.beta, start=start, steps=c.beta_steps, shape="geometric")

    def after_step(self) -> None:
        self.steps_taken += 1

    def deployable(self) -> nn.Module:
        return self.network

    def _constraint(
        self,
        images: Tensor,
        contexts: Float[Tensor, "batch context"],
        elbo: Elbo,
        step: int,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        assert self.predictor is not None
        wanted = self.config.constraint
        with torch.autocast(images.device.type, enabled=False):
            reading = attribute_losses(self.predictor(self._noisy(images, rng)), contexts, self.attributes)
            terms = {"predictor": _mean(reading.mean(dim=1))}
        if step < wanted.start:
            return terms
        changed, which = draw_interventions(contexts, self.attributes, rng, among=self.among)
        other = self.network.decode(elbo.latents, changed, hold_prior=wanted.hold_prior)
        counterfactuals = predict_counterfactual(images, elbo.predicted, other)
        share = min((step - wanted.start + 1) / wanted.ramp, 1.0)
        if wanted.way_back > 0:
            again = self.network(counterfactuals, changed, generator=rng)
            factual = self.network.decode(again.latents, contexts, hold_prior=wanted.hold_prior)
            back = predict_counterfactual(counterfactuals, again.predicted, factual)
            terms["way_back"] = share * wanted.way_back * _mean((back - images).abs().flatten(1).mean(dim=1))
        with torch.autocast(images.device.type, enabled=False):
            frozen = {name: value.detach() for name, value in self.predictor.named_parameters()}
            seen = functional_call(self.predictor, frozen, (self._noisy(counterfactuals, rng),))
            shown = attribute_losses(seen, changed, self.attributes).gather(1, which[:, None])[:, 0]
            terms["constraint"] = share * wanted.weight * _mean(shown)
            if wanted.sparse:
                size = (counterfactuals - images).abs().flatten(1).mean(dim=1)
                terms["sparsity"] = share * _mean(self.price[which] * size)
            if wanted.told > 0:
                hidden = self.predictor(self._noisy(counterfactuals.detach(), rng))
                told = attribute_losses(hidden, contexts, self.attributes).gather(1, which[:, None])[:, 0]
                terms["predictor_on_counterfactuals"] = wanted.told * _mean(told)
        return terms

    def _noisy(self, images: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=rng).to(images)
        return images + self.config.constraint.noise * noise


def _mean(values: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Over the images of all processes."""
    return weighted_mean(values, torch.ones_like(values), sum_over_processes)
