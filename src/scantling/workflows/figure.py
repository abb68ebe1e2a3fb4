"""figure: pictures of what a network makes of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scantling.config import nearest
from scantling.errors import ConfigError
from scantling.figures.chromap import require_mode
from scantling.workflows.case_progress import case_progress
from scantling.workflows.chromap_folder import write_chromaps
from scantling.workflows.figure_run import FigureRun

KINDS: Final = ("chromap",)


def figure(
    kind: str,
    run: Path | str,
    images: Path | str,
    out: Path | str,
    *,
    mode: str = "pca",
    tap: str = "",
    like: Path | str | None = None,
    opacity: float = 0.5,
    share: float = 1.0,
    cases: str | Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = True,
) -> FigureRun:
    """Draw what a network makes of images; `scantling figure` is this call.

    Args:
        kind: "chromap" colours every pixel by its features, so that alike pixels have one colour in every view.
        mode: "pca", or "umap" for the published algorithm (extra `umap`; minutes a case).
        tap: level of the network, as "decoder.2"; "" is the one that was pretrained, or the finest.
        like: folder of another figure, whose colours these are to have.
        opacity: share of the colours in an overlay.
        share: of the pixels that span the disk; below 1, outliers take the colour of its rim.
        cases: ids of real cases; None is every one.

    Raises:
        ConfigError: an unknown kind or case, or an impossible setting.
        DataError: there is no model, or nothing could be drawn.
    """
    if kind not in KINDS:
        raise ConfigError(f"figure {kind}: there is no such figure{nearest(kind, KINDS)}", code="E-FIG-01")
    names = cases.split(",") if isinstance(cases, str) else cases or ()
    with case_progress(quiet) as progress:
        return write_chromaps(
            Path(run), Path(images), Path(out), mode=require_mode(mode), tap=tap,
            like=None if like is None else Path(like), opacity=opacity, share=share,
            cases=tuple(name.strip() for name in names if name.strip()), seed=seed, device=device,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
