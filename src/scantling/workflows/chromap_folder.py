"""A folder of CHRO-maps: a sheet and a page a case, what the colours mean, and anchors to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import scantling
from scantling.config import nearest
from scantling.errors import ConfigError, DataError, IntegrityError, ResourceError
from scantling.figures.chromap import Mode
from scantling.figures.published_chromap import require_umap
from scantling.files import new_folder, write_json
from scantling.inference.case_views import CaseViews, EmbeddedView, embed_views, views_of_cases
from scantling.inference.embed import Embedder
from scantling.inference.find_images import find_cases
from scantling.sealed_folder import MODEL
from scantling.workflows.chromap_anchors import ANCHORS, write_anchors
from scantling.workflows.chromap_drawing import DrawnCase, draw_case, map_views
from scantling.workflows.chromap_map import (
    FIT_CASES,
    RECORD,
    JointMap,
    Reference,
    align_joint_map,
    fit_joint_map,
    network_of,
    read_reference,
    require_shared_image,
)
from scantling.workflows.figure_run import FigureRun

_KEPT_BYTES: Final = 2**30
"""Features kept from fitting to drawing; those of further cases are computed again."""

Progress = Callable[[str], None]


@final
class _Features:
    """Features of cases by need; the first gibibyte of them is kept. A case that fails is recorded and has no views."""

    def __init__(self, embedder: Embedder, progress: Progress | None, failures: Mapping[str, str]) -> None:
        self.embedder, self.progress = embedder, progress
        self.failures = dict(failures)
        self._kept: dict[str, tuple[EmbeddedView, ...]] = {}
        self._bytes = 0

    def __call__(self, group: CaseViews) -> tuple[EmbeddedView, ...]:
        name = group.case_id
        if name in self._kept or name in self.failures:
            return self._kept.get(name, ())
        if self.progress is not None:
            self.progress(f"looking at {name}")
        try:
            views = embed_views(self.embedder, group)
        except (DataError, IntegrityError, ResourceError) as error:
            self.failures[name] = str(error) if name in error.message else f"case {name}: {error}"
            return ()
        size = sum(view.embedding.features.nbytes for view in views)
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[name], self._bytes = views, self._bytes + size
        return views


def write_chromaps(
    run: Path,
    images: Path,
    out: Path,
    *,
    mode: Mode = "pca",
    tap: str = "",
    like: Path | None = None,
    opacity: float = 0.5,
    share: float = 1.0,
    cases: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FigureRun:
    """Draw every case of an image, a folder or a data set in one map; a case that fails is recorded.

    The real image of a case and its counterfactuals are its views. `chromap.json` keeps the map, and `anchors.csv`
    some pixels with their places, so that another figure can be turned to the same colours.

    Args:
        run: run folder or model folder of a network that segments or was pretrained.
        like: folder of another figure: of the same network, its map is taken over; of another one, this map is turned
            so that images that both show agree.
        share: of the pixels that the ellipse holds.
        cases: ids of real cases; () is every one.

    Raises:
        ConfigError: an impossible setting, an unknown case, or `out` has content or is where the images lie.
        DataError: there is no model, no image, or none that could be drawn.
        IntegrityError: the model or the other figure is damaged.
        ResourceError: the device is not here, or the disk is full.
    """
    _refuse(mode, like, opacity, share)
    _refuse_input_folder(out, images=images, run=run)
    reference = None if like is None else read_reference(like)
    embedder = Embedder.load(run, device=device, tap=tap)
    found, failures = find_cases(images, embedder.plan)
    groups = _chosen(views_of_cases(found), cases)
    if reference is not None and reference.network != network_of(embedder):
        require_shared_image(reference, groups)
    new_folder(out, overwrite=overwrite)
    features = _Features(embedder, progress, failures)
    joint = None if mode == "umap" else _joint_map(groups, features, reference, share=share, seed=seed)
    drawn: list[DrawnCase] = []
    notes = _notes(embedder, joint)
    for group in groups:
        views = features(group)
        if not views:
            continue
        if progress is not None:
            progress(f"drawing {group.case_id} ({len(drawn) + 1} of {len(groups)})")
        try:
            mapped = map_views(views, None if joint is None else joint.chromap, seed=seed)
            drawn.append(draw_case(mapped, out, mode=mode, opacity=opacity, notes=notes, seed=seed))
        except DataError as error:
            features.failures[group.case_id] = str(error)
    if not drawn:
        raise DataError(_nothing(features.failures), code="E-FIG-10")
    settings = {
        "mode": mode, "model_sha256": embedder.model.weights_sha256, "tap": embedder.tap, "opacity": opacity,
        "share": share, "seed": seed,
    }  # fmt: skip
    write_anchors(out / ANCHORS, {name: each for one in drawn[:FIT_CASES] for name, each in one.anchors.items()})
    write_json(out / RECORD, _record(settings, joint, drawn, features.failures, embedder))
    return FigureRun(
        folder=out,
        pictures=tuple(one.picture for one in drawn),
        pages=tuple(one.page for one in drawn),
        failures=features.failures,
        notes=() if joint is None else joint.notes,
    )


def _joint_map(
    groups: Sequence[CaseViews], features: _Features, reference: Reference | None, *, share: float, seed: int
) -> JointMap:
    if reference is not None and reference.network == network_of(features.embedder):
        note = f"the map of {reference.folder.name}, which shows the same features"
        return JointMap(chromap=reference.chromap, fitted_on=(), alignment={}, notes=(note,))
    fitted = fit_joint_map(groups, features, share=share, seed=seed)
    if fitted is None:
        raise DataError(_nothing(features.failures), code="E-FIG-10")
    return fitted if reference is None else align_joint_map(fitted, reference, groups, features)


def _chosen(groups: Sequence[CaseViews], names: Sequence[str]) -> tuple[CaseViews, ...]:
    known = {group.case_id: group for group in groups}
    for name in names:
        if name not in known:
            raise ConfigError(f"--cases {name}: no real case among the images{nearest(name, known)}", code="E-FIG-12")
    return tuple(group for name, group in known.items() if not names or name in names)


def _notes(embedder: Embedder, joint: JointMap | None) -> list[str]:
    """What is said beside every legend."""
    recipe = str(embedder.model.meta.get("recipe", ""))
    source = ", ".join(part for part in (embedder.plan.dataset, recipe.replace("_", " ")) if part)
    first = f"{embedder.n_features} features at {embedder.tap} ({source})" if source else f"features at {embedder.tap}"
    if joint is None:
        return [first, "UMAP of this case alone, as published: colours compare within this picture only"]
    held = 100 * float(joint.chromap.axes.explained[:2].sum())
    return [first, f"Alike pixels have one colour in every view. Two components hold {held:.0f} % of the variance"]


def _record(
    settings: Mapping[str, Any],
    joint: JointMap | None,
    drawn: Sequence[DrawnCase],
    failures: Mapping[str, str],
    embedder: Embedder,
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "scantling": scantling.__version__,
        "dataset": embedder.plan.dataset,
        "settings": dict(settings),
        "map": None if joint is None else joint.chromap.to_json(),
        "fitted_on": [] if joint is None else list(joint.fitted_on),
        "alignment": {} if joint is None else dict(joint.alignment),
        "cases": [
            {"case": one.case_id, "views": list(one.views), "picture": one.picture.name, "page": one.page.name}
            for one in drawn
        ],
        "failures": dict(failures),
    }


def _nothing(failures: Mapping[str, str]) -> str:
    first = next(iter(failures.values()), "")
    return f"nothing could be drawn: {first}" if first else "nothing could be drawn: there is no case"


def _refuse(mode: Mode, like: Path | None, opacity: float, share: float) -> None:
    """Settings that contradict each other or mean nothing, and a mode that is not installed."""
    if mode == "umap" and like is not None:
        raise ConfigError("--like: published maps (--mode umap) compare with nothing; use --mode pca", code="E-FIG-06")
    if mode == "umap" and share < 1:
        raise ConfigError(
            "--share: the published ellipse (--mode umap) holds every pixel; leave it out", code="E-FIG-06"
        )
    if not 0 <= opacity <= 1 or not 0 < share <= 1:
        raise ConfigError(
            f"--opacity {opacity:g}, --share {share:g}: wanted an opacity from 0 to 1, and a share above 0 and up to 1",
            code="E-FIG-13",
        )
    if mode == "umap":
        require_umap()


def _refuse_input_folder(out: Path, *, images: Path, run: Path) -> None:
    """Nothing is written where the images lie, nor may moving an old folder aside move images or model."""
    target, source, model = out.resolve(), images.resolve(), run.resolve()
    folder = source if source.is_dir() else source.parent
    if target == folder or (source.is_dir() and source in target.parents):
        raise ConfigError(f"{out}: the images lie there; choose another folder for the figures", code="E-FIG-14")
    if target in source.parents or target in (model, model / MODEL, *model.parents):
        inside = "images" if target in source.parents else "model"
        raise ConfigError(f"{out}: the {inside} lie inside it; choose a new folder for the figures", code="E-FIG-14")
