"""One flat folder: `x.nii.gz` and its label `x_seg.nii.gz` (or `_mask`, `_label`, `_gt`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.layouts.image_files import by_case, image_files
from scantling.data.layouts.pairs import assemble
from scantling.data.manifest import Manifest, Problem
from scantling.errors import DataError

SUFFIXES_OF_LABELS: Final = ("_seg", "_mask", "_label", "_gt")
LOOKS_LIKE: Final = f"images and labels in one folder, labels ending in {', '.join(SUFFIXES_OF_LABELS)}"
_LABEL: Final = re.compile(r"^(?P<case>.+)(?:_seg|_mask|_label|_gt)$", re.IGNORECASE)
_IMAGE: Final = re.compile(r"^(?P<case>.+)(?:_image|_img)$", re.IGNORECASE)


def recognise(folder: Path) -> bool:
    """Whether at least one file is a label by its suffix and its image is there."""
    try:
        images, labels = _split(folder)
    except DataError:
        return False
    return any(case in images for case in labels)


def read(folder: Path) -> Manifest:
    """The images of a flat folder with the labels that are named after them.

    Raises:
        DataError: a case has two images or two labels, or the folder has no image.
        ConfigError: `dataset.toml` is wrong.
    """
    images, labels = _split(folder)
    if not images:
        raise DataError(f"{folder}: holds no image", code="E-LAY-07")
    orphans = tuple(
        Problem(case_id=case, severity="warning", code="E-LAY-09",
                message=f"{path}: the image of this label is missing; it is left out")
        for case, path in labels.items()
        if case not in images
    )  # fmt: skip
    matched = {case: path for case, path in labels.items() if case in images}
    return assemble(folder, "suffix", images, matched, DatasetToml.beside(folder), problems=orphans)


def _split(folder: Path) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """The images (case -> channel -> path) and the labels (case -> path) of a folder."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for stem, path in image_files(folder).items():
        if match := _LABEL.match(stem):
            _add(labels, match["case"], path)
        else:
            match = _IMAGE.match(stem)
            _add(images, match["case"] if match else stem, path)
    return by_case(images, labels), labels


def _add(files: dict[str, Path], case: str, path: Path) -> None:
    if case in files:
        raise DataError(
            f"{path.parent}: {files[case].name} and {path.name} both belong to {case!r}; keep one, or list them in "
            "a cases.csv",
            code="E-LAY-06",
        )
    files[case] = path
