"""Attributes of a case as numbers: their values, their columns for a network, and back to text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from scantling.config import Config, nearest
from scantling.counterfactuals.table import Kind, in_order, kind_of, number
from scantling.errors import ConfigError, DataError

MechanismName = Literal["logistic", "mlp", "gaussian", "flow"]
SIMPLE_MECHANISM: Final[dict[Kind, MechanismName]] = {
    "binary": "logistic",
    "categorical": "logistic",
    "continuous": "gaussian",
}
RICH_MECHANISM: Final[dict[Kind, MechanismName]] = {"binary": "mlp", "categorical": "mlp", "continuous": "flow"}


class DeclaredAttribute(Config):
    """An attribute as the graph's file declares it.

    Attributes:
        kind: "auto" goes by the values of the column.
        parents: attributes it is caused by.
        values: of a binary or categorical attribute, in the order of its columns; () is all there are, sorted.
        mechanism: "logistic" or "mlp" for binary and categorical attributes, "gaussian" or "flow" for continuous
            ones; "auto" takes the richer of the two where it predicts rows it has not seen clearly better.
    """

    kind: Literal["auto", "binary", "categorical", "continuous"] = "auto"
    parents: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    mechanism: Literal["auto", "logistic", "mlp", "gaussian", "flow"] = "auto"

    def require_possible(self, name: str) -> None:
        """Refuse settings that contradict each other, before any table is read.

        Raises:
            ConfigError: values that the kind does not have, or a mechanism that is not for it.
        """
        problem = ""
        if self.kind == "continuous" and self.values:
            problem = "is continuous and has no list of values; leave 'values' out, or make it categorical"
        elif self.kind == "binary" and self.values and len(self.values) != 2:
            problem = f"is binary, but lists {len(self.values)} values; list two, or make it categorical"
        elif self.values and (len(set(self.values)) < max(2, len(self.values)) or "" in self.values):
            problem = f"values {list(self.values)}: wanted two or more, each once, none empty (which means missing)"
        elif self.kind != "auto" and self.mechanism not in ("auto", *_mechanisms(self.kind)):
            wanted = " or ".join(map(repr, _mechanisms(self.kind)))
            problem = f"is {self.kind}, and mechanism {self.mechanism!r} is not for that; wanted {wanted}"
        if problem:
            raise ConfigError(f"attribute {name!r}: {problem}", code="E-CFG-55")


class Attribute(Config):
    """An attribute as it was found in a table.

    Attributes:
        values: of a binary or categorical attribute; the first of a binary one is encoded 0, the second 1.
        shares: of each value, among the rows that have one.
        mean, scale: of a continuous attribute: mean and standard deviation in its own unit.
    """

    name: str
    kind: Kind
    parents: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    mechanism: MechanismName

    @model_validator(mode="after")
    def _sound(self) -> Attribute:
        wanted = {"binary": len(self.values) == 2, "categorical": len(self.values) > 1, "continuous": not self.values}
        if not wanted[self.kind] or len(self.shares) != len(self.values):
            raise ValueError(f"{len(self.values)} values with {len(self.shares)} shares do not make it {self.kind}")
        if not (math.isfinite(self.mean) and 0 < self.scale < math.inf):
            raise ValueError(f"mean {self.mean} and scale {self.scale} must be finite, and scale > 0")
        if self.mechanism not in _mechanisms(self.kind):
            raise ValueError(f"mechanism {self.mechanism!r} is not for a {self.kind} attribute")
        return self

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of its columns: one for a number or the second of two values, else one a value; and for missing."""
        of_values = self.values[1:] if self.kind == "binary" else self.values
        own = tuple(f"{self.name} = {value}" for value in of_values) or (self.name,)
        return (*own, f"{self.name} is missing")

    def read(self, texts: Sequence[str]) -> Float[Tensor, "row"]:
        """Texts as numbers in float64: the index of the value, or the standardised number; NaN where missing.

        Raises:
            DataError: a value that was never seen (the message suggests the nearest), or no finite number.
        """
        numbers = torch.full((len(texts),), math.nan, dtype=torch.float64)
        for index, text in enumerate(texts):
            try:
                numbers[index] = self._number(text.strip()) if text.strip() else math.nan
            except ConfigError as error:
                row = f"row {index + 1}: " if len(texts) > 1 else ""
                raise DataError(f"{row}attribute {self.name!r}: {error.message}", code="E-DAT-30") from None
        return numbers

    def wanted(self, value: str | float) -> str:
        """An intervention's value as it stands in a table.

        Raises:
            ConfigError: a value that was never seen (the message suggests the nearest), or no finite number.
        """
        text = value.strip() if isinstance(value, str) else repr(value)
        try:
            code = self._number(text)
        except ConfigError as error:
            raise ConfigError(f"intervention {self.name} = {value!r}: {error.message}", code="E-CFG-57") from None
        return text if self.kind == "continuous" else self.values[int(code)]

    def write(self, value: float) -> str:
        """A number as `read` gives it, as text; what `read` makes of that is the same to rounding."""
        if math.isnan(value):
            return ""
        return repr(value * self.scale + self.mean) if self.kind == "continuous" else self.values[int(value)]

    def _number(self, text: str) -> float:
        if self.kind == "continuous":
            value = number(text)
            if value is None:
                raise ConfigError(f"{text!r} is not a finite number")
            return (value - self.mean) / self.scale
        if text in self.values:
            return float(self.values.index(text))
        as_number = number(text)
        if as_number is not None:
            for index, known in enumerate(self.values):
                if number(known) == as_number:  # 3 and 3.0 are one value
                    return float(index)
        raise ConfigError(f"{text!r} was never seen when the graph was learnt{nearest(text, self.values)}")


def encoded(
    attribute: Attribute, numbers: Float[Tensor, "row"], *, centred: bool = False
) -> Float[Tensor, "row column"]:
    """The columns of an attribute; where it is missing they are 0, and the last column, an indicator, is 1.

    Args:
        centred: subtract each column's mean over the rows that have a value, so that 0 stands for the average case.
    """
    missing = numbers.isnan()
    known = numbers.nan_to_num(0.0)
    if attribute.kind == "continuous":
        columns = known[:, None]
    else:
        columns = (known[:, None] == torch.arange(len(attribute.values))).to(known)
        if centred:
            columns = columns - torch.tensor(attribute.shares, dtype=known.dtype)
        columns = columns[:, 1:] if attribute.kind == "binary" else columns
    return torch.cat([torch.where(missing[:, None], 0.0, columns), missing[:, None].to(known)], dim=1)


def found(name: str, declared: DeclaredAttribute, texts: Sequence[str]) -> Attribute:
    """The attribute that a column holds.

    Raises:
        ConfigError: the column does not fit the declaration, or nothing can be learnt from it.
    """
    listed: Kind = "binary" if len(declared.values) == 2 else "categorical"
    kind = kind_of(name, texts, listed if declared.values and declared.kind == "auto" else declared.kind)
    present = [text for text in texts if text]
    mechanism = declared.mechanism if declared.mechanism != "auto" else SIMPLE_MECHANISM[kind]
    if mechanism not in _mechanisms(kind):
        raise ConfigError(
            f"attribute {name!r}: its values make it {kind}, but mechanism {mechanism!r} is not for those; "
            f"wanted {' or '.join(map(repr, _mechanisms(kind)))}",
            code="E-CFG-55",
        )
    if kind == "continuous":
        mean, scale = _moments(name, present)
        return Attribute(name=name, kind=kind, parents=declared.parents, mean=mean, scale=scale, mechanism=mechanism)
    unknown = next((text for text in present if declared.values and text not in declared.values), None)
    if unknown is not None:
        raise ConfigError(
            f"attribute {name!r}: the table has the value {unknown!r}, which the graph does not list"
            f"{nearest(unknown, declared.values)}",
            code="E-CFG-55",
        )
    values = tuple(value for value in declared.values or in_order(tuple(set(present))) if value in present)
    shares = tuple(present.count(value) / len(present) for value in values)
    return Attribute(name=name, kind=kind, parents=declared.parents, values=values, shares=shares, mechanism=mechanism)


def _moments(name: str, present: Sequence[str]) -> tuple[float, float]:
    numbers = torch.tensor([number(text) for text in present], dtype=torch.float64)
    mean, scale = float(numbers.mean()), float(numbers.std(correction=0))
    if not (math.isfinite(mean) and 0 < scale < math.inf):
        raise ConfigError(
            f"attribute {name!r}: its numbers have mean {mean:g} and standard deviation {scale:g}, which cannot be "
            "standardised; check the column",
            code="E-CFG-55",
        )
    return mean, scale


def _mechanisms(kind: Kind) -> tuple[MechanismName, MechanismName]:
    return SIMPLE_MECHANISM[kind], RICH_MECHANISM[kind]
