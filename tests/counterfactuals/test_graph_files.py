from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scantling.counterfactuals.attributes import DeclaredAttribute
from scantling.counterfactuals.causal_graph import CausalGraph, FittedGraph
from scantling.counterfactuals.graph_files import load_graph, save_graph
from scantling.errors import DataError, IntegrityError, ScantlingError
from scantling.files import write_atomic

ROWS = [
    {"site": "ns"[i % 2], "scanner": "ABC"[(i // 2) % 3], "age": str(20.5 + (i * 7) % 43), "sex": "FM"[i % 3 == 0]}
    for i in range(60)
]


def fitted(seed: int = 0, **settings: DeclaredAttribute) -> FittedGraph:
    declared = {
        "site": DeclaredAttribute(mechanism="logistic"),
        "scanner": DeclaredAttribute(parents=("site",), mechanism="mlp"),
        "age": DeclaredAttribute(kind="continuous", parents=("scanner",), mechanism="gaussian"),
        **settings,
    }
    return CausalGraph(attributes=declared).fit(ROWS, torch.Generator().manual_seed(seed))


def edited(folder: Path, **changes: object) -> None:
    path = folder / "causal_graph.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_graph_is_loaded_to_the_bit(tmp_path: Path) -> None:
    graph = fitted()
    save_graph(tmp_path / "new", graph)
    loaded = load_graph(tmp_path / "new")
    assert (loaded.attributes, loaded.notes, loaded.parents) == (graph.attributes, graph.notes, graph.parents)
    assert torch.equal(loaded.log_prob(ROWS), graph.log_prob(ROWS))
    assert torch.equal(loaded.encode(ROWS), graph.encode(ROWS))
    both = [g.intervene(ROWS[0], {"site": "s"}, generator=torch.Generator().manual_seed(1)) for g in (graph, loaded)]
    assert both[0] == both[1]


def test_another_graph_takes_the_place_of_the_first_and_leaves_nothing_behind(tmp_path: Path) -> None:
    save_graph(tmp_path, fitted())
    other = fitted(sex=DeclaredAttribute(mechanism="logistic"))
    save_graph(tmp_path, other)
    assert load_graph(tmp_path).column_names == other.column_names
    assert len(list(tmp_path.iterdir())) == 2


def test_a_graph_cut_off_while_it_was_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = fitted()
    save_graph(tmp_path, graph)

    def refuse(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write_atomic(path, data)

    monkeypatch.setattr("scantling.counterfactuals.graph_files.write_atomic", refuse)
    with pytest.raises(KeyboardInterrupt):
        save_graph(tmp_path, fitted(sex=DeclaredAttribute(mechanism="logistic")))
    assert load_graph(tmp_path).column_names == graph.column_names


def test_damage_is_found(tmp_path: Path) -> None:
    save_graph(tmp_path, fitted())
    (weights,) = tmp_path.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"causal_graph-\w+\.safetensors: the file is damaged .*E-CHK-01"):
        load_graph(tmp_path)
    weights.unlink()
    with pytest.raises(IntegrityError, match="the file is missing"):
        load_graph(tmp_path)
    (tmp_path / "causal_graph.json").write_text('{"schema_version": 1')
    with pytest.raises(IntegrityError, match="not valid JSON"):
        load_graph(tmp_path)
    with pytest.raises(DataError, match=r"causal_graph\.json: cannot be read"):
        load_graph(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema_version": 99}, "written by a newer release; update scantling"),
        ({"weights": "../causal_graph.safetensors"}, "'weights' is no file name"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"attributes": [{"name": "x", "kind": "binary", "mechanism": "logistic"}]}, "0 values with 0 shares"),
        (
            {
                "attributes": [
                    {"name": name, "kind": "continuous", "parents": [parent], "mechanism": "gaussian"}
                    for name, parent in ("xy", "yx")
                ]
            },
            "y -> x -> y|x -> y -> x",
        ),
    ],
)
def test_a_description_that_says_something_else_is_refused(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    save_graph(tmp_path, fitted())
    edited(tmp_path, **changes)
    with pytest.raises(IntegrityError, match=sentence) as caught:
        load_graph(tmp_path)
    assert caught.value.code == "E-CHK-02"


def test_weights_of_other_attributes_are_refused(tmp_path: Path) -> None:
    save_graph(tmp_path, fitted())
    path = tmp_path / "causal_graph.json"
    attributes = json.loads(path.read_text())["attributes"]
    attributes[2] |= {"mechanism": "flow"}
    edited(tmp_path, attributes=attributes)
    with pytest.raises(IntegrityError, match=r"do not belong to attribute 'age' .*size mismatch.*E-CHK-05"):
        load_graph(tmp_path)


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "causal_graph.json").write_text("[]")
    with pytest.raises(ScantlingError, match="E-CHK-02"):
        load_graph(tmp_path)
