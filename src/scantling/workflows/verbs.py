"""predict, evaluate, inspect, report: the command line's verbs as functions of plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scantling.data.inspect import Inspection, inspect_dataset, write_lock
from scantling.data.layouts import LAYOUTS, open_dataset
from scantling.data.manifest import Manifest
from scantling.evaluation.compare import Comparison, compare_evaluations
from scantling.evaluation.evaluate import Evaluation, evaluate_folders
from scantling.evaluation.surface import Convention
from scantling.files import new_folder
from scantling.inference.predict import PredictionRun, predict_folder
from scantling.reports.report import write_report
from scantling.training.config import parse_size
from scantling.workflows.case_progress import case_progress
from scantling.workflows.learnt_cases import learnt_note, record_learnt_cases
from scantling.workflows.misfits import draw_misfits, require_fix, write_copies
from scantling.workflows.settings import names_of


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
            Path(predictions), _reference(Path(reference)), classes=names_of(classes), tolerance_mm=tolerance_mm,
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


def _reference(path: Path) -> Manifest | Path:
    """A data set where the folder is one, else a plain folder of label files."""
    is_table = path.is_file() and path.suffix.lower() == ".csv"
    is_dataset = path.is_dir() and any(layout.recognise(path) for layout in LAYOUTS.values())
    return open_dataset(path) if is_table or is_dataset else path
