from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scantling.counterfactuals.attributes import Attribute, DeclaredAttribute, encoded, found
from scantling.errors import ConfigError, DataError

SEX = found("sex", DeclaredAttribute(), ["F", "M", "M", "", "M"])
GRADE = found("grade", DeclaredAttribute(kind="categorical"), ["1", "2", "3.0", "2"] * 5)
AGE = found("age", DeclaredAttribute(kind="continuous"), ["40", "50", "", "75.5"])


def test_a_binary_attribute_is_0_or_1_and_a_missing_one_is_0_with_an_indicator() -> None:
    assert SEX.column_names == ("sex = M", "sex is missing")
    assert encoded(SEX, SEX.read(["F", "M", ""])).tolist() == [[0, 0], [1, 0], [0, 1]]


def test_a_categorical_attribute_is_one_hot_in_the_order_of_its_values() -> None:
    assert GRADE.column_names == ("grade = 1", "grade = 2", "grade = 3.0", "grade is missing")
    numbers = GRADE.read(["3", "1.0", " ", "2"])
    assert encoded(GRADE, numbers).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert [GRADE.write(float(value)) for value in numbers] == ["3.0", "1", "", "2"]


def test_a_continuous_attribute_is_standardised_by_its_known_values() -> None:
    known = np.array([40, 50, 75.5])
    columns = encoded(AGE, AGE.read(["40", "50", "", "75.5"]))
    assert AGE.column_names == ("age", "age is missing")
    np.testing.assert_allclose(columns[[0, 1, 3], 0], (known - known.mean()) / known.std(), rtol=1e-12)
    assert columns[2].tolist() == [0, 1]


def test_centred_columns_have_mean_0_over_the_known_rows_and_are_0_where_missing() -> None:
    for attribute, texts in (
        (SEX, ["F", "M", "M", "", "M"]),
        (GRADE, ["1", "2", "3", "2"] * 5),
        (AGE, ["40", "50", "", "75.5"]),
    ):
        columns = encoded(attribute, attribute.read(texts), centred=True)
        known = torch.tensor([bool(text) for text in texts])
        torch.testing.assert_close(columns[known].mean(dim=0), torch.zeros(columns.shape[1]).double())
        assert (columns[~known, :-1] == 0).all()
        assert (columns[~known, -1] == 1).all()


def test_a_number_written_is_read_again_to_rounding() -> None:
    for value in (-3.3, 0.1, 1 / 3, 12.0):
        assert float(AGE.read([AGE.write(value)])) == pytest.approx(value, rel=1e-14)
    assert AGE.write(math.nan) == ""


def test_values_are_those_seen_in_the_declared_order() -> None:
    declared = DeclaredAttribute(values=("none", "effusion", "mass"))
    finding = found("finding", declared, ["effusion", "none", "none", ""])
    assert (finding.kind, finding.values) == ("categorical", ("none", "effusion"))
    assert finding.shares == pytest.approx((2 / 3, 1 / 3))


def test_two_listed_values_make_an_attribute_binary_and_more_make_it_categorical_even_numbers() -> None:
    two, three = DeclaredAttribute(values=("1", "0")), DeclaredAttribute(values=("3", "2", "1"))
    assert found("x", two, ["0", "1", "1"]).kind == "binary"
    assert found("x", three, ["1", "2", "3", "1", "2", "3"]).values == ("3", "2", "1")


def test_a_value_that_was_never_seen_names_the_nearest_and_its_row() -> None:
    scanner = found("scanner", DeclaredAttribute(), ["Philips", "Imaging"])
    with pytest.raises(DataError, match=r"row 2: attribute 'scanner': 'Phillips' was never.*mean 'Philips'.*E-DAT-30"):
        scanner.read(["Imaging", "Phillips"])
    with pytest.raises(ConfigError, match=r"intervention scanner = 'Phillips': .*did you mean 'Philips'.*E-CFG-57"):
        scanner.wanted("Phillips")
    with pytest.raises(ConfigError, match=r"intervention scanner = '': .*known are Imaging, Philips"):
        scanner.wanted("")


def test_a_continuous_attribute_takes_finite_numbers_only() -> None:
    with pytest.raises(DataError, match=r"^attribute 'age': 'old' is not a finite number"):
        AGE.read(["old"])
    with pytest.raises(ConfigError, match=r"intervention age = nan: 'nan' is not a finite number.*E-CFG-57"):
        AGE.wanted(math.nan)
    assert AGE.wanted(60.5) == "60.5"
    assert GRADE.wanted(3) == "3.0"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "continuous", "values": ["a", "b"]}, "is continuous and has no list of values"),
        ({"kind": "binary", "values": ["a", "b", "c"]}, "is binary, but lists 3 values"),
        ({"values": ["a", "a"]}, r"values \['a', 'a'\]: wanted two or more, each once"),
        ({"values": ["a"]}, "wanted two or more"),
        ({"values": ["a", ""]}, "none empty"),
        ({"kind": "binary", "mechanism": "flow"}, "is binary, and mechanism 'flow' is not .* 'logistic' or 'mlp'"),
        ({"kind": "continuous", "mechanism": "mlp"}, "wanted 'gaussian' or 'flow'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"attribute 'x': .*{sentence}.*E-CFG-55"):
        DeclaredAttribute.parse(settings, where="x").require_possible("x")


def test_a_declaration_that_the_column_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'x': the table has the value 'effusions', which .* mean 'effusion'"):
        found("x", DeclaredAttribute(values=("none", "effusion")), ["effusions", "none"])
    with pytest.raises(ConfigError, match=r"'x': its values make it binary, but mechanism 'flow' is not"):
        found("x", DeclaredAttribute(mechanism="flow"), ["a", "b"])
    with pytest.raises(ConfigError, match=r"'x': its numbers have mean inf and standard deviation inf"):
        found("x", DeclaredAttribute(kind="continuous"), ["1e308", "1.5e308", "1e308"])


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": "binary", "values": ["a"], "shares": [1], "mechanism": "logistic"},
        {"kind": "categorical", "values": ["a", "b"], "shares": [1], "mechanism": "logistic"},
        {"kind": "continuous", "scale": 0, "mechanism": "flow"},
        {"kind": "continuous", "mechanism": "mlp"},
    ],
)
def test_an_attribute_that_cannot_be_is_refused(facts: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="E-CFG-01"):
        Attribute.parse({"name": "x", **facts}, where="file")
