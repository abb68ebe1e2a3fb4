"""Methods compared under a named protocol: `clean`, to be believed, or `published`, to stand beside a paper's table.

| | clean | published |
| --- | --- | --- |
| features are learnt from | patients that are neither held out nor validated on | every image, the scored ones too |
| the checkpoint is chosen by | patients of the training side, or it is the last one | the scored cases themselves |
| normalisation when scored | as in use | by the statistics of what is scored, as in training |
| repeated | with at least 3 seeds | over the folds |
| labels alone get | the budget of features and fine-tuning together | that of fine-tuning |
| a row says | mean, interval, paired difference to labels alone | mean and deviation over folds of the best Dice |

Source of `published`: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning", as its released
code evaluates. Differs: the best epoch is that of the Dice, not of each metric; statistics are those of one image, not
of 64; the length is the user's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from scantling.config import Config, apply_overrides, at_most_version
from scantling.data.layouts import open_dataset
from scantling.errors import ConfigError, DataError
from scantling.evaluation.results import Evaluation
from scantling.files import read_json, write_json
from scantling.inference.model_folder import read_model_facts
from scantling.recipes import RECIPES
from scantling.sealed_folder import MODEL
from scantling.training.config import DataConfig, parse_duration
from scantling.training.feature_split import tuning_split
from scantling.training.run_folder import CONTROL, STATUS, RunFolder
from scantling.workflows.pretrain import pretrain
from scantling.workflows.protocol_table import ProtocolTable, best_of_folds, clean_rows
from scantling.workflows.result import RunResult
from scantling.workflows.train import resume, train
from scantling.workflows.whole_road import require_method

Name = Literal["clean", "published"]
PROTOCOLS: Final[tuple[Name, ...]] = ("clean", "published")
LABELS_ONLY: Final = "labels-only"
FEWEST_SEEDS: Final = 3
SCHEMA_VERSION: Final = 1
_FILE: Final = "protocol.json"
_NOTES: Final = {
    "clean": "Differences are to labels alone at the same budget, by patient; p of the Wilcoxon signed-rank test.",
    "published": "Not the score of new patients: features have seen these cases, and each fold shows its best epoch on "
    "them. For comparison with published tables alone.",
}
_PUBLISHED_TUNING: Final = (
    "settings.dice_weight=0.0", "training.optimisation.learning_rate=3e-3", "training.optimisation.average_decay=0.0",
    "data.choose_on=held_out", "data.allow_leak=true",
)  # fmt: skip


class Protocol(Config):
    """What is compared, as `protocol.json` keeps it.

    Attributes:
        methods: by which features are learnt; labels alone are always among the rows.
        seeds: of `clean`; `published` has one.
        steps, seconds: length of a run, one of the two; see `protocol`.
        settings: of fine-tuning, or with `pretraining.` before them of learning features.
    """

    schema_version: Annotated[int, at_most_version(SCHEMA_VERSION)] = SCHEMA_VERSION
    name: Name
    data: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: int | None = None
    steps: int | None = None
    seconds: float | None = None
    settings: tuple[str, ...] = ()
    device: str = "auto"


def protocol(
    name: str,
    data: Path | str,
    out: Path | str,
    *,
    methods: str | Sequence[str] = ("dvd-cl",),
    seeds: int = FEWEST_SEEDS,
    labels: int | None = None,
    steps: int | None = None,
    time: str | float | None = None,
    settings: Sequence[str] = (),
    device: str = "auto",
    quiet: bool = True,
) -> ProtocolTable:
    """Train every method as the protocol says, and write the table; `scantling protocol` is this call.

    Every run is a run folder in `out`; after any stop the same call goes on.

    Args:
        name: "clean" or "published".
        methods: of `pretrain`.
        steps: of each fine-tuning; learning features takes as many, or fewer where `train` says so.
        time: of features and fine-tuning together (`published`: of each of them); 10 minutes where neither is given.

    Raises:
        ConfigError: an unknown protocol or method, too few seeds, or `out` holds another comparison.
        DataError: there is nothing to learn from, or nobody would be scored.
    """
    wanted = _wanted(name, data, methods, seeds, labels, steps, time, settings, device)
    folder = Path(out)
    if (folder / _FILE).is_file():
        known = Protocol.parse(read_json(folder / _FILE), where=str(folder / _FILE))
        if known != wanted:
            raise ConfigError(
                f"{folder}: holds another comparison ({_FILE}); give it the same options to go on, or choose another "
                "folder",
                code="E-CFG-77",
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: already exists and is not empty; choose another folder", code="E-CFG-04")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FILE, wanted.model_dump(mode="json"))
    rows = _clean(wanted, folder, quiet) if wanted.name == "clean" else _published(wanted, folder, quiet)
    table = ProtocolTable(folder=folder, rows=tuple(rows), notes=(_NOTES[wanted.name],))
    table.save()
    return table


def _wanted(
    name: str, data: Path | str, methods: str | Sequence[str], seeds: int, labels: int | None, steps: int | None,
    time: str | float | None, settings: Sequence[str], device: str,
) -> Protocol:  # fmt: skip
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol {name!r}: there is no such; known are {', '.join(PROTOCOLS)}", code="E-CFG-78")
    if steps is not None and time is not None:
        raise ConfigError("--time and --steps: a run ends by the clock or by its steps; give one", code="E-CFG-17")
    if name == "clean" and seeds < FEWEST_SEEDS:
        raise ConfigError(
            f"--seeds {seeds}: the clean protocol wants at least {FEWEST_SEEDS}, because one run is one run",
            code="E-CFG-79",
        )
    named = tuple(methods.split(",") if isinstance(methods, str) else methods)
    recipes = tuple(method.strip().replace("-", "_") for method in named)
    for recipe in recipes:
        require_method(recipe)
    apply_overrides({}, settings)
    seconds = parse_duration(time) if isinstance(time, str) else time
    return Protocol.parse(
        {
            "name": name, "data": str(Path(data).resolve()), "methods": recipes, "labels": labels, "device": device,
            "seeds": tuple(range(seeds)) if name == "clean" else (0,), "steps": steps,
            "seconds": 600.0 if steps is None and seconds is None else seconds, "settings": tuple(settings),
        },
        where="protocol",
    )  # fmt: skip


def _clean(wanted: Protocol, folder: Path, quiet: bool) -> list[dict[str, Any]]:
    """The whole road for each method and seed; that of the first method trains on labels alone as well."""
    found: dict[str, list[Evaluation]] = {name: [] for name in (LABELS_ONLY, *map(_written, wanted.methods))}
    for seed in wanted.seeds:
        for method in wanted.methods:
            out, first = folder / f"{_written(method)}-{seed}", method == wanted.methods[0]
            if not _goes_on(out, quiet):
                train(
                    wanted.data, out, pretrain=method, compare=first, seed=seed, steps=wanted.steps,
                    time=wanted.seconds, labels=wanted.labels, settings=wanted.settings, device=wanted.device,
                    quiet=quiet,
                )  # fmt: skip
            found[_written(method)].append(_evaluation(out))
            if first:
                found[LABELS_ONLY].append(_evaluation(out / CONTROL))
    return clean_rows(found, baseline=LABELS_ONLY, seed=0)


def _published(wanted: Protocol, folder: Path, quiet: bool) -> list[dict[str, Any]]:
    """Features once for each method, then a fine-tuning for each fold."""
    manifest = open_dataset(Path(wanted.data))
    folds = tuning_split(manifest, DataConfig(path=wanted.data, labels=wanted.labels), seed=0).folds
    if not folds:
        raise DataError(
            f"{manifest.name}: has no folds (its authors divided it, or too few patients have labels), and the "
            "published protocol is a mean over folds; use the clean one",
            code="E-RUN-14",
        )
    tuning = [one for one in wanted.settings if not one.startswith("pretraining.")]
    common: dict[str, Any] = {
        "steps": wanted.steps, "time": wanted.seconds, "labels": wanted.labels, "device": wanted.device, "quiet": quiet
    }  # fmt: skip
    found: dict[str, list[float]] = {}
    for method in ("", *wanted.methods):
        name = _written(method) or LABELS_ONLY
        start = folder / f"{name}-features" if method else None
        if start is not None and not _goes_on(start, quiet):
            pretrain(
                wanted.data, start, method=method, fold="none", settings=_released(method, wanted), **common
            )  # fmt: skip
        for fold in folds:
            out = folder / f"{name}-fold-{fold}"
            if not _goes_on(out, quiet):
                train(
                    wanted.data, out, recipe="supervised", init=start, fold=fold,
                    settings=(*_PUBLISHED_TUNING, *tuning), **common,
                )  # fmt: skip
            chosen = read_model_facts(out / MODEL).meta.get("selected_on") or {}
            found.setdefault(name, []).append(float(chosen.get("validation_mean_dice", math.nan)))
    return best_of_folds(found)


def _released(method: str, wanted: Protocol) -> tuple[str, ...]:
    """Settings of features as the released code learns them."""
    own = [one.removeprefix("pretraining.") for one in wanted.settings if one.startswith("pretraining.")]
    return ("data.allow_leak=true", *RECIPES[method].published, *own)


def _goes_on(run: Path, quiet: bool) -> bool:
    """Whether a run is there, and then finished."""
    if not run.is_dir():
        return False
    states = [RunFolder.open(part).status()["status"] for part in (run, run / CONTROL) if (part / STATUS).is_file()]
    is_whole = (run / "report.html").is_file() and all(state == "finished" for state in states)
    if not is_whole:
        resume(run, quiet=quiet)
    return True


def _evaluation(run: Path) -> Evaluation:
    found = RunResult.read(RunFolder.open(run)).evaluation
    if found is None:
        raise DataError(
            f"{run.name}: nobody was held out, so there is nothing to compare; label more patients, or give cases the "
            "split 'test'",
            code="E-RUN-15",
        )
    return found


def _written(method: str) -> str:
    return method.replace("_", "-")
