"""Layout strings, presets and the mistakes they catch; oracles are the published strings, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scantling.counterfactuals.hvae_layout import PRESETS, HVAEConfig, Stage, parse_layout
from scantling.errors import ConfigError

CUSTOM: dict[str, Any] = {
    "preset": "custom",
    "encoder": "16b1d2,8b1d8,1b1",
    "decoder": "1b1,8b2,16b1",
    "widths": (8, 8, 16),
    "latent_channels": (4, 2),
    "stochastic_up_to": 8,
}


def config(**changes: Any) -> HVAEConfig:
    return HVAEConfig.parse({**CUSTOM, **changes}, where="test")


def test_a_layout_string_is_read_stage_by_stage() -> None:
    assert parse_layout("224b2d2, 112d4,28b3") == (
        Stage(resolution=224, blocks=2, down=2),
        Stage(resolution=112, blocks=0, down=4),
        Stage(resolution=28, blocks=3, down=1),
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("64b", "'64b' is no stage"),
        ("", "'' is no stage"),
        ("b2", "'b2'"),
        ("0b1", "has a zero"),
        ("8b1d0", "has a zero"),
    ],
)
def test_a_part_that_is_no_stage_is_named(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_layout(text)


def test_without_arguments_it_is_the_published_network() -> None:
    assert HVAEConfig() == HVAEConfig(preset="published")
    published = HVAEConfig()
    assert [stage.blocks for stage in published.decoder_stages] == [5, 10, 15, 15, 10, 5, 3]
    assert sum(stage.blocks for stage in published.stochastic_stages) == 55
    assert [stage.resolution for stage in published.stochastic_stages] == [1, 7, 14, 28, 56]
    assert published.dropout == 0.1
    assert published.bottleneck == 4


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_consistent_and_survives_a_file(name: str, tmp_path: Path) -> None:
    preset = HVAEConfig.parse({"preset": name}, where="test")
    preset.save(tmp_path / "hvae.toml")
    assert HVAEConfig.load(tmp_path / "hvae.toml") == preset


def test_what_stands_beside_a_preset_wins_over_it() -> None:
    tiny = HVAEConfig(preset="tiny")
    changed = HVAEConfig.parse({"preset": "tiny", "dropout": 0.25, "scale": "per_pixel"}, where="test")
    assert (changed.dropout, changed.scale) == (0.25, "per_pixel")
    assert changed.encoder == tiny.encoder
    assert tiny.dropout != 0.25


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": "16b1d2,4b1d4,1b1", "decoder": "1b1,4b2,16b1"}, "16 divided by 2 is not 4"),
        ({"encoder": "16b1,8b1d8,1b1"}, "16 divided by 1 is not 8"),
        ({"decoder": "1b1,8b2d2,16b1"}, "only the encoder goes down"),
        ({"encoder": "16b1d2,8b1d8,1b1d2"}, "only the encoder goes down"),
        ({"decoder": "1b1,16b2,8b1"}, "must be the encoder's in reverse order"),
        ({"decoder": "1b1,8d2,16b1"}, "only the encoder goes down"),
        ({"decoder": "1b1,8b0,16b1"}, "every stage needs at least one block"),
        ({"widths": (8, 16)}, "for each of 3 encoder stages"),
        ({"widths": (8, 0, 16)}, "at least 1 for each of 3"),
        ({"latent_channels": (4,)}, "for each of 2 stages of resolution up to 8"),
        ({"latent_channels": (4, 0)}, "for each of 2 stages"),
        ({"preset": "tinny"}, "did you mean 'tiny'"),
        ({"dropot": 0.1}, "did you mean 'dropout'"),
        ({"encoder": "16x1"}, "'16x1' is no stage"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(**changes)


def test_a_custom_layout_must_say_everything() -> None:
    with pytest.raises(ConfigError, match="widths"):
        HVAEConfig.parse({key: value for key, value in CUSTOM.items() if key != "widths"}, where="test")


def test_an_image_of_another_size_gets_the_same_strides_and_one_pixel_at_the_end() -> None:
    assert config().stage_sizes((16, 16)) == {16: (16, 16), 8: (8, 8), 1: (1, 1)}
    assert config().stage_sizes((32, 6)) == {16: (32, 6), 8: (16, 3), 1: (1, 1)}
    assert config(patch=4).stage_sizes((32, 8, 16)) == {16: (8, 2, 4), 8: (4, 1, 2), 1: (1, 1, 1)}


def test_a_coarsest_stage_above_one_pixel_keeps_its_map() -> None:
    without = config(encoder="16b1d2,8b1", decoder="8b2,16b1", widths=(8, 8), latent_channels=(4,))
    assert without.stage_sizes((32, 32)) == {16: (32, 32), 8: (16, 16)}


def test_a_size_the_strides_do_not_divide_is_refused_with_the_step() -> None:
    with pytest.raises(ConfigError, match="divides every axis by 8; resize, crop or pad to multiples of 8"):
        config(patch=4).stage_sizes((32, 12))
