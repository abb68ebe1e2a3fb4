"""One map for all cases of a figure: fitted on pixels of some, or taken over or turned to that of another figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from scantling.errors import ConfigError, DataError, IntegrityError
from scantling.figures.fitted_chromap import ChroMap, mean_hue_change
from scantling.files import read_json
from scantling.inference.case_views import CaseViews, EmbeddedView
from scantling.inference.embed import Embedder
from scantling.seeding import numpy_generator
from scantling.workflows.chromap_anchors import ANCHORS, Anchors, places_at, read_anchors

RECORD: Final = "chromap.json"
FIT_PIXELS: Final = 400_000
"""Of all cases together that a map is fitted on: a case of four views of 224 x 224 goes in whole."""
FIT_CASES: Final = 32

Embed = Callable[[CaseViews], tuple[EmbeddedView, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What another figure folder says of its colours.

    Attributes:
        anchors: by the name of the image.
    """

    folder: Path
    chromap: ChroMap
    network: tuple[str, str]
    anchors: Mapping[str, Anchors]


@dataclass(frozen=True, kw_only=True, eq=False)
class JointMap:
    """The map of a figure and how it came about.

    Attributes:
        fitted_on: case ids; () where the map was taken over.
        alignment: facts of the turn towards a reference; empty where there was none.
    """

    chromap: ChroMap
    fitted_on: tuple[str, ...]
    alignment: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def network_of(embedder: Embedder) -> tuple[str, str]:
    """What tells whether two figures show the same features: weights and tap."""
    return embedder.model.weights_sha256, embedder.tap


def fit_joint_map(groups: Sequence[CaseViews], embed: Embed, *, share: float, seed: int) -> JointMap | None:
    """Fit on pixels of up to 32 cases, drawn by the seed; each case has the same number of pixels, if it has as many.

    None where no case has a view.
    """
    order = numpy_generator(seed, "cases of a chromap").permutation(len(groups))[:FIT_CASES]
    chosen = [groups[k] for k in sorted(order)]
    most = FIT_PIXELS // max(len(chosen), 1)
    sets: list[Float[np.ndarray, "feature _"]] = []
    fitted_on: list[str] = []
    for group in chosen:
        views = embed(group)
        if not views:
            continue
        rng = numpy_generator(seed, "pixels of a chromap", group.case_id)
        for view in views:
            flat = view.embedding.features.reshape(len(view.embedding.features), -1)
            n = most // len(views)
            sets.append(flat if flat.shape[1] <= n else flat[:, np.sort(rng.choice(flat.shape[1], n, replace=False))])
        fitted_on.append(group.case_id)
    if not sets:
        return None
    return JointMap(chromap=ChroMap.fit(sets, share=share, seed=seed), fitted_on=tuple(fitted_on), alignment={})


def require_shared_image(reference: Reference, groups: Sequence[CaseViews]) -> None:
    """Refuse to align figures that show no image in common.

    Raises:
        DataError: as above.
    """
    if not any(case.case_id in reference.anchors for group in groups for case in group.cases):
        raise DataError(
            f"--like {reference.folder}: shows none of these images, and those of another network; draw both with at "
            "least one image in common",
            code="E-FIG-08",
        )


def align_joint_map(found: JointMap, reference: Reference, groups: Sequence[CaseViews], embed: Embed) -> JointMap:
    """Turn a map so that pixels of images that both figures have get the reference's colours, as far as that goes.

    Raises:
        DataError: none of them can be read, or all have other sizes now.
    """
    own: list[Float[np.ndarray, "pixel 2"]] = []
    wanted: list[Float[np.ndarray, "pixel 2"]] = []
    shared: list[str] = []
    for group in groups:
        if not any(case.case_id in reference.anchors for case in group.cases):
            continue
        for view in embed(group):
            anchors = reference.anchors.get(view.case.case_id)
            if anchors is None or not anchors.lie_in(view.image.geometry.shape):
                continue
            own.append(places_at(places_of(found.chromap, view), anchors.indices, view.image.geometry.shape))
            wanted.append(anchors.places)
            shared.append(view.case.case_id)
    if not own:
        raise DataError(
            f"--like {reference.folder}: none of the images that it shares could be read, or their sizes differ",
            code="E-FIG-08",
        )
    before, after = np.concatenate(own), np.concatenate(wanted)
    chromap = found.chromap.turned_to(before, after)
    change = mean_hue_change(before @ chromap.rotation, after)
    seen = f"{len(before)} pixels of {len(shared)} images that both show"
    measured = None if math.isnan(change) else round(change, 2)
    hue = "" if math.isnan(change) else f": {seen} differ by {change:.0f} degrees of hue on average"
    return JointMap(
        chromap=chromap,
        fitted_on=found.fitted_on,
        alignment={"images": len(shared), "pixels": len(before), "mean_hue_change_degrees": measured},
        notes=(f"turned to the colours of {reference.folder.name}{hue}",),
    )


def places_of(chromap: ChroMap, view: EmbeddedView) -> Float[np.ndarray, "*space 2"]:
    """Places in the disk of a view's pixels at the prepared resolution, axes as in the image."""
    own = np.moveaxis(chromap.places(view.embedding.features), -1, 0)
    return np.moveaxis(view.embedding.in_image_axes(own), 0, -1)


def read_reference(folder: Path) -> Reference:
    """The map and the anchors that a figure folder keeps.

    Raises:
        DataError: it is none.
        ConfigError: its map is the published one, which nothing can be aligned to.
        IntegrityError: a file in it is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise DataError(f"--like {folder}: holds no {RECORD}; wanted a folder of 'figure chromap'", code="E-FIG-07")
    said = read_json(path)
    if not isinstance(said, dict) or not isinstance(said.get("settings"), dict):
        raise IntegrityError(f"{path}: not the record of a chromap", code="E-FIG-09")
    if said.get("map") is None:
        raise ConfigError(
            f"--like {folder}: was drawn with --mode umap, whose colours compare with nothing; draw it with --mode pca",
            code="E-FIG-06",
        )
    network = (str(said["settings"].get("model_sha256")), str(said["settings"].get("tap")))
    return Reference(
        folder=folder,
        chromap=ChroMap.from_json(said["map"], where=str(path)),
        network=network,
        anchors=read_anchors(folder / ANCHORS),
    )
