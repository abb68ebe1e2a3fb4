"""The views that dense contrastive pretraining was published with, as a configuration of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BeforeValidator

from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig

VIEWS: Final = 4
"""The real image, and what three interventions make of it."""

_EFFECTS: Final = IntensityConfig(
    bias_probability=0,
    low_resolution_probability=0,
    noise_probability=0,
    contrast_probability=0,
    brightness_probability=0,
    gamma_probability=0,
    inverted_gamma_probability=0,
    jitter_probability=0.8,
    exposure=(0.6, 1.4),
    jitter_contrast=(0.6, 1.4),
    blur_probability=0.5,
    blur=(0.1, 2.0),
)
_SOLARISED: Final = {"solarise_probability": 0.2, "solarise": (0.5, 0.5)}


def published_views(
    n_views: int = VIEWS,
    image_of_view: Literal["own", "each", "any"] = "each",
    *,
    rotation: bool = True,
    crop: bool = True,
    effects: bool = True,
) -> ViewConfig:
    """View 0 by the published transform T1, the others by T2, which may solarise as well.

    Both turn the image in its plane by up to 15 degrees; show a box of 8 to 100 % of it, its sides at a ratio of up
    to 4/3; change exposure and contrast in four of five views, each by a factor from 0.6 to 1.4; and blur every other
    view, by 0.1 to 2 pixels. Every fifth view by T2 has its brighter half mirrored. Nothing is flipped: left and right
    are different structures. With "each" view 0 is the real image and the others its counterfactuals in turn; without
    counterfactuals all are the real image, at an equal number of views; "own" is that control where there are some.

    Args:
        rotation, crop, effects: the three factors of the published ablation; False leaves one out.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning", as in its configuration.
    Differs: normalised images have lost black and white, so the darkest and the brightest value of a view stand for
    them in jitter and solarising, and what lies outside the image is 0, its mean, not black. Turning and cropping are
    one resampling instead of two, and the box is turned about its own centre where the image was turned about its
    middle first, so that boxes never show more of the outside than a turn of 15 degrees brings in. Exposure comes
    before contrast, where the order was drawn. The blur reaches as far as 3 deviations, not 2. Volumes are turned in
    the plane of their slices, and the box is 8 to 100 % of the volume.
    """
    first = _EFFECTS if effects else _EFFECTS.model_copy(update={"jitter_probability": 0.0, "blur_probability": 0.0})
    return ViewConfig(
        n_views=n_views,
        image_of_view=image_of_view,
        rotation_probability=1.0 if rotation else 0.0,
        rotation_deg=15.0,
        rotation_3d_probability=0.0,
        scale_probability=0.0,
        translate_probability=0.0,
        crop_probability=1.0 if crop else 0.0,
        crop_area=(0.08, 1.0),
        crop_aspect=4 / 3,
        intensity=first,
        intensity_of_others=first.model_copy(update=_SOLARISED) if effects else first,
    )


def laid_over(default: ViewConfig) -> BeforeValidator:
    """Makes a table of settings say what differs from `default`, not from the defaults of every view.

    To be the annotation of a recipe's field: `views: Annotated[ViewConfig, laid_over(VIEWS)] = VIEWS`.
    """

    return BeforeValidator(lambda given: lay_over(default, given))


def lay_over(default: ViewConfig, given: Any) -> Any:
    """A table of settings laid over those of `default`; anything else as it is."""
    return _merged(default.model_dump(), given) if isinstance(given, Mapping) else given


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        result[name] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result
