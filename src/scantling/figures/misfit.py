"""An image and a label map that do not share one grid: where their headers put them, and voxel by voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Integer, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import ConvexHull

from scantling.data.geometry_check import closest_ras
from scantling.data.image import ImageGeometry, MedicalImage
from scantling.data.regridding import labels_on_grid
from scantling.figures.colours import class_colour
from scantling.figures.hanging import oriented_slices
from scantling.figures.overlay import contact_sheet, draw_overlay, grey_to_rgb

Picture = UInt8[np.ndarray, "_ _ 3"]

_PANEL_PX: Final = 340
_TEXT_PX: Final = 15
_WHITE: Final = (255, 255, 255)
_LABEL: Final = class_colour(1)
_MOST_POINTS: Final = 2_000_000
_VIEWS: Final = ("from above (axial)", "from the front (coronal)", "from the side (sagittal)")


class _Scene(NamedTuple):
    """Image and label map in one frame: mm along the image's axes, hung as readers hang them.

    `from_image`, `from_label`: frame position of an index of the file's array. `shown`: the image's array in
    the frame's axis order and direction.
    """

    from_image: Float[np.ndarray, "side side"]
    from_label: Float[np.ndarray, "side side"]
    shown: Shaped[np.ndarray, "channel *spatial"]
    spacing_mm: tuple[float, ...]


def draw_misfit(
    image: MedicalImage, label_map: Integer[np.ndarray, "*label"], label: ImageGeometry, *, heading: str
) -> Picture:
    """A sheet of panels: both grids where their headers put them, then a slice of the image with the label map.

    Above, seen along each axis: the image's outline in white with one slice, the label map's outline in orange
    with the shadow of everything it labels. Below, for volumes, the slice with most labels, twice: with the
    label map where its header puts it, and with its voxels taken as the image's (where the sizes agree).

    Args:
        label_map: class indices; 0 is background, negative is unknown.
        label: its grid, with as many axes as the image's.
        heading: written over the panels.
    """
    scene = _scene(image, label)
    box_mm, label_box_mm = _corners(scene.from_image, image.geometry.shape), _corners(scene.from_label, label.shape)
    points_mm = _labelled_points(label_map, scene.from_label)
    overview = [
        _with_caption(_seen_along(axis, scene, box_mm, label_box_mm, points_mm), _view_name(axis, image.geometry))
        for axis in ((0,) if len(image.geometry.shape) == 2 else (0, 1, 2))
    ]
    slices = []
    if label_map.ndim == 3:
        placed = labels_on_grid(label_map, label, image.geometry, outside=0)
        slices.append(_overlay(image, placed, "label map where its header puts it"))
        if label_map.shape == image.geometry.shape:
            slices.append(_overlay(image, label_map, "label map voxel by voxel"))
    sheet = contact_sheet([*overview, *slices], columns=len(overview), background=(0, 0, 0))
    return _with_caption(sheet, f"{heading} (white: the image, orange: the label map)")


def _scene(image: MedicalImage, label: ImageGeometry) -> _Scene:
    geometry = image.geometry
    axes = len(geometry.shape)
    order, rising = closest_ras(geometry.world_from_index)
    # readers look from the front and from the feet, so each axis runs against RAS; pictures hang as they are
    turned = [axis for axis in range(axes) if axes == 3 and not rising[axis]]
    from_image = np.zeros((axes + 1, axes + 1))
    from_image[axes, axes] = 1.0
    for axis, source in enumerate(order):
        spacing = geometry.spacing_mm[source]
        from_image[axis, source] = -spacing if axis in turned else spacing
        from_image[axis, axes] = (geometry.shape[source] - 1) * spacing if axis in turned else 0.0
    shown = np.transpose(image.array, (0, *(1 + source for source in order)))
    return _Scene(
        from_image=from_image,
        from_label=from_image @ np.linalg.inv(geometry.world_from_index) @ label.world_from_index,
        shown=np.flip(shown, tuple(1 + axis for axis in turned)),
        spacing_mm=tuple(geometry.spacing_mm[source] for source in order),
    )


def _corners(from_index: Float[np.ndarray, "side side"], shape: Sequence[int]) -> Float[np.ndarray, "corner axis"]:
    """The corners of a grid, voxel borders included."""
    corners = _unit_box(len(shape)) * np.array(shape) - 0.5
    return np.asarray(corners @ from_index[:-1, :-1].T + from_index[:-1, -1])


def _unit_box(axes: int) -> Float[np.ndarray, "corner axis"]:
    return np.array([*product((0.0, 1.0), repeat=axes)])


def _labelled_points(
    label_map: Integer[np.ndarray, "*label"], from_label: Float[np.ndarray, "side side"]
) -> Float[np.ndarray, "_ axis"]:
    """Where the labelled voxels lie; of very many every second, third, ... one."""
    at = np.argwhere(label_map > 0)
    at = at[:: 1 + len(at) // _MOST_POINTS]
    return np.asarray(at @ from_label[:-1, :-1].T + from_label[:-1, -1])


def _seen_along(
    axis: int,
    scene: _Scene,
    box_mm: Float[np.ndarray, "corner axis"],
    label_box_mm: Float[np.ndarray, "corner axis"],
    points_mm: Float[np.ndarray, "_ axis"],
) -> Picture:
    """Both grids looked at along one axis of the frame; a picture has only one view."""
    flat = [k for k in range(len(scene.spacing_mm)) if k != axis or len(scene.spacing_mm) == 2]
    both = np.concatenate([box_mm, label_box_mm])[:, flat]
    low, extent = both.min(axis=0), np.ptp(both, axis=0)
    px_per_mm = 0.94 * _PANEL_PX / float(extent.max())
    margin = (_PANEL_PX - px_per_mm * extent) / 2

    def pixels(mm: Float[np.ndarray, "_ axis"]) -> Float[np.ndarray, "_ 2"]:
        return np.asarray((mm[:, flat] - low) * px_per_mm + margin)

    canvas = Image.new("RGB", (_PANEL_PX, _PANEL_PX))
    corners = np.rint(pixels(box_mm)).astype(int)
    (top, left), (height, width) = corners.min(axis=0), np.maximum(np.ptp(corners, axis=0), 1)
    grey = Image.fromarray(grey_to_rgb(_slice_across(axis, scene, points_mm)))
    canvas.paste(grey.resize((int(width), int(height)), Image.Resampling.BILINEAR), (int(left), int(top)))
    canvas = _tinted(canvas, _shadow(pixels(points_mm), scene, px_per_mm))
    pen = ImageDraw.Draw(canvas)
    for box, from_index, colour in ((box_mm, scene.from_image, _WHITE), (label_box_mm, scene.from_label, _LABEL)):
        outline = pixels(box)[_way_around(from_index, flat)][:, ::-1]
        pen.polygon([(float(x), float(y)) for x, y in outline], outline=colour, width=2)
    return np.asarray(canvas)


def _way_around(from_index: Float[np.ndarray, "side side"], flat: Sequence[int]) -> Integer[np.ndarray, "_"]:
    """Which corners of a box, in which order, are its outline on two of the axes.

    That depends on the directions of its edges alone; its corners themselves may all fall on one pixel.
    """
    directions = from_index[:-1, :-1] / np.linalg.norm(from_index[:-1, :-1], axis=0)
    return np.asarray(ConvexHull((_unit_box(len(directions)) @ directions.T)[:, flat]).vertices)


def _slice_across(
    axis: int, scene: _Scene, points_mm: Float[np.ndarray, "_ axis"]
) -> Shaped[np.ndarray, "channel y x"]:
    """The image's slice through the middle of what is labelled, if that lies inside it, else its middle."""
    if scene.shown.ndim == 3:
        return scene.shown
    n = scene.shown.shape[1 + axis]
    middle = float(points_mm[:, axis].mean()) / scene.spacing_mm[axis] if len(points_mm) else n / 2
    position = round(middle) if 0 <= round(middle) < n else n // 2
    return np.asarray(np.take(scene.shown, position, axis=1 + axis))


def _shadow(points_px: Float[np.ndarray, "_ 2"], scene: _Scene, px_per_mm: float) -> Shaped[np.ndarray, "row column"]:
    """The pixels of a panel that labelled voxels cover."""
    covered = np.zeros((_PANEL_PX, _PANEL_PX), dtype=bool)
    at = np.rint(points_px).astype(int)
    inside = ((at >= 0) & (at < _PANEL_PX)).all(axis=1)
    covered[tuple(at[inside].T)] = True
    voxel_px = math.ceil(max(np.linalg.norm(scene.from_label[:-1, :-1], axis=0)) * px_per_mm)
    closed = scipy.ndimage.binary_closing(np.pad(covered, voxel_px), np.ones((voxel_px + 1,) * 2))
    return np.asarray(closed[voxel_px:-voxel_px, voxel_px:-voxel_px])


def _tinted(canvas: Image.Image, mask: Shaped[np.ndarray, "row column"]) -> Image.Image:
    pixels = np.asarray(canvas, dtype=np.float64).copy()
    pixels[mask] += 0.55 * (np.array(_LABEL) - pixels[mask])
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _overlay(image: MedicalImage, label_map: Integer[np.ndarray, "z y x"], caption: str) -> Picture:
    """The image's slice on which most is labelled, with the label map's contours."""
    pictures, spacing = oriented_slices(image.array, image.geometry)
    stack, _ = oriented_slices(label_map, image.geometry)
    present = (stack > 0).reshape(len(stack), -1).sum(axis=1)
    position = int(present.argmax()) if present.any() else len(stack) // 2
    picture, labels = pictures[:, position], stack[position]
    rows, columns = picture.shape[1] * spacing[0], picture.shape[2] * spacing[1]
    drawn = draw_overlay(
        grey_to_rgb(picture), prediction=labels, spacing=spacing,
        height_px=max(1, round(_PANEL_PX * min(1.0, rows / columns))),
    )  # fmt: skip
    found = "" if present.any() else ": nothing of it is inside the image"
    return _with_caption(drawn, f"{caption} (slice {position + 1} of {len(stack)}){found}")


def _view_name(axis: int, geometry: ImageGeometry) -> str:
    if len(geometry.shape) == 2:
        return "both from their first pixel"
    return _VIEWS[axis] if geometry.spacing_known else f"along axis {axis + 1}"


def _with_caption(picture: Picture, text: str) -> Picture:
    """The picture on black with lines of text over it, which widen it up to the width of a panel."""
    font = ImageFont.load_default(_TEXT_PX)
    width = max(picture.shape[1], _PANEL_PX)
    lines = _wrapped(text, font, width)
    top = len(lines) * (_TEXT_PX + 4) + 6
    canvas = Image.new("RGB", (width, top + picture.shape[0]))
    pen = ImageDraw.Draw(canvas)
    for position, line in enumerate(lines):
        pen.text((2, 2 + position * (_TEXT_PX + 4)), line, fill=_WHITE, font=font)
    canvas.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, top))
    return np.asarray(canvas)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width_px - 4:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
