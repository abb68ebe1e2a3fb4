from __future__ import annotations

import pytest

from scantling.counterfactuals.structure import computing_order
from scantling.errors import ConfigError

CHAIN = {"contrast": ("scanner",), "sex": (), "scanner": ("site", "year"), "site": (), "year": ()}


def test_every_attribute_comes_after_its_parents_and_else_in_declared_order() -> None:
    assert computing_order(CHAIN) == ("sex", "site", "year", "scanner", "contrast")


def test_a_cycle_is_named_as_a_path_from_cause_to_effect() -> None:
    parents = {"leaf": ("b",), "a": ("c",), "b": ("a",), "c": ("b",), "root": ()}
    with pytest.raises(ConfigError, match=r"b -> c -> a -> b is a cycle.*remove one of these.*E-CFG-52"):
        computing_order(parents)


def test_an_attribute_that_is_its_own_parent_is_a_cycle() -> None:
    with pytest.raises(ConfigError, match=r"sex -> sex is a cycle"):
        computing_order({"sex": ("sex",)})


@pytest.mark.parametrize(
    ("parents", "sentence"),
    [
        ({"scanner": ("sites",), "site": ()}, r"attribute 'scanner': its parent 'sites' is not .*did you mean 'site'"),
        ({"scanner": ("site",)}, r"attribute 'scanner': its parent 'site' is not an attribute of the graph \["),
        ({"scanner": ("site", "site"), "site": ()}, r"'scanner': its parent 'site' stands twice"),
    ],
)
def test_an_impossible_parent_is_refused(parents: dict[str, tuple[str, ...]], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        computing_order(parents)
    assert caught.value.code == "E-CFG-51"
