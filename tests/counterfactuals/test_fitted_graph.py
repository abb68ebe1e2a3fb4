from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from scantling.counterfactuals.attributes import RICH_MECHANISM, Attribute, DeclaredAttribute
from scantling.counterfactuals.causal_graph import CausalGraph, FittedGraph
from scantling.counterfactuals.mechanisms import build_mechanism
from scantling.errors import ConfigError, DataError

SITES, SCANNERS = ("north", "south", "west"), ("A", "B")
SCANNER_PROBS = {"north": [0.85, 0.15], "south": [0.15, 0.85], "west": [0.5, 0.5]}
Rows = list[dict[str, str]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def contrast_of(scanner: str, age: float, noise: float) -> float:
    """A true mechanism: contrast follows from scanner and age, with a spread that the scanner sets."""
    return (3.0 if scanner == "A" else 2.2) - 0.01 * age + (0.1 if scanner == "A" else 0.25) * noise


def world(n: int, seed: int = 0) -> tuple[Rows, list[float]]:
    """Rows drawn from site -> scanner -> contrast <- age, sex -> height; and the true noise behind each contrast."""
    rng = np.random.default_rng(seed)
    rows, noises = [], []
    for _ in range(n):
        site, sex = str(rng.choice(SITES)), str(rng.choice(["F", "M"]))
        scanner, age = str(rng.choice(SCANNERS, p=SCANNER_PROBS[site])), float(rng.uniform(20, 80))
        noise = float(rng.normal())
        height = (165.0 if sex == "F" else 178.0) + 6 * float(rng.normal())
        rows.append(
            {
                "case": f"c{len(rows)}",
                "site": site,
                "sex": sex,
                "scanner": scanner,
                "age": repr(age),
                "contrast": repr(contrast_of(scanner, age, noise)),
                "height": repr(height),
            }
        )
        noises.append(noise)
    return rows, noises


GRAPH = CausalGraph(
    attributes={
        "contrast": DeclaredAttribute(kind="continuous", parents=("scanner", "age"), mechanism="gaussian"),
        "site": DeclaredAttribute(kind="categorical", mechanism="logistic"),
        "scanner": DeclaredAttribute(kind="binary", parents=("site",), mechanism="logistic"),
        "sex": DeclaredAttribute(kind="binary", mechanism="logistic"),
        "age": DeclaredAttribute(kind="continuous", mechanism="gaussian"),
        "height": DeclaredAttribute(kind="continuous", parents=("sex",), mechanism="gaussian"),
    }
)
ROWS, NOISES = world(3000)


@pytest.fixture(scope="module")
def graph() -> FittedGraph:
    return GRAPH.fit(ROWS, generator())


@pytest.fixture(scope="module")
def bent(graph: FittedGraph) -> FittedGraph:
    """The same attributes with hidden layers and splines of random parameters: what must hold holds for any."""
    attributes = tuple(a.model_copy(update={"mechanism": RICH_MECHANISM[a.kind]}) for a in graph.attributes)
    width = {a.name: len(a.column_names) for a in attributes}
    mechanisms = {}
    for index, attribute in enumerate(attributes):
        rng = generator(index)
        mechanism = build_mechanism(attribute, sum(width[parent] for parent in attribute.parents), rng)
        for parameter in mechanism.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        mechanisms[attribute.name] = mechanism.requires_grad_(False)
    return FittedGraph(attributes=attributes, mechanisms=mechanisms)


def test_the_true_mechanisms_are_recovered(graph: FittedGraph) -> None:
    for site, probs in SCANNER_PROBS.items():
        rows = [{"site": site, "scanner": scanner} for scanner in SCANNERS]
        fitted = (graph.log_prob(rows) - graph.log_prob([{"site": site}])).exp().numpy()
        assert fitted.sum() == pytest.approx(1)
        assert stats.entropy(probs, fitted) < 0.003  # Kullback-Leibler divergence, in nats
    women = [row for row in ROWS[:400] if row["sex"] == "F"]
    grown = [float(graph.intervene(row, {"sex": "M"})["height"]) - float(row["height"]) for row in women]
    assert np.mean(grown) == pytest.approx(13, abs=0.6)
    outputs = graph.mechanisms["contrast"].conditioner.linear.numpy() * graph.attributes[0].scale
    scanner, age = outputs[0, 0], outputs[2, 0] / graph.attributes[4].scale
    assert (scanner, age) == pytest.approx((-0.8, -0.01), rel=0.02)


def other(sex: str) -> str:
    return "M" if sex == "F" else "F"


def test_counterfactuals_are_those_of_the_true_world_with_its_true_noise(graph: FittedGraph) -> None:
    errors, changes = [], []
    for row, noise in zip(ROWS[:300], NOISES[:300], strict=True):
        scanner = "B" if row["scanner"] == "A" else "A"
        found = float(graph.intervene(row, {"scanner": scanner, "age": 35})["contrast"])
        truth = contrast_of(scanner, 35, noise)
        errors.append(found - truth)
        changes.append(float(row["contrast"]) - truth)
    assert math.sqrt(np.mean(np.square(errors))) < 0.03
    assert math.sqrt(np.mean(np.square(changes))) > 0.5


def test_with_the_true_parameters_counterfactuals_are_the_true_ones_to_rounding() -> None:
    scanner = Attribute(name="scanner", kind="binary", values=("A", "B"), shares=(0.25, 0.75), mechanism="logistic")
    contrast = Attribute(name="contrast", kind="continuous", parents=("scanner",), mechanism="gaussian")
    mechanisms = {a.name: build_mechanism(a, 2 * len(a.parents), generator()) for a in (scanner, contrast)}
    conditioner = mechanisms["contrast"].conditioner
    with torch.no_grad():  # columns are centred: A is -0.75, B is 0.25
        conditioner.bias.copy_(torch.tensor([2.0 + 0.75 * 1.5, 0.0]))
        conditioner.linear[0] = torch.tensor([1.5, 0.0])
    graph = FittedGraph(attributes=(scanner, contrast), mechanisms=mechanisms)
    for module in mechanisms.values():
        module.requires_grad_(False)
    row = {"scanner": "A", "contrast": repr(2.0 + 0.3)}  # A: 2 + noise, B: 3.5 + noise
    assert float(graph.abduct(row)["contrast"]) == pytest.approx(0.3, rel=1e-12)
    assert float(graph.intervene(row, {"scanner": "B"})["contrast"]) == pytest.approx(3.8, rel=1e-12)


@pytest.mark.parametrize("kind", ["graph", "bent"])
def test_doing_nothing_changes_nothing_to_the_letter(kind: str, request: pytest.FixtureRequest) -> None:
    fitted: FittedGraph = request.getfixturevalue(kind)
    for row in ROWS[:10]:
        odd = row | {"age": "061.50", "sex": " F", "note": "kept"}
        assert fitted.intervene(odd, {}, generator=generator()) == odd
        for name in GRAPH.attributes:
            assert fitted.intervene(odd, {name: odd[name]}, generator=generator()) == odd
        assert fitted.intervene(odd, {"age": 61.5}, generator=generator()) == odd


def test_descendants_move_and_nothing_else(bent: FittedGraph) -> None:
    row = ROWS[0] | {"scanner": "A", "site": "north", "sex": "F"}
    moved = {
        name: {key for key in row if bent.intervene(row, {name: value}, generator=generator(1))[key] != row[key]}
        for name, value in {"age": 20.0, "sex": "M", "contrast": 1.0, "scanner": "B"}.items()
    }
    assert moved == {
        "age": {"age", "contrast"},
        "sex": {"sex", "height"},
        "contrast": {"contrast"},
        "scanner": {"scanner", "contrast"},
    }


def test_an_attribute_that_is_set_no_longer_listens_to_its_parents(graph: FittedGraph) -> None:
    for row, site in itertools.product(ROWS[:20], SITES):
        held = graph.intervene(row, {"site": site, "scanner": row["scanner"]}, generator=generator())
        assert held == row | {"site": site}


def test_there_and_back_with_the_same_noise_is_where_it_began(bent: FittedGraph) -> None:
    for index, row in enumerate(ROWS[:20]):
        noise = bent.abduct(row, generator(index))
        there = bent.intervene(row, {"site": "south", "age": 33, "sex": other(row["sex"])}, noise=noise)
        home = {name: row[name] for name in ("site", "age", "sex")}
        back = bent.intervene(there, home, noise=noise)
        assert (back["scanner"], back["site"], back["sex"]) == (row["scanner"], row["site"], row["sex"])
        assert float(back["contrast"]) == pytest.approx(float(row["contrast"]), rel=1e-10)
        assert float(back["height"]) == pytest.approx(float(row["height"]), rel=1e-10)


def test_an_intervention_in_two_steps_is_that_in_one(graph: FittedGraph) -> None:
    for index, row in enumerate(ROWS[:20]):
        noise = graph.abduct(row, generator(index))
        once = graph.intervene(row, {"site": "west", "age": 33}, noise=noise)
        twice = graph.intervene(graph.intervene(row, {"age": 33}, noise=noise), {"site": "west"}, noise=noise)
        assert float(once.pop("contrast")) == pytest.approx(float(twice.pop("contrast")), rel=1e-10)
        assert once == twice


def test_counterfactual_scanners_come_as_often_as_the_site_that_was_set_has_them(graph: FittedGraph) -> None:
    def share_of_b(site: str) -> float:
        both = graph.log_prob([{"site": site, "scanner": "B"}, {"site": site}])
        return float((both[0] - both[1]).exp())

    before, after = share_of_b("north"), share_of_b("south")
    rows = [row for row in graph.sample(900, generator(30)) if row["site"] == "north"]
    moved = [graph.intervene(row, {"site": "south"}, generator=generator(i))["scanner"] for i, row in enumerate(rows)]
    assert stats.binomtest(moved.count("B"), len(rows), after).pvalue > 0.02
    was_a = [new for row, new in zip(rows, moved, strict=True) if row["scanner"] == "A"]
    assert stats.binomtest(was_a.count("B"), len(was_a), (after - before) / (1 - before)).pvalue > 0.02
    assert moved.count("A") == was_a.count("A")  # B gained, so nobody leaves it


def test_a_generator_decides_every_draw(graph: FittedGraph) -> None:
    row = next(row for row in ROWS if row["site"] == "north" and row["scanner"] == "A")
    found = {
        seed: [graph.intervene(row, {"site": "west"}, generator=generator(seed)) for _ in range(2)]
        for seed in range(12)
    }
    assert all(first == second for first, second in found.values())
    assert {first["scanner"] for first, _ in found.values()} == {"A", "B"}
    assert graph.sample(5, generator(3)) == graph.sample(5, generator(3)) != graph.sample(5, generator(4))


def test_samples_follow_the_learnt_distribution(graph: FittedGraph) -> None:
    rows = graph.sample(4000, generator())
    table = np.array([[sum(r["site"] == s and r["scanner"] == k for r in rows) for k in SCANNERS] for s in SITES])
    conditional = table / table.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(conditional, [SCANNER_PROBS[s] for s in SITES], atol=0.04)
    for scanner in SCANNERS:
        drawn, seen = ([float(r["contrast"]) for r in part if r["scanner"] == scanner] for part in (rows, ROWS))
        assert stats.ks_2samp(drawn, seen).statistic < 0.06
    assert graph.log_prob(rows).mean() == pytest.approx(float(graph.log_prob(ROWS).mean()), abs=0.1)


def test_the_log_probability_is_the_sum_of_every_attribute_in_its_own_unit(graph: FittedGraph) -> None:
    row = ROWS[5]
    height = graph.attributes[5]
    design = torch.tensor([[float(row["sex"] == "M") - graph.attributes[3].shares[1], 0.0]], dtype=torch.float64)
    outputs = graph.mechanisms["height"].conditioner(design)[0].numpy()
    oracle = stats.norm.logpdf(
        float(row["height"]),
        loc=height.mean + height.scale * outputs[0],
        scale=height.scale * np.exp(6 * np.tanh(outputs[1] / 6)),
    )
    without = {name: text for name, text in row.items() if name != "height"}
    found = graph.log_prob([row, without])
    assert float(found[0] - found[1]) == pytest.approx(oracle, rel=1e-9)


def test_rows_are_encoded_in_the_order_of_the_graph(graph: FittedGraph) -> None:
    row = {"site": "south", "scanner": "B", "sex": "", "age": repr(graph.attributes[4].mean), "height": ""}
    assert graph.context_dim == len(graph.column_names) == 14
    encoded = dict(zip(graph.column_names, graph.encode([row])[0].tolist(), strict=True))
    assert [name for name, value in encoded.items() if value == 1] == [
        "contrast is missing",
        "site = south",
        "scanner = B",
        "sex is missing",
        "height is missing",
    ]
    assert sum(abs(value) for value in encoded.values()) == pytest.approx(5, abs=1e-6)
    assert graph.encode([row]).dtype == torch.float32
    assert graph.encode([]).shape == (0, 14)


def test_missing_values_are_left_out_and_stay_missing(graph: FittedGraph) -> None:
    row = ROWS[0] | {"contrast": "", "sex": ""}
    assert set(graph.abduct(row, generator())) == {"site", "scanner", "age", "height"}
    after = graph.intervene(row, {"scanner": "B", "sex": "M"}, generator=generator())
    assert after["contrast"] == ""
    assert (after["scanner"], after["sex"]) == ("B", "M")
    assert after["height"] != row["height"]  # its parent is now known
    sampled = graph.sample(1, generator())[0]
    assert all(sampled.values())


def test_a_missing_parent_is_learnt_by_its_indicator() -> None:
    rng = np.random.default_rng(9)
    rows = []
    for index in range(900):
        scanner = "ABB"[index % 3]
        value = {"A": 0.0, "B": 4.0}[scanner] + rng.normal()
        hidden = rng.random() < 0.3
        rows.append({"scanner": "" if hidden else scanner, "value": repr(float(value)) if index % 7 else ""})
    declared = {
        "scanner": DeclaredAttribute(mechanism="logistic"),
        "value": DeclaredAttribute(kind="continuous", parents=("scanner",), mechanism="gaussian"),
    }
    graph = CausalGraph(attributes=declared).fit(rows, generator())
    grid = [repr(float(v)) for v in np.linspace(-15, 20, 701)]
    for scanner, (mean, spread) in {"A": (0, 1), "B": (4, 1), "": (8 / 3, math.sqrt(1 + 32 / 9))}.items():
        terms = graph.log_prob([{"scanner": scanner, "value": v} for v in grid]) - graph.log_prob(
            [{"scanner": scanner}]
        )
        density = terms.exp().numpy() * 0.05
        values = np.array(list(map(float, grid)))
        assert density.sum() == pytest.approx(1, abs=1e-3)
        assert (density * values).sum() == pytest.approx(mean, abs=0.25)
        assert math.sqrt((density * (values - (density * values).sum()) ** 2).sum()) == pytest.approx(spread, rel=0.12)


def test_where_a_parent_was_never_missing_the_average_stands_in(graph: FittedGraph) -> None:
    row = ROWS[0] | {"sex": "", "height": repr(graph.attributes[5].mean)}
    assert abs(float(graph.abduct(row)["height"])) < 0.1


def test_an_impossible_intervention_is_one_sentence(graph: FittedGraph) -> None:
    with pytest.raises(ConfigError, match=r"intervention scaner = 'B': not an attribute .* mean 'scanner'.*E-CFG-56"):
        graph.intervene(ROWS[0], {"scaner": "B"})
    with pytest.raises(ConfigError, match=r"intervention site = 'nort': .*never seen.*did you mean 'north'.*E-CFG-57"):
        graph.intervene(ROWS[0], {"site": "nort"})
    with pytest.raises(ConfigError, match=r"intervention age = 'old': 'old' is not a finite number"):
        graph.intervene(ROWS[0], {"age": "old"})


def test_a_row_with_a_value_that_was_never_seen_is_one_sentence(graph: FittedGraph) -> None:
    with pytest.raises(DataError, match=r"^row 2: attribute 'scanner': 'C' was never seen .*known are A, B.*E-DAT-30"):
        graph.encode([ROWS[0], ROWS[1] | {"scanner": "C"}])


def test_moving_a_class_without_its_noise_is_an_error_of_the_caller(graph: FittedGraph) -> None:
    row = ROWS[0] | {"site": "north"}
    with pytest.raises(ValueError, match="'scanner' must move, but its noise was not abducted; give a generator"):
        graph.intervene(row, {"site": "south"})
    assert graph.intervene(row, {"sex": other(row["sex"])})["scanner"] == row["scanner"]
