"""Frozen settings and their TOML form: unknown keys are errors that suggest the nearest one.

A file holds only what differs from the defaults and never holds code. Three layers, weakest first:
defaults, file, `a.b=value` overrides.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from scantling.errors import ConfigError
from scantling.files import write_atomic

C = TypeVar("C", bound="Config")  # not `Self`: the run-time checker of the tests cannot read it on methods


class Config(BaseModel):
    """Base of every settings object: frozen, keyword-only, strict about names."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls: type[C], values: Mapping[str, Any], *, where: str) -> C:
        """Settings from plain values; `where` names the file or option in the error.

        Raises:
            ConfigError: an unknown key (with the nearest known one), a wrong type, an impossible value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{where}: {_explain(cls, error)}", code="E-CFG-01") from None

    @classmethod
    def load(cls: type[C], path: Path, *, overrides: Iterable[str] = ()) -> C:
        """Settings from a TOML file with `a.b=value` overrides laid over it."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such configuration file", code="E-CFG-02") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML ({error})", code="E-CFG-02") from None
        return cls.parse(apply_overrides(values, overrides), where=str(path))

    def to_toml(self) -> str:
        """The resolved settings as TOML; a value of None is left out, because TOML has no null."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))

    def save(self, path: Path) -> None:
        """Write the resolved settings atomically."""
        write_atomic(path, self.to_toml().encode())


def at_most_version(newest: int) -> AfterValidator:
    """Refuses, as a field's annotation, the schema version of a file that a newer release wrote."""

    def check(value: int) -> int:
        if value > newest:
            raise ValueError("written by a newer release; update scantling to read it")
        return value

    return AfterValidator(check)


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of nested `values` with each `a.b=value` set; the value is read as TOML, else as text.

    Raises:
        ConfigError: an override without `=`, or a path through something that is not a table.
    """
    result: dict[str, Any] = _copy_tables(values)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError(f"override {override!r}: wanted name=value, as in training.steps=500", code="E-CFG-03")
        *parents, last = dotted.strip().split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a table", code="E-CFG-03")
        table[last] = _toml_value(text.strip())
    return result


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, else the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _copy_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy_tables(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_none(v) for k, v in values.items() if v is not None}
    if isinstance(values, list):
        return [_without_none(v) for v in values]
    return values


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    sentences = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        name = ".".join(location)
        if problem["type"] == "extra_forbidden":
            owner = _model_at(model, location[:-1])
            hint = nearest(location[-1], owner.model_fields) if owner else ""
            sentences.append(f"unknown setting {name!r}{hint}")
        else:
            sentences.append(f"{name} = {problem.get('input')!r}: {problem['msg']}")
    return "; ".join(sentences)


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    for part in location:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model
