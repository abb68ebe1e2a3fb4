"""The whole road where images without full labels are there: features from all, fine-tuning, and what that added.

In the run folder, which is that of the fine-tuning, are `features/`, the run that it starts from, on request
`labels-only/`, the same training without it at the same budget, and `road.json`, what of all this is to be done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from scantling.config import Config, at_most_version, nearest
from scantling.data.layouts import open_dataset
from scantling.errors import ConfigError, DataError
from scantling.files import new_folder, read_json, write_json
from scantling.inference.device import resolve_device
from scantling.processes import process_rank
from scantling.recipes import RECIPES
from scantling.training import train as training
from scantling.training.config import DataConfig, RunConfig
from scantling.training.distributed import joined_processes, wait_for_all
from scantling.training.feature_split import is_labelled, scored_kinds, tuning_split
from scantling.training.progress import Display, duration
from scantling.training.run_folder import CONTROL, FEATURES, ROAD, TOO_SHORT, RunFolder
from scantling.training.run_lock import refuse_if_training
from scantling.workflows.added import added, images
from scantling.workflows.finish import finish
from scantling.workflows.result import RunResult
from scantling.workflows.settings import resolved, under

SCHEMA_VERSION: Final = 1
WITHOUT_LABELS: Final = "dvd_cl"
FROM_SILVER: Final = "segmentation"
"""Where at least half of the further images have silver labels: what did best of all so far (docs/cxr.md)."""
_LARGEST_SHARE: Final = 0.5
"""Of the budget, for learning features; less where there are fewer images without labels than with."""
_SHORTEST_TUNING: Final = 0.2
"""Of the budget, whatever learning features took."""
FEWEST_STEPS: Final = 50
"""Of learning features by the clock: with 21 they did harm on phantoms, see `docs/lab-notes.md`."""

Stage = Literal["features", "tuned", "labels-only"]
_HEADS: Final[Mapping[Stage, str]] = {
    "features": "Learning features from all images.",
    "tuned": "Fine-tuning on the labelled images.",
    "labels-only": "Training on labels alone, at the same budget.",
}


class WholeRoad(Config):
    """What is to be done, as `road.json` keeps it.

    Attributes:
        method: by which features are learnt.
        more: images of the training side that fine-tuning does not learn from; `silver` of them have silver labels.
        features, tuned, labels_only: the runs; the last one is None where nothing is to be compared.
    """

    schema_version: Annotated[int, at_most_version(SCHEMA_VERSION)] = SCHEMA_VERSION
    method: str
    more: int
    silver: int
    labelled: int
    features: RunConfig
    tuned: RunConfig
    labels_only: RunConfig | None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The runs, in order."""
        return ("features", "tuned") if self.labels_only is None else ("features", "tuned", "labels-only")

    def sentence(self) -> str:
        """What will happen, and how to have it otherwise."""
        kinds = f"{images(self.more)} without full labels"
        if self.silver:
            kinds += f" ({self.silver} with silver ones)"
        kept = "; their encoder stays as it is" if self.tuned.tune == "frozen" else ""
        last = "; then labels alone, at the same budget" if self.labels_only is not None else ""
        return (
            f"The training side has {kinds} beside {self.labelled} labelled: features are learnt from all of them "
            f"first, by {self.method.replace('_', '-')} ({_length(self.features)}), and fine-tuned on the labelled "
            f"ones{kept}{last}. --pretrain none leaves that out."
        )


def plan_road(
    config: RunConfig,
    of_features: Mapping[str, Any],
    *,
    wanted: str | None,
    compare: bool,
    free: bool,
    tune_free: bool = False,
) -> WholeRoad | None:
    """The road for a run, or None where it is one run alone.

    Args:
        config: of the fine-tuning.
        of_features: what learning features is to have otherwise, as nested settings.
        wanted: a method, "none", or None and "auto": by itself where images without full labels are there.
        compare: also labels alone.
        free: whether the recipe and what the run starts from are left to us.
        tune_free: whether what is trained of the features is left to us, too: with a single labelled image their
            encoder stays as it is, which on phantoms and radiographs was much better, and no worse on the
            hippocampus (`docs/lab-notes.md`).

    Raises:
        ConfigError: no such method; or it cannot be had together with what else was asked for; or there is nothing
            to compare.
        DataError: there is nothing to train on.
    """
    method = None if wanted in (None, "auto", "none") else str(wanted).replace("-", "_")
    if method is not None:
        require_method(method)
        if not free:
            raise ConfigError(
                f"--pretrain {wanted}: the run has a --recipe, an --init or a --plan of its own; leave that out, or "
                "use 'pretrain' and 'train --init RUN'",
                code="E-CFG-75",
            )
    if wanted == "none" or not free:
        if compare:
            raise ConfigError(
                "--compare: tells what images without labels add, and this run uses none; leave out --recipe, --init, "
                "--plan and --pretrain none, or compare two runs with 'evaluate --paired'",
                code="E-CFG-76",
            )
        return None
    manifest = open_dataset(Path(config.data.path), layout=config.data.layout)
    data = config.data.model_copy(update={"scored_kinds": config.data.label_kinds})
    if not scored_kinds(manifest, data):
        return None  # nothing to fine-tune on: the run itself will say so
    split = tuning_split(manifest, data, seed=config.seed)
    more = [manifest.case(case) for case in split.unlabelled]
    if not more and method is None:
        if compare:
            raise ConfigError(
                f"--compare: every training image of {manifest.name} has its labels, so there is nothing to add; leave "
                "it out, or use fewer with --labels",
                code="E-CFG-76",
            )
        return None
    silver = sum(is_labelled(case, ("silver",)) for case in more)
    method = method or (FROM_SILVER if 2 * silver >= len(more) else WITHOUT_LABELS)
    share = _LARGEST_SHARE if not more else min(_LARGEST_SHARE, len(more) / (len(more) + len(split.train)))
    fewest = FEWEST_STEPS if wanted in (None, "auto") else 0
    features = _features(config, data, of_features, method, share, fewest)
    kept = tune_free and len(split.train) == 1
    return WholeRoad(
        method=method,
        more=len(more),
        silver=silver,
        labelled=len(split.train),
        features=features,
        tuned=config.model_copy(update={"tune": "frozen"}) if kept else config,
        labels_only=_labels_only(config, features) if compare else None,
    )


def start_road(road: WholeRoad, out: Path, *, overwrite: bool, display: Display) -> RunResult:
    """Begin in a new folder, and go to the end.

    Raises:
        ConfigError: the folder is in use.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    with joined_processes(resolve_device(road.tuned.device)):
        if process_rank() == 0:
            for folder in _folders(out).values():
                refuse_if_training(folder)
            new_folder(out, overwrite=overwrite)
            write_json(out / ROAD, road.model_dump(mode="json"))
        wait_for_all()
        try:
            return _go(road, out, display)
        except (ConfigError, DataError):
            if process_rank() == 0 and [path.name for path in out.iterdir()] == [ROAD]:
                shutil.rmtree(out)  # nothing was trained: the name is free again
            raise


def continue_road(out: Path, *, display: Display) -> RunResult:
    """Go on where a road stopped.

    Raises:
        DataError: all of it is done.
    """
    road = WholeRoad.parse(read_json(out / ROAD), where=str(out / ROAD))
    with joined_processes(resolve_device(road.tuned.device)):
        if (out / "report.html").is_file() and not _ahead(road, out):
            raise DataError(
                f"{out.name}: the run is finished; make its fine-tuning longer with --steps or --time, start a new one "
                "with 'train', or use its model with 'predict'",
                code="E-RUN-02",
            )
        return _go(road, out, display)


def _go(road: WholeRoad, out: Path, display: Display) -> RunResult:
    for stage in road.stages:
        wait_for_all()  # what the first process wrote last is there
        is_ahead, state, folder = stage in _ahead(road, out), _state(out, stage), _folders(out)[stage]
        wait_for_all()  # and all have read it
        if not is_ahead:
            continue
        display.say(_HEADS[stage])
        if state == "":
            parts = (ROAD, FEATURES) if stage == "tuned" else ()
            run = training.start(_config(road, stage, out), folder, around=parts, display=display)
        else:
            run = training.resume(folder, display=display)
        if folder != out or road.labels_only is not None:  # else at once, below
            finish(run)
    run = RunFolder(out, writable=process_rank() == 0)
    if _state(out, "features") == TOO_SHORT:
        run.update(baseline={"sentence": _left_out(road, out)})
    elif road.labels_only is not None:
        with_them, without = (RunResult.read(RunFolder(folder)).evaluation for folder in (out, out / CONTROL))
        run.update(baseline=added(with_them, without, what=images(road.more), folder=CONTROL, seed=road.tuned.seed))
    return finish(run)


def _ahead(road: WholeRoad, out: Path) -> list[Stage]:
    """The runs that are not finished, in order; without features there is nothing to compare."""
    states = {stage: _state(out, stage) for stage in road.stages}
    if states["features"] == TOO_SHORT:
        states = {"tuned": states["tuned"]}
    return [stage for stage, state in states.items() if state != "finished"]


def _left_out(road: WholeRoad, out: Path) -> str:
    foreseen = RunFolder(out / FEATURES).status()["forecast"]["steps"]
    return (
        f"{images(road.more)} without full labels were not used: the time allows {foreseen} steps of learning from "
        f"them, and fewer than {road.features.training.fewest_steps} do harm rather than good; give more time, or set "
        "pretraining.training.fewest_steps to 0."
    )


def _config(road: WholeRoad, stage: Stage, out: Path) -> RunConfig:
    """The settings of a run, whose budget is what is left."""
    if stage == "features":
        return road.features
    if stage == "labels-only" and road.labels_only is not None:
        return road.labels_only
    features = RunFolder(out / FEATURES).status()
    start = {"init": str((out / FEATURES).resolve())}
    update: dict[str, Any] = {"tune": "full"} if features["status"] == TOO_SHORT else start
    if road.tuned.time_seconds is not None:
        taken = float(features.get("seconds", 0.0))
        update["time_seconds"] = max(road.tuned.time_seconds - taken, _SHORTEST_TUNING * road.tuned.time_seconds)
    return road.tuned.model_copy(update=update)


def _folders(out: Path) -> dict[Stage, Path]:
    return {"features": out / FEATURES, "tuned": out, "labels-only": out / CONTROL}


def _state(out: Path, stage: Stage) -> str:
    """The status of a run; "" before it began."""
    folder = _folders(out)[stage]
    try:
        return str(RunFolder.open(folder).status()["status"])
    except DataError:
        return ""


def _features(
    config: RunConfig, data: DataConfig, otherwise: Mapping[str, Any], method: str, share: float, fewest: int
) -> RunConfig:
    """Learning features for a share of the budget."""
    ratio = share / (1 - share)
    steps, seconds, whole = config.training.steps, config.training.seconds, config.time_seconds
    kept = config.model_dump(include={"seed", "device", "workers", "budget_ram_gib", "budget_disk_gib", "plan"})
    length = {
        "steps": None if steps is None else max(1, round(ratio * steps)),
        "seconds": None if seconds is None else ratio * seconds,
        "steps_per_epoch": config.training.steps_per_epoch,
        "fewest_steps": fewest,
    }
    values = {
        **kept,
        "recipe": method,
        "data": data.model_dump(exclude={"label_kinds"}),
        "time_seconds": None if whole is None else share * whole,
        "training": length,
    }
    return resolved(under(values, otherwise))


def _labels_only(config: RunConfig, features: RunConfig) -> RunConfig:
    """The same without features, all of it trained, for as long as both together: by the clock, or in as many steps."""
    own, other = config.training, features.training
    length = {
        "steps": None if own.steps is None else own.steps + (other.steps or 0),
        "seconds": None if own.seconds is None else own.seconds + (other.seconds or 0.0),
    }
    return config.model_copy(update={"training": own.model_copy(update=length), "tune": "full"})


def require_method(method: str) -> None:
    """Refuse what learns no features.

    Raises:
        ConfigError: naming the methods there are.
    """
    if method not in RECIPES or RECIPES[method].learns != "features":
        methods = [name.replace("_", "-") for name, known in RECIPES.items() if known.learns == "features"]
        written = method.replace("_", "-")
        raise ConfigError(f"method {written!r}: learns no features{nearest(written, methods)}", code="E-CFG-73")


def _length(config: RunConfig) -> str:
    if config.training.steps is not None:
        return f"{config.training.steps} steps"
    return duration(config.time_seconds or config.training.seconds or 0.0)
