"""A learnt causal graph: find the noise behind a row, change an attribute, and see what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.config import nearest
from scantling.counterfactuals.attributes import Attribute, encoded
from scantling.counterfactuals.mechanisms import CategoricalMechanism, Mechanism
from scantling.counterfactuals.structure import computing_order
from scantling.counterfactuals.table import Row
from scantling.errors import ConfigError

Noise: TypeAlias = Mapping[str, Float[Tensor, "_"]]
"""What a row does not owe to its parents, by attribute: one Gumbel number a class, or one normal number.

An attribute that is missing has none.
"""


@final
@dataclass(frozen=True, kw_only=True)
class FittedGraph:
    """Attributes and the mechanisms that make them from their parents.

    Attributes:
        attributes: in the order of the columns of `encode`.
        mechanisms: by the attribute's name.
        notes: what was decided without being told, one sentence each.
    """

    attributes: tuple[Attribute, ...]
    mechanisms: Mapping[str, Mechanism]
    notes: tuple[str, ...] = ()

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The parents of every attribute."""
        return {attribute.name: attribute.parents for attribute in self.attributes}

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns of `encode`."""
        return tuple(name for attribute in self.attributes for name in attribute.column_names)

    @property
    def context_dim(self) -> int:
        """Number of the columns of `encode`."""
        return len(self.column_names)

    def encode(self, rows: Sequence[Row]) -> Float[Tensor, "case context"]:
        """Rows as numbers for a network, in float32: 0 or 1, one-hot, or standardised.

        Where an attribute is missing its columns are 0, and its last one, an indicator, is 1.

        Raises:
            DataError: a row has a value that was never seen when the graph was learnt.
        """
        values = self._read(rows)
        columns = [encoded(attribute, values[attribute.name]) for attribute in self.attributes]
        return torch.cat(columns, dim=1).float()

    def log_prob(self, rows: Sequence[Row]) -> Float[Tensor, "row"]:
        """Logarithm of the probability of each row, densities in 1 / unit of the attribute.

        The term of a missing attribute is left out; where it is a parent, its indicator takes part.
        """
        values = self._read(rows)
        total = torch.zeros(len(rows), dtype=torch.float64)
        for attribute in self.attributes:
            own = values[attribute.name]
            log_prob = self.mechanisms[attribute.name].log_prob(
                own.nan_to_num(0.0), self._causes(attribute, values, len(rows))
            )
            total += torch.where(own.isnan(), 0.0, log_prob - math.log(attribute.scale))
        return total

    def sample(self, n: int, generator: torch.Generator) -> tuple[dict[str, str], ...]:
        """Rows of cases that never were; nothing is missing in them."""
        values: dict[str, Tensor] = {}
        for attribute in self._in_order():
            mechanism = self.mechanisms[attribute.name]
            causes = self._causes(attribute, values, n)
            values[attribute.name] = mechanism.predict(mechanism.draw_noise(n, generator), causes)
        texts = {a.name: [a.write(float(value)) for value in values[a.name]] for a in self.attributes}
        return tuple({name: texts[name][row] for name in texts} for row in range(n))

    def abduct(self, row: Row, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The noise behind a row: of a continuous attribute the one that gives it, of a class a draw of those that do.

        Args:
            generator: for the draws; without it classes get no noise, which is enough where none is moved.
        """
        values = self._read([row])
        noise = {}
        for attribute in self._in_order():
            mechanism, own = self.mechanisms[attribute.name], values[attribute.name]
            if own.isnan() or (generator is None and isinstance(mechanism, CategoricalMechanism)):
                continue
            noise[attribute.name] = mechanism.abduct(own, self._causes(attribute, values, 1), generator)[0]
        return noise

    def intervene(
        self,
        row: Row,
        do: Mapping[str, str | float],
        *,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, str]:
        """The row had these attributes been otherwise: what follows from them moves, with its own noise kept.

        An attribute none of whose parents changed stays as it stands, to the letter; so does one that is missing,
        and every column that is no attribute of the graph. What is set no longer listens to its parents.

        Args:
            noise: from `abduct`; None abducts it here, with `generator`.

        Raises:
            ConfigError: an unknown attribute, or a value that was never seen, is asked for.
            ValueError: a class must move, and there is neither its noise nor a generator to draw it.
        """
        before = self._read([row])
        wanted = self._wanted(row, do)
        result = {**row, **wanted}
        after = self._read([result])
        noise = noise if noise is not None else self.abduct(row, generator)
        for attribute in self._in_order():
            name = attribute.name
            moves = any(not _same(before[parent], after[parent]) for parent in attribute.parents)
            if name in wanted or not moves or before[name].isnan():
                continue
            if name not in noise:
                raise ValueError(f"attribute {name!r} must move, but its noise was not abducted; give a generator")
            value = self.mechanisms[name].predict(noise[name][None], self._causes(attribute, after, 1))
            if not _same(value, before[name]):
                after[name] = value
                result[name] = attribute.write(float(value))
        return result

    def _wanted(self, row: Row, do: Mapping[str, str | float]) -> dict[str, str]:
        """What is asked for, as it stands in a table; as it stands in the row where that says the same."""
        by_name = {attribute.name: attribute for attribute in self.attributes}
        wanted = {}
        for name, value in do.items():
            if name not in by_name:
                raise ConfigError(
                    f"intervention {name} = {value!r}: not an attribute of the causal graph{nearest(name, by_name)}",
                    code="E-CFG-56",
                )
            text, own = by_name[name].wanted(value), row.get(name, "")
            both = by_name[name].read([text, own])
            wanted[name] = own if both[0] == both[1] else text
        return wanted

    def _read(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Numbers by attribute, one a row; NaN where missing."""
        return {a.name: a.read([row.get(a.name, "") for row in rows]) for a in self.attributes}

    def _in_order(self) -> list[Attribute]:
        by_name = {attribute.name: attribute for attribute in self.attributes}
        return [by_name[name] for name in computing_order(self.parents)]

    def _causes(
        self, attribute: Attribute, values: Mapping[str, Float[Tensor, "row"]], n_rows: int
    ) -> Float[Tensor, "row column"]:
        return parent_columns([a for a in self.attributes if a.name in attribute.parents], values, n_rows)


def parent_columns(
    parents: Sequence[Attribute], values: Mapping[str, Float[Tensor, "row"]], n_rows: int
) -> Float[Tensor, "row column"]:
    """The centred columns of parents side by side; none at all for a root."""
    columns = [encoded(parent, values[parent.name], centred=True) for parent in parents]
    return torch.cat([torch.zeros(n_rows, 0, dtype=torch.float64), *columns], dim=1)


def _same(one: Float[Tensor, "row"], other: Float[Tensor, "row"]) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
