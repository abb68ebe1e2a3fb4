"""Which attributes a case has and what causes what: declared in a file, or picked from a table's columns.

[attributes.site]

[attributes.scanner]
kind = "categorical"
parents = ["site"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from pydantic import Field

from scantling.config import Config, nearest
from scantling.counterfactuals.attributes import Attribute, DeclaredAttribute, found
from scantling.counterfactuals.fitted_graph import FittedGraph, parent_columns
from scantling.counterfactuals.fitting import chosen, fit_mechanism
from scantling.counterfactuals.structure import computing_order
from scantling.counterfactuals.table import Row, column, columns_of, kind_of, table_of
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError

__all__ = ["CausalGraph", "FittedGraph"]


class _GraphToml(Config):
    """The file; every attribute is parsed by itself, so that its errors name it."""

    attributes: dict[str, dict[str, Any]] = Field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class CausalGraph:
    """Attributes by name, in the order of their columns for a network, with their parents; nothing is learnt yet.

    Attributes:
        notes: columns that were left out when a graph was picked from a table, one sentence each.

    Raises:
        ConfigError: there is no attribute, settings of one contradict each other, a parent is unknown or
            stands twice, or the graph has a cycle.
    """

    attributes: Mapping[str, DeclaredAttribute]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.attributes:
            reasons = "".join(f"; {note}" for note in self.notes)
            raise ConfigError(f"causal graph: has no attribute{reasons}", code="E-CFG-50")
        for name, declared in self.attributes.items():
            declared.require_possible(name)
        computing_order(self.parents)

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The parents of every attribute."""
        return {name: declared.parents for name, declared in self.attributes.items()}

    @classmethod
    def load(cls, path: Path) -> CausalGraph:
        """A graph from a TOML file: a table `[attributes.NAME]` for each attribute, see `DeclaredAttribute`.

        Raises:
            ConfigError: no such file, no valid TOML, an unknown or impossible setting, or an impossible graph.
        """
        tables = _GraphToml.load(path).attributes
        declared = {
            name: DeclaredAttribute.parse(values, where=f"{path}: attribute {name!r}")
            for name, values in tables.items()
        }
        try:
            return cls(attributes=declared)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", code=error.code) from None

    def save(self, path: Path) -> None:
        """Write the graph as TOML, atomically."""
        _GraphToml(attributes={n: a.model_dump(mode="json") for n, a in self.attributes.items()}).save(path)

    @classmethod
    def of_table(
        cls,
        rows: Sequence[Row],
        columns: Sequence[str] | None = None,
        *,
        parents: Mapping[str, Sequence[str]] | None = None,
    ) -> CausalGraph:
        """A graph of some columns of a table; without `parents` every attribute is a root.

        Args:
            columns: None takes every column from which something can be learnt; `notes` say why others are left out.
            parents: by attribute.

        Raises:
            ConfigError: a named column is unknown, has one value only or names the cases; no column is left; or a
                parent is not among the attributes.
        """
        parents = parents or {}
        declared: dict[str, DeclaredAttribute] = {}
        notes: list[str] = []
        for name in columns if columns is not None else columns_of(rows):
            try:
                kind_of(name, column(rows, name))
            except ConfigError as error:
                if columns is not None:
                    raise
                notes.append(error.message)
            else:
                declared[name] = DeclaredAttribute(parents=tuple(parents.get(name, ())))
        graph = cls(attributes=declared, notes=tuple(notes))
        for name in parents:
            if name not in declared:
                raise ConfigError(
                    f"attribute {name!r}: is given parents, but is not an attribute of the graph"
                    f"{nearest(name, declared)}",
                    code="E-CFG-51",
                )
        return graph

    @classmethod
    def of_manifest(
        cls,
        manifest: Manifest,
        columns: Sequence[str] | None = None,
        *,
        parents: Mapping[str, Sequence[str]] | None = None,
    ) -> CausalGraph:
        """A graph of some of a manifest's columns, see `of_table`; counterfactual rows do not count."""
        return cls.of_table(table_of(manifest), columns, parents=parents)

    def fit(self, rows: Sequence[Row], generator: torch.Generator) -> FittedGraph:
        """Learn every attribute's mechanism from a table, such as `table_of(manifest)`.

        Args:
            rows: real cases; a missing value ("") takes no part in its own mechanism, and as a parent it is an
                indicator in the place of its value.
            generator: draws the start of hidden layers, and the rows by which mechanisms are chosen.

        Raises:
            ConfigError: a column is unknown, has one value only, or does not fit its declaration.
        """
        by_name: dict[str, Attribute] = {}
        values, notes = {}, list(self.notes)
        for name, declared in self.attributes.items():
            by_name[name] = found(name, declared, column(rows, name))
            values[name] = by_name[name].read(column(rows, name))
        mechanisms = {}
        for name in computing_order(self.parents):
            attribute, declared = by_name[name], self.attributes[name]
            causes = [other for other in by_name.values() if other.name in attribute.parents]
            design = parent_columns(causes, values, len(rows))
            if declared.mechanism == "auto":
                attribute = by_name[name] = chosen(attribute, values[name], design, generator)
            mechanisms[name] = fit_mechanism(attribute, values[name], design, generator)
            if "auto" in (declared.kind, declared.mechanism):
                notes.append(_decided(attribute, declared))
        return FittedGraph(attributes=tuple(by_name.values()), mechanisms=mechanisms, notes=tuple(notes))


def _decided(attribute: Attribute, declared: DeclaredAttribute) -> str:
    """What the table decided about an attribute, and how to decide otherwise."""
    options = [name for name in ("kind", "mechanism") if getattr(declared, name) == "auto"]
    values = f" ({', '.join(attribute.values)})" if 0 < len(attribute.values) <= 5 else ""
    return (
        f"attribute {attribute.name!r} is {attribute.kind}{values} with mechanism {attribute.mechanism!r}, by the "
        f"table; set {' or '.join(options)} in the graph to decide otherwise"
    )
