"""An image model as a folder that is enough to ask it: weights, plan, causal graph, judge, facts, card, checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import nn

import scantling
from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig
from scantling.counterfactuals.counterfactual import CounterfactualGenerator, ImageModelSource
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.graph_files import graph_content, load_graph
from scantling.counterfactuals.hvae import HVAE
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.counterfactuals.image_plan import ImagePlan
from scantling.counterfactuals.model_card import image_model_card
from scantling.counterfactuals.noise_effects import NoiseEffects
from scantling.errors import ConfigError, DataError, IntegrityError
from scantling.files import sha256_bytes
from scantling.sealed_folder import DESCRIPTION, find_model_folder, read_sealed, write_sealed
from scantling.seeding import torch_generator

SCHEMA_VERSION: Final = 1
KIND: Final = "image_model"
WEIGHTS: Final = "model.safetensors"
JUDGE: Final = "judge.safetensors"
EFFECTS: Final = "noise_effects.safetensors"
CARD: Final = "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """A network with its weights, the plan and the graph it obeys, and the facts of its training.

    Attributes:
        effects: of the attributes on the noise; None where they were not measured.
        judge: an attribute predictor that learnt from real images alone; None where the folder has none.
        weights_sha256: of the network's weights file.
    """

    network: HVAE
    plan: ImagePlan
    graph: FittedGraph
    meta: Mapping[str, Any]
    effects: NoiseEffects | None = None
    judge: AttributePredictor | None = None
    weights_sha256: str = ""

    def generator(self, *, seed: int = 0, batch_size: int | None = None) -> CounterfactualGenerator:
        """What answers questions about images.

        Args:
            batch_size: images the network sees at once; None is the plan's.
        """
        source = self.source(batch_size=batch_size)
        return CounterfactualGenerator(graph=self.graph, source=source, plan=self.plan, seed=seed)

    def source(self, *, batch_size: int | None = None) -> ImageModelSource:
        """The network as a source of counterfactuals.

        Args:
            batch_size: images it sees at once; None is the plan's.
        """
        return ImageModelSource(self.network, self.plan, self.graph, effects=self.effects, batch_size=batch_size)


def save_image_model(
    folder: Path,
    network: HVAE,
    plan: ImagePlan,
    graph: FittedGraph,
    meta: Mapping[str, Any],
    *,
    effects: NoiseEffects | None = None,
    judge: AttributePredictor | None = None,
) -> None:
    """Write a model folder; an older one at the same place is replaced as a whole.

    Args:
        meta: facts of the training, as JSON; what `image_model_card` knows of them goes into the card.

    Raises:
        ResourceError: the disk is full; the older model is intact.
    """
    description = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "scantling": scantling.__version__,
        "plan": plan.model_dump(mode="json"),
        "network": network.config.model_dump(mode="json"),
        "judge": None if judge is None else judge.config.model_dump(mode="json"),
        "meta": dict(meta),
    }
    card = image_model_card(plan, graph, meta, version=scantling.__version__)
    content = {
        WEIGHTS: _weights(network),
        **({} if effects is None else {EFFECTS: _slopes(effects)}),
        **({} if judge is None else {JUDGE: _weights(judge)}),
        **graph_content(graph),
    }
    content[DESCRIPTION] = (json.dumps(description, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    content[CARD] = card.encode()
    write_sealed(folder, content)


def load_image_model(folder: Path, device: torch.device) -> ImageModel:
    """Verify every file of a model folder and build network and judge, in evaluation mode.

    Raises:
        DataError: the folder holds no image model, or cannot be read.
        IntegrityError: a file is missing or damaged, its parts do not fit, or a newer release wrote it.
    """
    content = read_sealed(folder, required=(WEIGHTS, DESCRIPTION), what="model folder")
    description = _description(folder, content[DESCRIPTION])
    try:
        plan = ImagePlan.parse(description["plan"], where=f"{folder / DESCRIPTION}, plan")
        config = HVAEConfig.parse(description["network"], where=f"{folder / DESCRIPTION}, network")
        judging = description.get("judge")
        judge_config = (
            None if judging is None else PredictorConfig.parse(judging, where=f"{folder / DESCRIPTION}, judge")
        )
    except ConfigError as error:
        raise IntegrityError(error.message, code="E-CHK-02") from None
    graph = load_graph(folder)
    if graph.attributes != plan.attributes:
        raise IntegrityError(
            f"{folder}: its causal graph and its plan have different attributes; copy the model folder again",
            code="E-CHK-05",
        )
    network = _network(folder, config, plan)
    _load(network, folder, WEIGHTS, content)
    effects = _effects(folder, content, network)
    judge = None
    if judge_config is not None:
        judge = AttributePredictor(
            judge_config,
            plan.attributes,
            in_channels=len(plan.channels),
            dimensions=plan.dimensions,
            generator=torch_generator(0, "weights that are overwritten"),
        )
        _load(judge, folder, JUDGE, content)
        judge = judge.to(device).eval()
    return ImageModel(
        network=network.to(device).eval(),
        plan=plan,
        graph=graph,
        meta=description["meta"],
        effects=None if effects is None else NoiseEffects(tuple(slope.to(device) for slope in effects.slopes)),
        judge=judge,
        weights_sha256=sha256_bytes(content[WEIGHTS]),
    )


def load_generator(
    run_or_model: Path, device: torch.device, *, seed: int = 0, batch_size: int | None = None
) -> CounterfactualGenerator:
    """What answers questions about images, from a run folder or its model folder.

    Raises:
        DataError, IntegrityError: as `load_image_model`.
    """
    model = load_image_model(find_model_folder(run_or_model), device)
    return model.generator(seed=seed, batch_size=batch_size)


def _weights(network: nn.Module) -> bytes:
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )


def _slopes(effects: NoiseEffects) -> bytes:
    return safetensors.torch.save({f"block.{k}": slope.cpu().contiguous() for k, slope in enumerate(effects.slopes)})


def _effects(folder: Path, content: Mapping[str, bytes], network: HVAE) -> NoiseEffects | None:
    if EFFECTS not in content:
        return None
    try:
        found = safetensors.torch.load(content[EFFECTS])
        slopes = tuple(found[f"block.{k}"] for k in range(len(found)))
    except (KeyError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{folder / EFFECTS}: not what was written there ({error})", code="E-CHK-05") from None
    if [slope.shape for slope in slopes] != [(network.context_dim, *shape) for shape in network.latent_shapes]:
        raise IntegrityError(
            f"{folder / EFFECTS}: does not belong to {DESCRIPTION} beside it; copy the model folder again",
            code="E-CHK-05",
        )
    return NoiseEffects(slopes)


def _network(folder: Path, config: HVAEConfig, plan: ImagePlan) -> HVAE:
    try:
        return HVAE(
            config,
            size=plan.size,
            in_channels=len(plan.channels),
            context_dim=len(plan.context),
            generator=torch_generator(0, "weights that are overwritten"),
        )
    except ConfigError as error:
        raise IntegrityError(f"{folder / DESCRIPTION}: {error.message}", code="E-CHK-02") from None


def _load(network: nn.Module, folder: Path, name: str, content: Mapping[str, bytes]) -> None:
    if name not in content:
        raise IntegrityError(f"{folder / name}: the file is missing", code="E-CHK-01")
    try:
        network.load_state_dict(safetensors.torch.load(content[name]))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise IntegrityError(
            f"{folder / name}: the weights do not belong to {DESCRIPTION} beside them ({reason})", code="E-CHK-05"
        ) from None


def _description(folder: Path, content: bytes) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(content)
        version = description["schema_version"]
        kind, meta = description.get("kind", "segmentation"), description["meta"]
        whole = isinstance(version, int) and isinstance(meta, dict) and isinstance(description["plan"], dict)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise IntegrityError(f"{path}: not a model description; wanted schema_version, plan and meta", code="E-CHK-02")
    if kind != KIND:
        raise DataError(
            f"{folder}: this model is for {kind}, and makes no images; wanted one trained with the recipe "
            "'counterfactual_vae'",
            code="E-MOD-03",
        )
    if version > SCHEMA_VERSION:
        raise IntegrityError(
            f"{path}: written by a newer release (schema {version}, this one reads up to {SCHEMA_VERSION}); update "
            "scantling to read it",
            code="E-CHK-04",
        )
    if not isinstance(description.get("network"), dict):
        raise IntegrityError(f"{path}: not a description of an image model; 'network' is missing", code="E-CHK-02")
    return dict(description)
