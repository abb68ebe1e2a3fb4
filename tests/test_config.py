from __future__ import annotations

from pathlib import Path

import pytest

from scantling.config import Config, apply_overrides, nearest
from scantling.errors import ConfigError


class Inner(Config):
    learning_rate: float = 0.1
    name: str | None = None


class Outer(Config):
    seed: int = 0
    inner: Inner = Inner()


def test_a_misspelt_key_is_an_error_that_suggests_the_right_one_at_any_depth() -> None:
    with pytest.raises(ConfigError, match=r"file\.toml: unknown setting 'sede'; did you mean 'seed'\?"):
        Outer.parse({"sede": 1}, where="file.toml")
    with pytest.raises(ConfigError, match=r"'inner.learning_rat'; did you mean 'learning_rate'\?"):
        Outer.parse({"inner": {"learning_rat": 1}}, where="x")


def test_a_wrong_value_names_the_setting_and_the_value() -> None:
    with pytest.raises(ConfigError, match=r"inner.learning_rate = 'fast'"):
        Outer.parse({"inner": {"learning_rate": "fast"}}, where="x")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=3", 3),
        ("inner.learning_rate=1e-3", 1e-3),
        ("inner.name=no", "no"),
        ("inner.name='0123'", "0123"),
    ],
)
def test_overrides_are_read_as_toml_and_else_as_text(override: str, expected: object) -> None:
    outer = Outer.parse(apply_overrides({}, [override]), where="x")
    values = {
        "seed": outer.seed,
        "inner.learning_rate": outer.inner.learning_rate,
        "inner.name": outer.inner.name,
    }
    assert values[override.split("=")[0]] == expected


@pytest.mark.parametrize("override", ["seed", "=3", "seed.deeper=1"])
def test_an_override_that_makes_no_sense_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides({"seed": 1}, [override])


def test_an_override_does_not_touch_the_mapping_it_is_laid_over() -> None:
    values = {"inner": {"learning_rate": 1.0}}
    apply_overrides(values, ["inner.learning_rate=2.0"])
    assert values == {"inner": {"learning_rate": 1.0}}


def test_saved_settings_read_back_equal_and_none_is_left_out(tmp_path: Path) -> None:
    outer = Outer(seed=7, inner=Inner(learning_rate=3.0))
    outer.save(tmp_path / "c.toml")
    assert "name" not in (tmp_path / "c.toml").read_text()
    assert Outer.load(tmp_path / "c.toml") == outer
    assert Outer.load(tmp_path / "c.toml", overrides=["seed=8"]).seed == 8


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe", b"seed = 01"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.toml: not valid TOML"):
        Outer.load(tmp_path / "c.toml")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfseed = 5\r\n")
    assert Outer.load(tmp_path / "c.toml").seed == 5


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        Outer.load(tmp_path / "absent.toml")


def test_nearest_lists_what_there_is_when_nothing_is_close() -> None:
    assert nearest("zzz", ["alpha", "beta"]) == "; known are alpha, beta"
