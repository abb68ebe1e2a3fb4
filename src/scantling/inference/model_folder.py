"""A trained network as a folder that is enough to use it: weights, plan, facts, model card, checksums.

It segments, or it was pretrained: then its features are what there is, and its heads mean nothing yet.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from torch import nn

import scantling
from scantling.data.plan import Plan
from scantling.errors import ConfigError, DataError, IntegrityError
from scantling.files import sha256_bytes
from scantling.inference.model_card import features_card, model_card
from scantling.networks import build_network
from scantling.sealed_folder import DESCRIPTION, MODEL, read_sealed, write_sealed
from scantling.seeding import torch_generator

SCHEMA_VERSION: Final = 1
WEIGHTS: Final = "model.safetensors"
CARD: Final = "MODEL_CARD.md"
Kind = Literal["segmentation", "features"]
SEGMENTATION: Final[Kind] = "segmentation"
FEATURES: Final[Kind] = "features"
_CONTENT: Final = (WEIGHTS, DESCRIPTION, CARD)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model folder says of its network.

    Attributes:
        meta: facts of the training.
        kind: what it is good for; the heads of one of "features" were never trained.
        weights_sha256: of the weights file.
    """

    plan: Plan
    meta: Mapping[str, Any]
    kind: Kind
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network with its weights, the plan it obeys, and the facts of its training.

    Attributes:
        kind: as of `ModelFacts`.
        weights_sha256: of the weights file; "" for a model that was never saved.
    """

    network: nn.Module
    plan: Plan
    meta: Mapping[str, Any]
    kind: Kind = SEGMENTATION
    weights_sha256: str = ""


def save_model(
    folder: Path,
    network: nn.Module,
    plan: Plan,
    meta: Mapping[str, Any],
    *,
    kind: Kind = SEGMENTATION,
    left_out: Collection[str] = (),
) -> None:
    """Write a model folder; an older one at the same place is replaced as a whole.

    Args:
        network: what `build_network` makes of `plan.network`.
        meta: facts of the training, as JSON; what the model card knows of them goes into it.
        left_out: tensors that were never trained, which are not written; the description lists them.

    Raises:
        ResourceError: the disk is full; the older model is intact.
    """
    state = {name: tensor for name, tensor in network.state_dict().items() if name not in left_out}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    description = {
        "schema_version": SCHEMA_VERSION,
        "scantling": scantling.__version__,
        **({"kind": kind, "left_out": sorted(left_out)} if kind != SEGMENTATION else {}),
        "plan": plan.model_dump(mode="json"),
        "meta": dict(meta),
    }
    content = {
        WEIGHTS: safetensors.torch.save(weights),
        DESCRIPTION: (json.dumps(description, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(),
        CARD: (model_card if kind == SEGMENTATION else features_card)(
            plan, meta, version=scantling.__version__
        ).encode(),
    }
    write_sealed(folder, content)


def load_model(folder: Path, device: torch.device, *, kinds: Collection[Kind] = (SEGMENTATION,)) -> LoadedModel:
    """Verify every file of a model folder and build the network, in evaluation mode.

    What was never trained in a network of "features" has weights that say nothing.

    Args:
        kinds: what the caller can use.

    Raises:
        DataError: the folder is not a model folder, cannot be read, or holds a model of another kind.
        IntegrityError: a file is missing or damaged, or the folder was written by a newer release.
    """
    facts, content, left_out = _read(folder, kinds)
    plan = facts.plan
    network = build_network(
        plan.network,
        dimensions=plan.dimensions,
        in_channels=len(plan.channels),
        out_channels=len(plan.classes.names),
        generator=torch_generator(0, "weights that are overwritten"),
    )
    try:
        weights = safetensors.torch.load(content)
        drawn = network.state_dict()
        network.load_state_dict({**{name: drawn[name] for name in left_out if name in drawn}, **weights})
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise IntegrityError(
            f"{folder}: the weights do not belong to the plan beside them ({_last_line(error)})",
            code="E-CHK-05",
        ) from None
    return LoadedModel(
        network=network.to(device).eval(),
        plan=plan,
        meta=facts.meta,
        kind=facts.kind,
        weights_sha256=facts.weights_sha256,
    )


def read_model_facts(folder: Path, *, kinds: Collection[Kind] = (SEGMENTATION,)) -> ModelFacts:
    """Verify every file of a model folder and read what it says, without its network.

    Args, Raises: as `load_model`.
    """
    return _read(folder, kinds)[0]


def _read(folder: Path, kinds: Collection[Kind]) -> tuple[ModelFacts, bytes, tuple[str, ...]]:
    """The facts, the weights file, and the names of tensors that are not in it."""
    content = read_sealed(folder, required=_CONTENT, what="model folder")
    description = _description(folder, content[DESCRIPTION], kinds)
    facts = ModelFacts(
        plan=_plan(folder, description),
        meta=description["meta"],
        kind=description.get("kind", SEGMENTATION),
        weights_sha256=sha256_bytes(content[WEIGHTS]),
    )
    return facts, content[WEIGHTS], tuple(description.get("left_out", ()))


def _description(folder: Path, content: bytes, kinds: Collection[Kind]) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(content)
        version = description["schema_version"]
        if (kind := description.get("kind", SEGMENTATION)) not in kinds:
            raise _other_kind(folder, kind)
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


def _other_kind(folder: Path, kind: str) -> DataError:
    """What the model is instead, and what it is good for."""
    if kind == FEATURES:
        run = folder.parent if folder.name == MODEL else folder
        return DataError(
            f"{folder}: a pretrained network, which segments nothing yet; fine-tune it first: scantling train DATA "
            f"--init {shlex.quote(str(run))}",
            code="E-RUN-10",
        )
    if kind == SEGMENTATION:
        return DataError(f"{folder}: a network that segments; wanted a pretrained one", code="E-MOD-03")
    return DataError(
        f"{folder}: this model makes images, and segments none; wanted one trained to segment (for images: "
        "'scantling generate')",
        code="E-MOD-03",
    )


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1].strip()
