"""train, resume, predict, evaluate, inspect, report: the command line's verbs as functions of plain values."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from scantling.config import apply_overrides
from scantling.data.inspect import Inspection, inspect_dataset, write_lock
from scantling.data.layouts import LAYOUTS, open_dataset
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError
from scantling.evaluation.compare import Comparison, compare_evaluations
from scantling.evaluation.evaluate import Evaluation, evaluate_folders
from scantling.evaluation.surface import Convention
from scantling.files import new_folder
from scantling.inference.predict import PredictionRun, predict_folder
from scantling.recipes import RECIPES
from scantling.reports.pictures import draw_worst_cases
from scantling.reports.report import write_report
from scantling.training import train as training
from scantling.training.config import RunConfig, parse_duration, parse_size
from scantling.training.progress import Display, Silent
from scantling.training.run_folder import RunFolder
from scantling.training.terminal import Terminal
from scantling.workflows.case_progress import case_progress
from scantling.workflows.learnt_cases import learnt_note, record_learnt_cases
from scantling.workflows.misfits import draw_misfits, require_fix, write_copies
from scantling.workflows.result import RunResult

_FEATURE_DEFAULTS: Final = {"data": {"label_kinds": ["silver"]}}
"""Of a run that learns features: labels that a person drew are left for fine-tuning."""


def train(
    data: Path | str,
    out: Path | str | None = None,
    *,
    recipe: str | None = None,
    time: str | float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    labels: int | None = None,
    fold: int | str | None = None,
    classes: str | Sequence[str] | None = None,
    label_kinds: str | Sequence[str] | None = None,
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    dimensions: int | None = None,
    config: Path | str | None = None,
    plan: Path | str | None = None,
    init: Path | str | None = None,
    tune: str | None = None,
    settings: Sequence[str] = (),
    layout: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    budget_ram: str | None = None,
    budget_disk: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
    verbose: bool = False,
) -> RunResult:
    """From a folder to a validated model and a report; `scantling train` is this call.

    Four layers decide a run, weakest first: defaults, what the recipe's defaults change of them, the file `config`,
    what is given here (None gives nothing); `settings` lie on top.

    Args:
        time: budget of the whole run, in seconds or as "20m"; 20 minutes where neither it nor `steps` is given.
        fold: held-out fold; "none" trains on every labelled case.
        train_on, test_on: `column=value` pairs that choose the training and the held-out cases.
        plan: `plan.json` of another run, edited or not, to be obeyed.
        init: run folder or model folder to start from, whose plan is obeyed too unless `plan` is given, or a file of
            weights (`.safetensors`, `.pth`); `transfer.txt` says what fitted.
        tune: what of it is trained: "full", "frozen" (all but the encoder), "linear-probe" (the last head alone).
        budget_ram: "8G"; kept by computing a batch in parts and with fewer workers, or the run is refused.
        budget_disk: "8G"; a run whose forecast is above is refused before it starts.
        settings: `a.b=value` overrides of any field of `RunConfig`.

    Raises:
        ConfigError: a setting is wrong, or the run folder is in use.
        DataError: there is nothing to train on, or `init` has learnt from patients who are held out.
    """
    values: dict[str, Any] = {} if config is None else read_toml(Path(config))
    given: dict[str, Any] = {
        "recipe": recipe, "seed": seed, "device": device, "workers": workers,
        "time_seconds": parse_duration(time) if isinstance(time, str) else time,
        "data.layout": layout, "data.labels": labels, "data.classes": _names(classes),
        "data.label_kinds": _names(label_kinds), "data.train_on": _pairs(train_on) or None,
        "data.test_on": _pairs(test_on) or None, "plan.dimensions": dimensions, "training.steps": steps,
        "budget_ram_gib": None if budget_ram is None else parse_size(budget_ram),
        "budget_disk_gib": None if budget_disk is None else parse_size(budget_disk),
        "init": None if init is None else str(Path(init).resolve()), "tune": tune,
    }  # fmt: skip
    given["data.path"] = str(Path(data).resolve())
    if fold is not None:
        given["data.fold"] = fold if fold == "none" else _whole(fold)
    for name, value in given.items():
        if value is not None:
            _lay(values, name, value)
    values = apply_overrides(values, settings)
    name = values.get("recipe", "supervised")
    if isinstance(name, str) and name in RECIPES:
        values = _under(RECIPES[name].run_defaults, values)
        if RECIPES[name].learns == "features":
            values = _under(_FEATURE_DEFAULTS, values)
    resolved = RunConfig.parse(values, where="train")
    if resolved.training.steps is not None and time is not None:
        raise ConfigError("--time and --steps: a run ends by the clock or by its steps; give one", code="E-CFG-17")
    if resolved.time_seconds is None and resolved.training.steps is None and resolved.training.seconds is None:
        resolved = resolved.model_copy(update={"time_seconds": 1200.0})
    folder = Path(out) if out is not None else _next_run(Path(data))
    run = training.start(
        resolved, folder, plan=None if plan is None else Path(plan), overwrite=overwrite,
        display=_display(quiet, verbose=verbose), dry_run=dry_run,
    )  # fmt: skip
    return _finish(run)


def resume(
    run: Path | str, *, steps: int | None = None, time: str | float | None = None, quiet: bool = True
) -> RunResult:
    """Continue an interrupted run from its last checkpoint, or make a run longer; `scantling resume` is this call.

    Args:
        steps: new length of a run measured in steps.
        time: further training time of a run measured in time, in seconds or as "10m".
    """
    folder = RunFolder.open(Path(run))
    if folder.status()["status"] == "finished" and not (folder.path / "report.html").is_file():
        return _finish(folder)  # stopped between its last score and its report
    seconds = parse_duration(time) if isinstance(time, str) else time
    return _finish(training.resume(Path(run), steps=steps, seconds=seconds, display=_display(quiet)))


def predict(
    run: Path | str,
    images: Path | str,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    tta: bool = False,
    largest_component: bool = False,
    budget_ram: str | None = None,
    quiet: bool = True,
) -> PredictionRun:
    """Segment images with a trained run, each on its own grid and in its own file type.

    Args:
        budget_ram: "8G"; a case that would take more is recorded as failed, and the others go on.
    """
    budget = None if budget_ram is None else int(parse_size(budget_ram) * 2**30)
    with case_progress(quiet) as progress:
        done = predict_folder(
            Path(run), Path(images), Path(out), device=device, overwrite=overwrite, probabilities=probabilities,
            uncertainty=uncertainty, tta=tta, largest_component=largest_component, memory_budget=budget,
            progress=progress,
        )  # fmt: skip
    record_learnt_cases(Path(run), Path(out))
    return done


def score(
    predictions: Path | str,
    reference: Path | str,
    *,
    classes: str | Sequence[str] | None = None,
    tolerance_mm: float = 1.0,
    convention: Convention = "monai",
    seed: int = 0,
    quiet: bool = True,
) -> Evaluation:
    """Score a folder of label maps of any tool against a data set or a folder of reference label maps.

    Args:
        convention: whose surface distances: "monai" (ours), "medpy" or "deepmind", as `evaluation.surface` says.
    """
    with case_progress(quiet) as progress:
        evaluation = evaluate_folders(
            Path(predictions), _reference(Path(reference)), classes=_names(classes), tolerance_mm=tolerance_mm,
            convention=convention, seed=seed, progress=progress,
        )  # fmt: skip
    note = learnt_note(Path(predictions), evaluation.patients)
    return replace(evaluation, notes=(note, *evaluation.notes)) if note else evaluation


def evaluate(
    predictions: Path | str,
    reference: Path | str,
    *,
    paired: Path | str | None = None,
    out: Path | str | None = None,
    classes: str | Sequence[str] | None = None,
    tolerance_mm: float = 1.0,
    convention: Convention = "monai",
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = True,
) -> Evaluation | Comparison:
    """`score`, written to `out` if that is given; with `paired`, the comparison of two folders case by case."""
    folder = None if out is None else new_folder(Path(out), overwrite=overwrite)
    evaluation = score(
        predictions, reference, classes=classes, tolerance_mm=tolerance_mm, convention=convention, seed=seed,
        quiet=quiet,
    )  # fmt: skip
    if folder is not None:
        evaluation.save(folder / "metrics.csv", folder / "evaluation.json")
    if paired is None:
        return evaluation
    other = score(
        paired, reference, classes=classes, tolerance_mm=tolerance_mm, convention=convention, seed=seed, quiet=quiet
    )
    return compare_evaluations(evaluation, other, seed=seed)


def inspect(
    data: Path | str,
    out: Path | str | None = None,
    *,
    layout: str | None = None,
    fix: str | None = None,
    headers_only: bool = False,
) -> Inspection:
    """What is in a folder, before anything is trained on it; `scantling inspect` is this call.

    Args:
        out: folder for `data.lock.json` (size and SHA-256 of every usable file) and for a picture of each case
            whose label map does not fit its image; None writes nothing.
        fix: also write corrected copies of the refused label maps into `out`: "header" gives their voxels the
            image's header, "grid" resamples them onto the image's grid.
        headers_only: fast, but damage beyond the headers, stored values and copies go unseen.

    Raises:
        ConfigError: an unknown `fix`, or no folder for its copies, or `dataset.toml` is wrong.
        DataError: the folder is no data set.
    """
    folder = None if out is None else Path(out)
    if fix is not None:
        require_fix(fix, folder)
    found = inspect_dataset(open_dataset(Path(data), layout=layout), read_voxels=not headers_only)
    if folder is None:
        return found
    write_lock(found.usable, folder / "data.lock.json")
    found = draw_misfits(found, folder)
    return found if fix is None else write_copies(found, folder, fix)


def report(run: Path | str, *, out: Path | str | None = None, with_paths: bool = False) -> Path:
    """Write the HTML report of a run folder; the path of the page."""
    return write_report(Path(run), out=None if out is None else Path(out), with_paths=with_paths)


def _finish(run: RunFolder) -> RunResult:
    result = RunResult.read(run)
    if run.writable and result.status["status"] == "finished":
        draw_worst_cases(run.path)
        write_report(run.path)
    return result


def _reference(path: Path) -> Manifest | Path:
    """A data set where the folder is one, else a plain folder of label files."""
    is_table = path.is_file() and path.suffix.lower() == ".csv"
    is_dataset = path.is_dir() and any(layout.recognise(path) for layout in LAYOUTS.values())
    return open_dataset(path) if is_table or is_dataset else path


def _display(quiet: bool, *, verbose: bool = False) -> Display:
    return Silent() if quiet else Terminal(verbose=verbose)


def _next_run(data: Path) -> Path:
    return next(p for n in itertools.count(1) if not (p := Path("runs") / f"{data.resolve().name}-{n}").exists())


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", code="E-CFG-02") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})", code="E-CFG-02") from None


def _lay(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def _under(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and of nested tables of defaults what they do not say."""
    merged = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = _under(default, merged[name])
    return merged


def _names(text: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip() for part in (text.split(",") if isinstance(text, str) else text) if part.strip())


def _pairs(items: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for item in items:
        column, separator, value = item.partition("=")
        if not separator or not column:
            raise ConfigError(f"{item!r}: wanted column=value, as in site=shenzhen", code="E-CFG-12")
        pairs[column.strip()] = value.strip()
    return pairs


def _whole(fold: int | str) -> int:
    try:
        return int(fold)
    except ValueError:
        raise ConfigError(f"fold {fold!r}: wanted a number from 0, or 'none'", code="E-CFG-13") from None
