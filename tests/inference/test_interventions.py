"""Words become interventions, and interventions names of files."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.swapped_scanners import fit_graph, write_data
from scantling.counterfactuals.causal_graph import CausalGraph
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.errors import ConfigError
from scantling.inference.interventions import counterfactual_name, parse_interventions, written
from scantling.seeding import torch_generator


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> FittedGraph:
    return fit_graph(write_data(tmp_path_factory.mktemp("interventions") / "data"))


def test_each_text_is_an_intervention_and_a_semicolon_joins_two(graph: FittedGraph) -> None:
    found = parse_interventions(["scanner=B", " finding = none ;scanner=A", "scanner=B"], graph)
    assert [one.settings for one in found] == [(("scanner", "B"),), (("finding", "none"), ("scanner", "A"))]
    assert [one.text for one in found] == ["scanner=B", "finding=none;scanner=A"]


def test_together_makes_one_of_all(graph: FittedGraph) -> None:
    (found,) = parse_interventions(["scanner=B", "finding=none"], graph, together=True)
    assert found.of({"scanner": "A", "finding": "effusion"}, graph) == {"scanner": "B", "finding": "none"}


def test_other_is_the_value_that_a_case_does_not_have(graph: FittedGraph) -> None:
    (found,) = parse_interventions(["scanner=other"], graph)
    assert found.of({"scanner": "A"}, graph) == {"scanner": "B"}
    assert found.of({"scanner": "B"}, graph) == {"scanner": "A"}
    assert found.of({"scanner": " "}, graph) is None


def test_other_is_a_plain_value_where_the_table_has_it_and_refused_where_it_could_mean_several() -> None:
    rows = [{"brand": ("x", "other")[i % 2], "grade": "abc"[i % 3], "age": f"{40 + i * i % 37}.5"} for i in range(60)]
    graph = CausalGraph.of_table(rows).fit(rows, torch_generator(0, "test"))
    (found,) = parse_interventions(["brand=other"], graph)
    assert found.of({"brand": "other"}, graph) == {"brand": "other"}
    with pytest.raises(ConfigError, match=r"--do grade=other: says which value only of two, .* \(a, b, c\); name one"):
        parse_interventions(["grade=other"], graph)
    with pytest.raises(ConfigError, match=r"--do age=other: .* \(a number\)"):
        parse_interventions(["age=other"], graph)
    assert parse_interventions(["age=70"], graph)[0].of({}, graph) == {"age": "70"}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], r"say at least one with --do, .*scanner \(A or B\), finding \(effusion or none\)"),
        (["scanner"], r"--do 'scanner': wanted attribute=value"),
        (["scanner="], "wanted attribute=value"),
        (["=B"], "wanted attribute=value"),
        (["scanner=B;"], "wanted attribute=value"),
        (["scanner=A;scanner=B"], "scanner is set to 'A' and to 'B'"),
        (["scaner=B"], r"not an attribute of the causal graph; did you mean 'scanner'\?"),
        (["sex=other"], "not an attribute of the causal graph"),
        (["scanner=C"], "never seen when the graph was learnt"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_generated(
    texts: list[str], said: str, graph: FittedGraph
) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_interventions(texts, graph)


def test_names_say_what_was_done() -> None:
    assert counterfactual_name("case_1", {"scanner": "B"}) == "case_1__scanner-B"
    assert counterfactual_name("case_1", {"scanner": "B", "age": "70.5"}) == "case_1__scanner-B_age-70.5"


def test_names_of_different_interventions_differ_and_can_be_file_names() -> None:
    values = ("a b", "a/b", "a-b", "a:b", "a" * 200, "a" * 199, "..", "ä", "A B")
    names = [counterfactual_name("x", {"finding": value}) for value in values]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"x__[\w+.\-]+", name) for name in names)


@settings(max_examples=60, deadline=None)
@given(case=st.text(min_size=1, max_size=150), value=st.text(min_size=1, max_size=300))
def test_names_are_never_too_long_for_a_file(case: str, value: str) -> None:
    name = counterfactual_name(case, {"a": value})
    assert len(name.encode("utf-8", "surrogatepass")) <= 150
    assert "/" not in name.removeprefix(case[: len(name)])


def test_an_intervention_is_written_as_it_is_read() -> None:
    assert written({"scanner": "B", "finding": "none"}) == "scanner=B;finding=none"
