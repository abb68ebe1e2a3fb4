from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

from scantling.counterfactuals.attributes import DeclaredAttribute
from scantling.counterfactuals.causal_graph import CausalGraph, FittedGraph
from scantling.counterfactuals.table import table_of
from scantling.data.case import Case, ClassTable
from scantling.data.catalog.phantom import draw_chest_case
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError

PHANTOM = """
[attributes.site]

[attributes.scanner]
kind = "binary"
parents = ["site"]
values = ["A", "B"]

[attributes.sex]

[attributes.finding]
values = ["none", "effusion"]
"""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def phantom(n: int) -> Manifest:
    """The phantom's table without its pictures; every tenth case does not say its sex."""
    cases = []
    for index in range(n):
        drawn = draw_chest_case(0, index, "labelled")
        attributes = {"finding": drawn.finding} | ({"sex": drawn.sex} if index % 10 else {})
        cases.append(
            Case(
                case_id=drawn.case_id,
                images=(Path(f"{drawn.case_id}.png"),),
                site=drawn.site,
                scanner=drawn.scanner,
                attributes=attributes | {"reader": "only one", "accession": f"X{index:05d}"},
            )
        )
    return Manifest(
        root=Path(), name="phantom", layout="cases_csv", classes=ClassTable.of({"lung": 1}), cases=tuple(cases)
    )


MANIFEST = phantom(400)


def written(folder: Path, text: str) -> Path:
    path = folder / "graph.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> FittedGraph:
    path = written(tmp_path_factory.mktemp("graph"), PHANTOM)
    return CausalGraph.load(path).fit(table_of(MANIFEST), generator())


def test_the_phantom_s_site_decides_its_scanner_and_nothing_else(fitted: FittedGraph) -> None:
    for site, probs in {"north": [0.85, 0.15], "south": [0.15, 0.85]}.items():
        log_probs = fitted.log_prob([{"site": site, "scanner": scanner} for scanner in "AB"])
        found = (log_probs - fitted.log_prob([{"site": site}])).exp().numpy()
        assert stats.entropy(probs, found) < 0.01
    rows = [row for row in table_of(MANIFEST) if row["site"] == "north"][:100]
    moved = [fitted.intervene(row, {"site": "south"}, generator=generator(i)) for i, row in enumerate(rows)]
    assert sum(row["scanner"] == "B" for row in moved) == pytest.approx(85, abs=10)
    for before, after in zip(rows, moved, strict=True):
        assert {name: after[name] for name in after if name not in ("site", "scanner")} == {
            name: before[name] for name in before if name not in ("site", "scanner")
        }
    swapped = fitted.intervene(rows[0], {"scanner": "B", "finding": "effusion"})
    assert swapped == rows[0] | {"scanner": "B", "finding": "effusion"}


def test_the_phantom_s_context_has_a_column_a_value_and_one_for_missing(fitted: FittedGraph) -> None:
    assert fitted.column_names == (
        "site = south",
        "site is missing",
        "scanner = B",
        "scanner is missing",
        "sex = M",
        "sex is missing",
        "finding = effusion",
        "finding is missing",
    )
    row = {"site": "south", "scanner": "A", "sex": "", "finding": "effusion"}
    assert fitted.encode([row]).tolist() == [[1, 0, 0, 0, 0, 1, 1, 0]]


def test_what_the_table_decided_is_said(fitted: FittedGraph) -> None:
    assert len(fitted.notes) == 4
    assert fitted.notes[2] == (
        "attribute 'sex' is binary (F, M) with mechanism 'logistic', by the table; set kind or mechanism in the "
        "graph to decide otherwise"
    )
    assert "set mechanism in the graph" in fitted.notes[1]


def test_a_graph_is_picked_from_the_columns_and_says_what_it_left_out() -> None:
    graph = CausalGraph.of_manifest(MANIFEST, parents={"scanner": ["site"]})
    assert graph.parents == {"site": (), "scanner": ("site",), "finding": (), "sex": ()}
    assert len(graph.notes) == 2
    assert "attribute 'reader': every case has the value 'only one'" in graph.notes[0]
    assert "attribute 'accession': has 400 different values in 400 cases, so it names the cases" in graph.notes[1]
    assert graph.fit(table_of(MANIFEST), generator()).notes[:2] == graph.notes


def test_named_columns_are_taken_in_their_order_and_refused_where_they_cannot_be_used() -> None:
    assert list(CausalGraph.of_manifest(MANIFEST, ["sex", "scanner"]).attributes) == ["sex", "scanner"]
    with pytest.raises(ConfigError, match=r"'scaner': no such column in the table; did you mean 'scanner'"):
        CausalGraph.of_manifest(MANIFEST, ["scaner"])
    with pytest.raises(ConfigError, match="'reader': every case has the value 'only one'"):
        CausalGraph.of_manifest(MANIFEST, ["sex", "reader"])
    with pytest.raises(ConfigError, match=r"'scanner': its parent 'site' is not an attribute .*E-CFG-51"):
        CausalGraph.of_manifest(MANIFEST, ["sex", "scanner"], parents={"scanner": ["site"]})
    with pytest.raises(ConfigError, match=r"'scaner': is given parents, .*did you mean 'scanner'.*E-CFG-51"):
        CausalGraph.of_manifest(MANIFEST, ["site", "scanner"], parents={"scaner": ["site"]})


def test_a_table_without_a_usable_column_says_why_of_each() -> None:
    rows = [{"id": f"a{i}", "same": "1"} for i in range(9)]
    with pytest.raises(ConfigError, match=r"has no attribute; attribute 'id': .*; attribute 'same': .*E-CFG-50"):
        CausalGraph.of_table(rows)


def test_a_saved_graph_is_loaded_again(tmp_path: Path) -> None:
    graph = CausalGraph.load(written(tmp_path, PHANTOM))
    graph.save(tmp_path / "again.toml")
    assert CausalGraph.load(tmp_path / "again.toml") == graph
    assert graph.attributes["finding"] == DeclaredAttribute(values=("none", "effusion"))


@pytest.mark.parametrize(
    ("text", "sentence", "code"),
    [
        ("", "causal graph: has no attribute", "E-CFG-50"),
        ("[attributes.a]\n[attribute.b]", "unknown setting 'attribute'; did you mean 'attributes'", "E-CFG-01"),
        (
            "[attributes.a]\nparent = ['b']",
            "attribute 'a': unknown setting 'parent'; did you mean 'parents'",
            "E-CFG-01",
        ),
        ("[attributes.a]\nkind = 'colour'", "attribute 'a': kind = 'colour': Input should be 'auto'", "E-CFG-01"),
        ("[attributes.a]\nparents = ['b']\n[attributes.b]\nparents = ['a']", "b -> a -> b|a -> b -> a", "E-CFG-52"),
        ("[attributes.a]\nparents = ['x']", "'a': its parent 'x' is not an attribute of the graph", "E-CFG-51"),
        ("[attributes.a]\nkind = 'binary'\nmechanism = 'flow'", "'a': is binary, and mechanism 'flow'", "E-CFG-55"),
        ("[attributes.a", "not valid TOML", "E-CFG-02"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str, code: str) -> None:
    with pytest.raises(ConfigError, match=f"graph.toml: .*({sentence})") as caught:
        CausalGraph.load(written(tmp_path, text))
    assert caught.value.code == code
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("declared", "sentence", "code"),
    [
        ({"scaner": DeclaredAttribute()}, "'scaner': no such column in the table; did you mean 'scanner'", "E-CFG-53"),
        ({"reader": DeclaredAttribute()}, "'reader': every case has the value 'only one'", "E-CFG-54"),
        ({"sex": DeclaredAttribute(kind="continuous")}, "'sex': is declared continuous, but .* not finite", "E-CFG-55"),
        ({"accession": DeclaredAttribute(kind="binary")}, "'accession': is declared binary but has 400", "E-CFG-55"),
        ({"sex": DeclaredAttribute(values=("f", "M"))}, "'sex': the table has the value 'F', which", "E-CFG-55"),
    ],
)
def test_a_table_that_does_not_fit_the_graph_is_one_sentence(
    declared: dict[str, DeclaredAttribute], sentence: str, code: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        CausalGraph(attributes=declared).fit(table_of(MANIFEST), generator())
    assert caught.value.code == code


def test_the_same_generator_learns_the_same_graph() -> None:
    graph = CausalGraph(
        attributes={
            "scanner": DeclaredAttribute(mechanism="logistic"),
            "sex": DeclaredAttribute(parents=("scanner",), mechanism="mlp"),
        }
    )
    rows = table_of(MANIFEST)[:60]
    first, second, other = (graph.fit(rows, generator(seed)).log_prob(rows) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
