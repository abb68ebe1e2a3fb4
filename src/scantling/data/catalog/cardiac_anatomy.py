"""The hearts of the short-axis cardiac phantom: a left cavity inside its wall, a right cavity beside it.

Lengths are in mm in the patient's own axes: z along the heart from apex (0) to base, x to the image's right,
y downwards. Labels follow the field's habit: papillary muscles belong to the cavity, the right ventricle's
thin wall is background, and slices above the base hold no label although blood is seen there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from scantling.data.case import ClassTable
from scantling.seeding import numpy_generator

CARDIAC_CLASSES: Final = ClassTable.of({"right_ventricle": 1, "myocardium": 2, "left_ventricle": 3})
Group = Literal["normal", "dilated", "hypertrophic"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
SUB_SLICES: Final = 4  # a thick slice is the mean of this many thin ones: partial volume


@dataclass(frozen=True, kw_only=True)
class CardiacAnatomy:
    """Everything about a heart and its surroundings that no scanner changes; mm and radians."""

    group: Group
    centre_x: float
    centre_y: float
    turn: float
    length: float
    cavity: float
    wall: float
    oval: tuple[float, float, float]
    taper: float
    right_offset: float
    right_width: float
    right_height: float
    right_bottom: float
    papillary_angle: float
    papillary_size: float
    chest_x: float
    chest_y: float
    fat: float
    liver_y: float
    texture_key: int


class CardiacShapes(NamedTuple):
    """Signed distances in mm, positive inside, on thin slices; `height` is 0 at the apex, 1 at the base."""

    x: Float32[np.ndarray, "thin y x"]
    y: Float32[np.ndarray, "thin y x"]
    height: Float32[np.ndarray, "thin 1 1"]
    cavity: Float32[np.ndarray, "thin y x"]
    outer: Float32[np.ndarray, "thin y x"]
    right: Float32[np.ndarray, "thin y x"]


def draw_cardiac_anatomy(seed: int, case_id: str) -> CardiacAnatomy:
    """The patient behind one case: the same for the same seed and id, whatever else is drawn."""
    rng = numpy_generator(seed, "cardiac-anatomy", case_id)
    between = rng.uniform
    group = GROUPS[int(rng.integers(len(GROUPS)))]
    wider = {"normal": 1.0, "dilated": 1.28, "hypertrophic": 0.82}[group]
    thicker = {"normal": 1.0, "dilated": 0.80, "hypertrophic": 1.65}[group]
    return CardiacAnatomy(
        group=group,
        centre_x=between(-14, 14),
        centre_y=between(-12, 12),
        turn=between(-0.45, 0.45),
        length=between(66, 84),
        cavity=wider * between(19, 25),
        wall=thicker * between(7.0, 9.5),
        oval=(between(-0.08, 0.08), between(-0.05, 0.05), between(0, 2 * math.pi)),
        taper=between(1.6, 2.4),
        right_offset=between(10, 19),
        right_width=between(20, 30),
        right_height=between(27, 37),
        right_bottom=between(0.10, 0.30),
        papillary_angle=between(-0.4, 0.4),
        papillary_size=between(2.5, 4.5),
        chest_x=between(70, 90),
        chest_y=between(66, 84),
        fat=between(5, 14),
        liver_y=between(26, 46),
        texture_key=int(rng.integers(2**31)),
    )


def cardiac_label_map(
    anatomy: CardiacAnatomy, *, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> UInt8[np.ndarray, "z y x"]:
    """0 background, 1 right ventricle, 2 myocardium, 3 left ventricle: what fills most of a voxel's depth."""
    shapes = cardiac_shapes(anatomy, shape, spacing_mm)

    def depth_share(distance: Float32[np.ndarray, "thin y x"]) -> np.ndarray:
        return np.asarray((distance > 0).reshape(shape[0], SUB_SLICES, *shape[1:]).mean(axis=1))

    label_map = np.zeros(shape, dtype=np.uint8)
    label_map[depth_share(shapes.right) > 0.5] = 1
    label_map[depth_share(shapes.outer) > 0.5] = 2
    label_map[depth_share(shapes.cavity) > 0.5] = 3  # ties go to the wall, so that it always encloses the cavity
    return label_map


def cardiac_shapes(
    anatomy: CardiacAnatomy, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> CardiacShapes:
    """Where the heart is, on thin slices: `SUB_SLICES` of them to each slice of `shape`."""
    n_thin = shape[0] * SUB_SLICES
    depth = (np.arange(n_thin, dtype=np.float32) + 0.5) * np.float32(spacing_mm[0] / SUB_SLICES)
    start = 0.5 * (shape[0] * spacing_mm[0] - anatomy.length) - 2.0
    height = ((depth - start) / anatomy.length)[:, None, None].astype(np.float32)

    breath = numpy_generator(anatomy.texture_key, "cardiac-breath").normal(0, 1.1, (shape[0], 2))
    moved = np.repeat(breath, SUB_SLICES, axis=0).astype(np.float32)[:, :, None, None]
    rows, columns = (
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(step)
        for n, step in zip(shape[1:], spacing_mm[1:], strict=True)
    )
    tilt = 12.0 * (height - 0.5)  # the heart's axis leans through the stack
    x = columns[None, None, :] - anatomy.centre_x - moved[:, 0] - tilt
    y = rows[None, :, None] - anatomy.centre_y - moved[:, 1] + 0.5 * tilt
    x, y = np.broadcast_arrays(x, y)

    angle = np.arctan2(y, x) + anatomy.turn
    second, third, phase = anatomy.oval
    distance = np.hypot(x, y) / (1 + second * np.cos(2 * angle) + third * np.cos(3 * angle + phase))
    profile = np.sqrt(np.clip(1 - np.clip(1 - height, 0, 1) ** anatomy.taper, 0, 1)) * (1 - 0.10 * height)
    cap = np.clip(1 - np.clip(-height * anatomy.length / anatomy.wall, 0, 1) ** 2, 0, 1)
    in_heart = np.where((height > -anatomy.wall / anatomy.length) & (height < 1), 0, -np.inf).astype(np.float32)
    cavity_radius = anatomy.cavity * profile
    outer_radius = (cavity_radius + anatomy.wall * np.clip(0.55 + 0.6 * height, 0.5, 1)) * np.sqrt(cap)
    cavity = np.where(height > 0, cavity_radius - distance, -np.inf) + in_heart
    outer = outer_radius - distance + in_heart

    across, down = (
        np.cos(anatomy.turn) * x - np.sin(anatomy.turn) * y,
        np.sin(anatomy.turn) * x + np.cos(anatomy.turn) * y,
    )
    grown = np.clip((height - anatomy.right_bottom) / (1 - anatomy.right_bottom), 0, 1)
    size = np.sqrt(np.clip(1 - (1 - grown) ** 2, 0, 1)) + 1e-3
    offset = cavity_radius + 0.4 * anatomy.wall + 0.5 * anatomy.right_offset
    radius = np.hypot((across + offset) / anatomy.right_width, (down + 4) / anatomy.right_height)
    right = np.minimum((size - radius) * anatomy.right_width, -(outer_radius - distance) - 0.3) + in_heart
    right = np.where(grown > 0, right, -np.inf)
    as_float = (np.asarray(field, dtype=np.float32) for field in (x, y, height, cavity, outer, right))
    return CardiacShapes(*as_float)
