"""What is to be done to every case, from words such as `scanner=B;finding=none`, and what that means for one case."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.table import Row
from scantling.errors import ConfigError
from scantling.seeding import torch_generator

OTHER: Final = "other"
"""As a value: of an attribute with two values the one that the case does not have."""
_LONGEST_TAG: Final = 48
_LONGEST_NAME: Final = 150
"""Bytes of a case's name: files are named after it."""


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """Attributes that are set together, as they were asked for."""

    settings: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """`scanner=B;finding=none`."""
        return written(dict(self.settings))

    def of(self, row: Row, graph: FittedGraph) -> dict[str, str] | None:
        """What is set in a case with these attributes; None where the opposite of a missing value is asked for."""
        do = {}
        for name, value in self.settings:
            if value == OTHER and (pair := _two_values(graph, name)) is not None:
                own = row.get(name, "").strip()
                if not own:
                    return None
                attribute = next(a for a in graph.attributes if a.name == name)
                value = pair[1 - pair.index(attribute.wanted(own))]
            do[name] = value
        return do


def written(do: Mapping[str, str]) -> str:
    """An intervention in one line, as the column `intervention` holds it."""
    return ";".join(f"{name}={value}" for name, value in do.items())


def parse_interventions(
    texts: Sequence[str], graph: FittedGraph, *, together: bool = False
) -> tuple[Intervention, ...]:
    """Each text is an intervention of its own, `a=b;c=d` one that sets both; what stands twice counts once.

    Args:
        together: all texts are one intervention.

    Raises:
        ConfigError: nothing is asked for, a text has no `=`, an attribute is set twice or is not one of the graph,
            or a value was never seen when the graph was learnt.
    """
    groups = [";".join(texts)] if together and texts else list(texts)
    found = tuple(dict.fromkeys(Intervention(settings=_settings(text)) for text in groups))
    if not found:
        raise ConfigError(
            "no intervention: say at least one with --do, as in --do scanner=B; this model knows "
            + ", ".join(f"{a.name} ({' or '.join(a.values[:8]) or 'a number'})" for a in graph.attributes),
            code="E-GEN-01",
        )
    for intervention in found:
        for name, value in intervention.settings:
            _require_possible(name, value, graph)
    return found


def counterfactual_name(case_id: str, do: Mapping[str, str]) -> str:
    """`CASE__scanner-B`; letters that no file name should have become `-`, and the name then ends in a checksum."""
    raw = "_".join(f"{name}-{value}" for name, value in do.items())
    clean = "".join(c if c.isalnum() or c in "+-._" else "-" for c in raw)
    if clean != raw or len(clean) > _LONGEST_TAG:
        clean = f"{clean[:_LONGEST_TAG]}-{_digits(raw)}"
    name = f"{case_id}__{clean}"
    if len(name.encode()) > _LONGEST_NAME:
        tail = f"-{_digits(name)}"
        name = name.encode()[: _LONGEST_NAME - len(tail)].decode(errors="ignore") + tail
    return name


def _settings(text: str) -> tuple[tuple[str, str], ...]:
    settings: dict[str, str] = {}
    for part in text.split(";"):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or not name or not value:
            raise ConfigError(
                f"--do {text!r}: wanted attribute=value, as in scanner=B, or several as in scanner=B;finding=none",
                code="E-GEN-01",
            )
        if settings.get(name, value) != value:
            raise ConfigError(
                f"--do {text!r}: {name} is set to {settings[name]!r} and to {value!r}; one intervention can set it "
                "once, so leave one out, or ask for two interventions",
                code="E-GEN-01",
            )
        settings[name] = value
    return tuple(settings.items())


def _require_possible(name: str, value: str, graph: FittedGraph) -> None:
    """The graph says what is wrong with an unknown attribute, or a value that was never seen."""
    known = {attribute.name: attribute for attribute in graph.attributes}
    if value == OTHER and name in known and OTHER not in known[name].values:
        if known[name].kind != "binary":
            values = ", ".join(known[name].values) or "a number"
            raise ConfigError(
                f"--do {name}={OTHER}: says which value only of two, and {name} has other ones ({values}); name one",
                code="E-GEN-02",
            )
        value = known[name].values[0]
    graph.intervene({}, {name: value}, generator=torch_generator(0, "a row without values draws nothing"))


def _two_values(graph: FittedGraph, name: str) -> tuple[str, ...] | None:
    """The values of a binary attribute, unless "other" is one of them."""
    values = next((a.values for a in graph.attributes if a.name == name), ())
    return values if len(values) == 2 and OTHER not in values else None


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
