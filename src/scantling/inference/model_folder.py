"""A trained model as a folder that is enough to predict with: weights, plan, facts, model card, checksums."""

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
from scantling.data.plan import Plan
from scantling.errors import ConfigError, DataError, IntegrityError
from scantling.files import sha256_bytes
from scantling.inference.model_card import model_card
from scantling.networks import build_network
from scantling.sealed_folder import DESCRIPTION, read_sealed, write_sealed
from scantling.seeding import torch_generator

SCHEMA_VERSION: Final = 1
WEIGHTS: Final = "model.safetensors"
CARD: Final = "MODEL_CARD.md"
KIND: Final = "segmentation"
_CONTENT: Final = (WEIGHTS, DESCRIPTION, CARD)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network with its weights, the plan it obeys, and the facts of its training.

    Attributes:
        weights_sha256: of the weights file; "" for a model that was never saved.
    """

    network: nn.Module
    plan: Plan
    meta: Mapping[str, Any]
    weights_sha256: str = ""


def save_model(folder: Path, network: nn.Module, plan: Plan, meta: Mapping[str, Any]) -> None:
    """Write a model folder; an older one at the same place is replaced as a whole.

    Args:
        network: what `build_network` makes of `plan.network`.
        meta: facts of the training, as JSON; what `model_card` knows of them goes into the card.

    Raises:
        ResourceError: the disk is full; the older model is intact.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    description = {
        "schema_version": SCHEMA_VERSION,
        "scantling": scantling.__version__,
        "plan": plan.model_dump(mode="json"),
        "meta": dict(meta),
    }
    content = {
        WEIGHTS: safetensors.torch.save(weights),
        DESCRIPTION: (json.dumps(description, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(),
        CARD: model_card(plan, meta, version=scantling.__version__).encode(),
    }
    write_sealed(folder, content)


def load_model(folder: Path, device: torch.device) -> LoadedModel:
    """Verify every file of a model folder and build the network, in evaluation mode.

    Raises:
        DataError: the folder is not a model folder, or cannot be read.
        IntegrityError: a file is missing or damaged, or the folder was written by a newer release.
    """
    content = read_sealed(folder, required=_CONTENT, what="model folder")
    description = _description(folder, content[DESCRIPTION])
    plan = _plan(folder, description)
    network = build_network(
        plan.network,
        dimensions=plan.dimensions,
        in_channels=len(plan.channels),
        out_channels=len(plan.classes.names),
        generator=torch_generator(0, "weights that are overwritten"),
    )
    try:
        network.load_state_dict(safetensors.torch.load(content[WEIGHTS]))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise IntegrityError(
            f"{folder}: the weights do not belong to the plan beside them ({_last_line(error)})",
            code="E-CHK-05",
        ) from None
    return LoadedModel(
        network=network.to(device).eval(),
        plan=plan,
        meta=description["meta"],
        weights_sha256=sha256_bytes(content[WEIGHTS]),
    )


def _description(folder: Path, content: bytes) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(content)
        version = description["schema_version"]
        if description.get("kind", KIND) != KIND:
            raise DataError(
                f"{folder}: this model makes images, and segments none; wanted one trained to segment (for images: "
                "'scantling generate')",
                code="E-MOD-03",
            )
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise IntegrityError(
                f"{path}: written by a newer release (schema {version}, this one reads up to "
                f"{SCHEMA_VERSION}); update scantling to read it",
                code="E-CHK-04",
            )
        if isinstance(description["plan"], dict) and isinstance(description["meta"], dict) and version == 1:
            return dict(description)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise IntegrityError(f"{path}: not a model description; wanted schema_version, plan and meta", code="E-CHK-02")


def _plan(folder: Path, description: dict[str, Any]) -> Plan:
    newest = Plan.model_fields["schema_version"].default
    version = description["plan"].get("schema_version", newest)
    if isinstance(version, int) and version > newest:
        raise IntegrityError(
            f"{folder / DESCRIPTION}: its plan was written by a newer release (schema {version}, this one "
            f"reads up to {newest}); update scantling to read it",
            code="E-CHK-04",
        )
    try:
        return Plan.parse(description["plan"], where=str(folder / DESCRIPTION))
    except ConfigError as error:
        raise IntegrityError(error.message, code="E-CHK-02") from None


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1].strip()
