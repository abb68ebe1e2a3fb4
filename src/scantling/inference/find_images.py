"""Which cases a user means by a file, a folder of images, or a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scantling.data.case import Case
from scantling.data.image_io import SUFFIXES, image_stem
from scantling.data.layouts import LAYOUTS, open_dataset
from scantling.data.layouts.image_files import by_case, image_files, is_image
from scantling.data.plan import Plan
from scantling.errors import DataError, PlanMismatch


def find_cases(images: Path, plan: Plan) -> tuple[tuple[Case, ...], Mapping[str, str]]:
    """The cases to predict, channels in the plan's order, and what already failed (case -> sentence).

    A folder is read as a data set if it looks like one, else every image directly in it is a case. `x_0000`,
    `x_0001` are channels of `x` where the plan has as many.

    Raises:
        DataError: the path does not exist, holds no image, or two files claim one case.
        PlanMismatch: a data set with other channels than the plan's.
    """
    if images.is_file() and is_image(images):
        return _of_files({image_stem(path): path for path in _with_channels(images)}, plan), {}
    if images.is_dir() and not any(layout.recognise(images) for layout in LAYOUTS.values()):
        files = image_files(images)
        if not files:
            raise DataError(
                f"{images}: holds no image ({', '.join(SUFFIXES)}) and is no data set; name the folder that "
                "the image files lie in",
                code="E-PRD-01",
            )
        return _of_files(files, plan), {}
    if images.exists() and not images.is_dir() and images.suffix.lower() != ".csv":
        raise DataError(f"{images}: not an image; wanted a file ending in {', '.join(SUFFIXES)}", code="E-PRD-01")
    manifest = open_dataset(images)
    order = _channel_order(manifest.channels, plan)
    known = {case.case_id for case in manifest.cases}
    failures = {
        problem.case_id: f"{problem.message} [{problem.code}]"
        for problem in manifest.problems
        if problem.severity == "error" and problem.case_id and problem.case_id not in known
    }
    return tuple(_reordered(case, order) for case in manifest.cases), failures


def _reordered(case: Case, order: tuple[int, ...]) -> Case:
    """The channel files in the plan's order; one file that holds all channels stays as it is."""
    if len(case.images) != len(order):
        return case
    return replace(case, images=tuple(case.images[k] for k in order))


def _with_channels(path: Path) -> list[Path]:
    """A file and, if it is channel 0 of a case, the files of the other channels beside it."""
    stem = image_stem(path)
    if not stem.endswith("_0000"):
        return [path]
    ending = path.name[len(stem) :]
    others = path.parent.glob(f"{_escaped(stem[:-4])}[0-9][0-9][0-9][0-9]{_escaped(ending)}")
    return sorted({path, *others})


def _of_files(files: Mapping[str, Path], plan: Plan) -> tuple[Case, ...]:
    groups = by_case(files, ())
    if any(len(group) > len(plan.channels) for group in groups.values()):  # numbers that count images
        groups = {stem: {"image": path} for stem, path in files.items()}
    return tuple(
        Case(case_id=case, images=tuple(path for _, path in sorted(group.items()))) for case, group in groups.items()
    )


def _channel_order(channels: tuple[str, ...], plan: Plan) -> tuple[int, ...]:
    """Positions of the plan's channels among the data set's: by name where the names are the same."""
    if sorted(channels) == sorted(plan.channels) and len(set(channels)) == len(channels):
        return tuple(channels.index(name) for name in plan.channels)
    if len(channels) == len(plan.channels):
        return tuple(range(len(channels)))
    raise PlanMismatch(
        f"data set has channels {', '.join(channels)}, the model was trained with "
        f"{', '.join(plan.channels)}; predict images with these channels",
        code="E-PLN-02",
    )


def _escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
