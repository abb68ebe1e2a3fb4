"""A learnt causal graph on disk: `causal_graph.json`, and its weights beside it under the name of their checksum."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Final

import safetensors
import safetensors.torch

import scantling
from scantling.config import Config, at_most_version
from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.mechanisms import Mechanism, build_mechanism
from scantling.counterfactuals.structure import computing_order
from scantling.errors import ConfigError, IntegrityError
from scantling.files import read_json, require_sha256, sha256_bytes, write_atomic
from scantling.seeding import torch_generator

SCHEMA_VERSION: Final = 1
DESCRIPTION: Final = "causal_graph.json"
_STEM: Final = "causal_graph-"
_DIGITS: Final = 12


class _Description(Config):
    """What the JSON file says.

    Attributes:
        weights: name of the file beside it.
    """

    schema_version: Annotated[int, at_most_version(SCHEMA_VERSION)]
    scantling: str
    attributes: tuple[Attribute, ...]
    notes: tuple[str, ...]
    weights: str
    weights_sha256: str


def graph_content(graph: FittedGraph) -> dict[str, bytes]:
    """The files of a graph by name, the description last."""
    tensors = {
        f"{index}.{name}": tensor.contiguous()
        for index, attribute in enumerate(graph.attributes)
        for name, tensor in graph.mechanisms[attribute.name].state_dict().items()
    }
    weights = safetensors.torch.save(tensors)
    checksum = sha256_bytes(weights)
    description = _Description(
        schema_version=SCHEMA_VERSION,
        scantling=scantling.__version__,
        attributes=graph.attributes,
        notes=graph.notes,
        weights=f"{_STEM}{checksum[:_DIGITS]}.safetensors",
        weights_sha256=checksum,
    )
    text = json.dumps(description.model_dump(mode="json"), indent=2, allow_nan=False, ensure_ascii=False)
    return {description.weights: weights, DESCRIPTION: f"{text}\n".encode()}


def save_graph(folder: Path, graph: FittedGraph) -> None:
    """Write a graph into a folder; at any moment the old or the new one is there, whole.

    Raises:
        ResourceError: the disk is full; the older graph is intact.
    """
    content = graph_content(graph)
    for name, data in content.items():
        write_atomic(folder / name, data)
    for path in folder.glob(f"{_STEM}*.safetensors"):
        if path.name not in content:
            with contextlib.suppress(OSError):
                path.unlink()


def load_graph(folder: Path) -> FittedGraph:
    """The graph `save_graph` wrote, every file verified.

    Raises:
        DataError: there is no graph in the folder, or it cannot be read.
        IntegrityError: a file is missing or damaged, or the graph was written by a newer release.
    """
    path = folder / DESCRIPTION
    facts = read_json(path)
    try:
        description = _Description.parse(facts if isinstance(facts, dict) else {}, where=str(path))
        by_name = {attribute.name: attribute for attribute in description.attributes}
        computing_order({name: attribute.parents for name, attribute in by_name.items()})
    except ConfigError as error:
        raise IntegrityError(error.message, code="E-CHK-02") from None
    if len(by_name) < len(description.attributes) or Path(description.weights).name != description.weights:
        raise IntegrityError(
            f"{path}: not a causal graph; an attribute stands twice, or 'weights' is no file name", code="E-CHK-02"
        )
    return FittedGraph(
        attributes=description.attributes, mechanisms=_mechanisms(folder, description), notes=description.notes
    )


def _mechanisms(folder: Path, description: _Description) -> dict[str, Mechanism]:
    path = folder / description.weights
    require_sha256(path, description.weights_sha256)
    tensors = safetensors.torch.load_file(path)
    columns = {attribute.name: len(attribute.column_names) for attribute in description.attributes}
    mechanisms = {}
    for index, attribute in enumerate(description.attributes):
        n_parents = sum(columns[parent] for parent in attribute.parents)
        mechanism = build_mechanism(attribute, n_parents, torch_generator(0, "weights that are overwritten"))
        own = f"{index}."
        try:
            mechanism.load_state_dict({k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise IntegrityError(
                f"{path}: the weights do not belong to attribute {attribute.name!r} of {DESCRIPTION} ({reason}); "
                "copy both files again",
                code="E-CHK-05",
            ) from None
        mechanisms[attribute.name] = mechanism.requires_grad_(False)
    return mechanisms
