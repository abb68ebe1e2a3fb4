from __future__ import annotations

from pathlib import Path

import pytest

from scantling.counterfactuals.table import column, in_order, kind_of, number, table_of
from scantling.data.case import Case, ClassTable
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError


def manifest(*cases: Case) -> Manifest:
    return Manifest(root=Path(), name="m", layout="cases_csv", classes=ClassTable.of({"lung": 1}), cases=tuple(cases))


def case(name: str, **facts: object) -> Case:
    return Case(case_id=name, images=(Path(f"{name}.png"),), **facts)  # type: ignore[arg-type]


def test_a_table_has_the_real_cases_and_every_column_that_any_of_them_fills() -> None:
    rows = table_of(
        manifest(
            case("a", scanner="A", attributes={"sex": " F "}),
            case("b", attributes={"age": "61", "empty": " "}),
            case("b-do", scanner="B", counterfactual_of="b", attributes={"intervention": "scanner=B"}),
        )
    )
    assert rows == ({"scanner": "A", "sex": "F", "age": ""}, {"scanner": "", "sex": "", "age": "61"})


def test_an_unknown_column_names_the_nearest_and_an_empty_one_is_refused() -> None:
    rows = [{"scanner": "A", "sex": ""}, {"scanner": "B", "sex": " "}]
    with pytest.raises(ConfigError, match=r"'scaner': no such column in the table; did you mean 'scanner'.*E-CFG-53"):
        column(rows, "scaner")
    with pytest.raises(ConfigError, match=r"'sex': no case has a value; leave it out.*E-CFG-54"):
        column(rows, "sex")
    with pytest.raises(ConfigError, match=r"'sex': no such column in the table, which is empty"):
        column([], "sex")


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["F", "M", "", "M"], "binary"),
        (["0", "1"] * 9, "binary"),
        (["1.5", "3"] * 9, "binary"),
        (["A", "B", "C"] * 4, "categorical"),
        (["0", "1", "2", "3"] * 8, "categorical"),
        (["1.5", "3.0", "7"] * 8, "categorical"),
        (["0", "1", "2", "3"], "continuous"),
        ([str(40 + (7 * i) % 31) for i in range(200)], "continuous"),
        ([f"{i / 7:.3f}" for i in range(60)], "continuous"),
        (["-1e3", "2.5", "", "1_0"] * 3, "categorical"),
    ],
)
def test_the_kind_of_a_column_follows_from_its_values(texts: list[str], kind: str) -> None:
    assert kind_of("x", texts) == kind


def test_a_declared_kind_holds_where_the_values_allow_it() -> None:
    assert kind_of("x", ["0", "1", "2"] * 9, "continuous") == "continuous"
    assert kind_of("x", ["0", "1"] * 9, "categorical") == "categorical"
    assert kind_of("x", [str(i) for i in range(20)] * 2, "categorical") == "categorical"


@pytest.mark.parametrize(
    ("texts", "declared", "sentence", "code"),
    [
        (["A", "A", ""], "auto", r"every case has the value 'A', so nothing can be learnt", "E-CFG-54"),
        (["3", "3"], "continuous", r"every case has the value '3'", "E-CFG-54"),
        (["A", "B", "C"] * 3, "binary", r"declared binary but has 3 different values \('A', 'B', 'C'\)", "E-CFG-55"),
        (["1", "x", "nan", "2"], "continuous", r"2 of 4 values are not finite numbers \('x', 'nan'\)", "E-CFG-55"),
        ([f"p{i}" for i in range(9)], "auto", r"9 different values in 9 cases, so it names the cases", "E-CFG-55"),
        ([str(i) for i in range(101, 161)], "auto", r"60 different values in 60 cases, so it names", "E-CFG-55"),
        ([f"p{i}" for i in range(9)], "categorical", r"names the cases rather than describes them", "E-CFG-55"),
        (
            [f"{i}.5" for i in range(30)] + ["unknown", "?"],
            "auto",
            r"numbers but for 'unknown', '\?'; empty those cells, and it is continuous",
            "E-CFG-55",
        ),
    ],
)
def test_a_column_that_cannot_be_used_says_why(texts: list[str], declared: str, sentence: str, code: str) -> None:
    with pytest.raises(ConfigError, match=f"attribute 'x': .*{sentence}") as caught:
        kind_of("x", texts, declared)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_values_are_sorted_as_numbers_where_all_are_numbers() -> None:
    assert in_order(("10", "9", "-1.5")) == ("-1.5", "9", "10")
    assert in_order(("10", "9", "x")) == ("10", "9", "x")


def test_only_finite_numbers_are_numbers() -> None:
    assert [number(text) for text in ("1e2", " 3 ", "inf", "nan", "1_0", "", "a")] == [100, 3] + [None] * 5
