"""Everything that decides a run, as one frozen object; `config.toml` in the run folder is its resolved form."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from scantling.config import Config, at_most_version
from scantling.data.case import LabelKind
from scantling.errors import ConfigError
from scantling.networks import Tune
from scantling.training.loop_state import LoopConfig

SCHEMA_VERSION: Final = 1


class DataConfig(Config):
    """Which images, which labels, who is held out.

    Attributes:
        classes: only these classes; what the others stored becomes background. Empty means all.
        label_kinds: annotations that may be learnt from, best first.
        train_on, test_on: columns and values that choose the training and the held-out cases
            (`{"site": "shenzhen"}`); they replace `fold`.
        fold: the held-out fold; "none" trains on every labelled case and can give no score.
        labels: how many labelled training cases may be used; the rest counts as unlabelled.
        scored_kinds: of a run that learns features: the annotations by which patients are held out and features are
            measured, those that fine-tuning will be scored by. Where no case has one, `label_kinds` are taken. Such a
            run learns from labels of `label_kinds`, if its method reads any: silver ones, unless others are named.
        trust: by kind of label, in [0, 1], as `{"silver" = 0.5}`: multiplied into the weight of every pixel of such a
            label, on top of what `cases.csv` says (`weight`). Kinds that are not named count in full.
        choose_on: who chooses the checkpoint: patients of the training side, or, as published tables of contrastive
            pretraining did, the held-out cases themselves, with normalisation as in training. The score then promises
            more than new patients will see, and the report says so.
        allow_leak: let patients stand on two sides, those that `init` has learnt from included.
    """

    path: str
    layout: str | None = None
    classes: tuple[str, ...] = ()
    label_kinds: tuple[LabelKind, ...] = ("full", "slices")
    train_on: dict[str, str] = Field(default_factory=dict)
    test_on: dict[str, str] = Field(default_factory=dict)
    fold: Annotated[int, Field(ge=0)] | Literal["none"] = 0
    labels: int | None = Field(default=None, ge=1)
    scored_kinds: tuple[LabelKind, ...] = ("full", "slices")
    trust: dict[LabelKind, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    choose_on: Literal["validation", "held_out"] = "validation"
    allow_leak: bool = False


class PlanConfig(Config):
    """What the plan must not decide by itself; None leaves it to the plan.

    Attributes:
        mirror_axes: patch axes along which training mirrors at random and `predict --tta` averages; empty by
            default, because anatomy is not symmetric.
    """

    dimensions: int | None = Field(default=None, ge=2, le=3)
    spacing_mm: tuple[float, ...] | None = None
    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = Field(default=None, ge=1)
    network: Literal["plain_unet", "residual_unet", "scribble_unet", "resnet50_unet"] | None = None
    deep_supervision: bool | None = None
    mirror_axes: tuple[int, ...] | None = None


class RunConfig(Config):
    """A run.

    Attributes:
        settings: of the recipe.
        time_seconds: budget of everything from reading to the held-out score.
        budget_ram_gib: kept by computing a batch in parts and with fewer workers, or the run is refused.
        budget_disk_gib: a run whose forecast is above is refused before it starts.
        init: what to start from: a run folder or its model folder, whose plan is then obeyed too (grid, intensities,
            patch, network), or a file of weights alone (`.safetensors`, `.pth`). What fits is taken.
        tune: what is trained of it: all ("full"), all but the encoder ("frozen"), or the last head alone
            ("linear-probe"). What is not trained keeps its statistics too.
        selection: of a run that learns features: the weights that are kept, the last ones or those with the best
            linear probe on labelled validation patients.
    """

    schema_version: Annotated[int, at_most_version(SCHEMA_VERSION)] = SCHEMA_VERSION
    recipe: str = "supervised"
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    workers: int = Field(default=0, ge=0)
    time_seconds: float | None = Field(default=None, gt=0)
    budget_ram_gib: float | None = Field(default=None, gt=0)
    budget_disk_gib: float | None = Field(default=None, gt=0)
    init: str | None = None
    tune: Tune = "full"
    selection: Literal["last", "probe"] = "last"
    data: DataConfig
    plan: PlanConfig = PlanConfig()
    training: LoopConfig = LoopConfig()


def parse_size(text: str) -> float:
    """GiB of `8G`, `512M`, `0.5T`, or a plain number of GiB; `GB` and `GiB` count alike.

    Raises:
        ConfigError: the text is none of these.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if parts is None or float(parts[1]) == 0:
        raise ConfigError(f"size {text!r}: wanted a size such as 8G or 512M", code="E-CFG-18")
    return float(parts[1]) * {"M": 1 / 1024, "": 1.0, "G": 1.0, "T": 1024.0}[parts[2].upper()]


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `20m`, `1.5h` or `1h30m`.

    Raises:
        ConfigError: the text is none of these.
    """
    parts = re.fullmatch(r"\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*", text)
    if parts is None or not any(parts.groups()):
        raise ConfigError(f"time {text!r}: wanted a duration such as 90s, 20m or 1h30m", code="E-CFG-11")
    hours, minutes, seconds = (float(value or 0) for value in parts.groups())
    if (total := 3600 * hours + 60 * minutes + seconds) <= 0:
        raise ConfigError(f"time {text!r}: must be longer than nothing", code="E-CFG-11")
    return total
