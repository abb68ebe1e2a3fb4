"""Who depends on whom: the order in which attributes are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scantling.config import nearest
from scantling.errors import ConfigError


def computing_order(parents: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The attributes, every one after its parents; else in the order in which they were declared.

    Raises:
        ConfigError: a parent is no attribute, stands twice, or the graph has a cycle, which is named as a path.
    """
    for name, named in parents.items():
        _require_parents(name, named, parents)
    order: list[str] = []
    waiting = list(parents)
    while waiting:
        ready = next((name for name in waiting if set(parents[name]) <= set(order)), None)
        if ready is None:
            path = " -> ".join(_cycle(parents, waiting))
            raise ConfigError(
                f"causal graph: {path} is a cycle, and nothing can cause itself; remove one of these parents",
                code="E-CFG-52",
            )
        order.append(ready)
        waiting.remove(ready)
    return tuple(order)


def _require_parents(name: str, named: Sequence[str], parents: Mapping[str, Sequence[str]]) -> None:
    for parent in named:
        if parent not in parents:
            hint = nearest(parent, [other for other in parents if other != name]) if len(parents) > 1 else ""
            raise ConfigError(
                f"attribute {name!r}: its parent {parent!r} is not an attribute of the graph{hint}", code="E-CFG-51"
            )
        if list(named).count(parent) > 1:
            raise ConfigError(f"attribute {name!r}: its parent {parent!r} stands twice; name it once", code="E-CFG-51")


def _cycle(parents: Mapping[str, Sequence[str]], waiting: Sequence[str]) -> list[str]:
    """A path of cause -> effect that ends where it began, among attributes of which each waits for another."""
    path = [waiting[0]]
    while True:
        cause = next(parent for parent in parents[path[-1]] if parent in waiting)
        if cause in path:
            return [cause, *reversed(path[path.index(cause) :])]
        path.append(cause)
