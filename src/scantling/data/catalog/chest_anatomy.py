"""The bodies of the chest-radiograph phantom: random shapes as numbers, and the label map they imply.

Coordinates are the patient's: x grows to the image's right and y downwards, both in [-1, 1] across the
picture before the patient is moved, leaned and scaled. "Right" is the patient's right, the image's left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from scantling.data.case import ClassTable
from scantling.seeding import numpy_generator

CHEST_CLASSES: Final = ClassTable.of({"right_lung": 1, "left_lung": 2, "heart": 3})


@dataclass(frozen=True, kw_only=True)
class LungShape:
    """One lung as three borders: chest wall, mediastinum, diaphragm; lengths in half pictures.

    Attributes:
        apex_x, width, medial: distance from the midline of the apex, the widest point, the inner border.
        fullness: how fast the lung widens below its apex; larger is more barrel-shaped.
        dome_top, dome_drop: height of the diaphragm's top, and how far below it the outer angle lies.
        waves: amplitudes of three slow waves along the chest wall and the diaphragm.
        fluid_level: height of the fluid's surface at the inner border, if there is an effusion on this side.
        meniscus: how much higher the fluid climbs along the chest wall.
    """

    apex_x: float
    apex_y: float
    width: float
    medial: float
    fullness: float
    dome_x: float
    dome_top: float
    dome_drop: float
    waves: tuple[float, float, float]
    wave_phase: float
    fluid_level: float
    meniscus: float


@dataclass(frozen=True, kw_only=True)
class ChestAnatomy:
    """Everything about a patient that no scanner, finding or build changes; two renderings share all of it.

    Attributes:
        shift_x, shift_y, lean_deg, scale: how the patient stands in the picture.
        effusion: the sides on which fluid gathers, if the finding is present.
        texture_key: seeds vessels and parenchyma.
    """

    shift_x: float
    shift_y: float
    lean_deg: float
    scale: float
    right: LungShape
    left: LungShape
    heart_x: float
    heart_y: float
    heart_long: float
    heart_short: float
    heart_tilt_deg: float
    trunk: float
    shoulder: float
    shoulder_y: float
    fat: float
    rib_period: float
    rib_phase: float
    rib_droop: float
    rib_contrast: float
    clavicle_slope: float
    spine: float
    hilum_y: float
    vessel_contrast: float
    gas_x: float
    gas_size: float
    breast_x: float
    breast_y: float
    breast_size: float
    effusion: tuple[bool, bool]
    texture_key: int


class Side(NamedTuple):
    """One half of the chest, pixel by pixel.

    `lateral`: distance from the midline, positive on this side; `inside`: roughly the signed distance to the
    lung's border, positive inside; `to_wall`: how far the inner chest wall is; `below`: depth under the
    diaphragm.
    """

    lung: LungShape
    lateral: Float[np.ndarray, "y x"]
    inside: Float[np.ndarray, "y x"]
    to_wall: Float[np.ndarray, "y x"]
    below: Float[np.ndarray, "y x"]


class ChestShapes(NamedTuple):
    """Patient coordinates of every pixel, both sides, and the signed distance to the heart's border."""

    x: Float[np.ndarray, "y x"]
    y: Float[np.ndarray, "y x"]
    right: Side
    left: Side
    heart: Float[np.ndarray, "y x"]


def draw_chest_anatomy(seed: int, case_id: str) -> ChestAnatomy:
    """The patient behind one case: the same for the same seed and id, whatever else is drawn."""
    rng = numpy_generator(seed, "chest-anatomy", case_id)
    between = rng.uniform
    width, apex_y, inspiration = between(0.56, 0.76), between(-0.80, -0.62), between(-0.16, 0.14)
    medial = between(0.08, 0.13)
    right_dome = 0.38 + inspiration + between(-0.04, 0.04)
    left_dome = right_dome + between(0.0, 0.09)

    def lung(dome_top: float) -> LungShape:
        amplitude = between(0.002, 0.018)
        drop = between(0.14, 0.30)
        return LungShape(
            apex_x=between(0.24, 0.33),
            apex_y=apex_y + between(-0.03, 0.03),
            width=width + between(-0.03, 0.03),
            medial=medial + between(-0.015, 0.02),
            fullness=between(1.5, 2.6),
            dome_x=between(0.28, 0.42),
            dome_top=dome_top,
            dome_drop=drop,
            waves=(amplitude * between(-1, 1), amplitude * between(-1, 1), 0.6 * amplitude * between(-1, 1)),
            wave_phase=between(0, 2 * np.pi),
            fluid_level=dome_top - between(-0.04, 0.42),
            meniscus=between(0.08, 0.34),
        )

    both = rng.random() < 0.25
    on_right = rng.random() < 0.55
    return ChestAnatomy(
        shift_x=between(-0.07, 0.07),
        shift_y=between(-0.08, 0.08),
        lean_deg=between(-6, 6),
        scale=between(0.88, 1.10),
        right=lung(right_dome),
        left=lung(left_dome),
        heart_x=between(0.09, 0.19),
        heart_y=right_dome - between(0.08, 0.20),
        heart_long=between(0.29, 0.43),
        heart_short=between(0.21, 0.30),
        heart_tilt_deg=between(20, 55),
        trunk=width + between(0.14, 0.26),
        shoulder=between(1.0, 1.25),
        shoulder_y=apex_y + between(-0.12, 0.0),
        fat=between(0.0, 0.16),
        rib_period=between(0.155, 0.205),
        rib_phase=between(0, 1),
        rib_droop=between(0.18, 0.50),
        rib_contrast=between(0.6, 1.5),
        clavicle_slope=between(-0.32, 0.02),
        spine=between(0.055, 0.085),
        hilum_y=between(-0.20, -0.02),
        vessel_contrast=between(0.5, 1.5),
        gas_x=between(0.25, 0.48),
        gas_size=between(-0.04, 0.12),
        breast_x=between(0.36, 0.46),
        breast_y=between(0.12, 0.34),
        breast_size=between(0.22, 0.34),
        effusion=(both or on_right, both or not on_right),
        texture_key=int(rng.integers(2**31)),
    )


def chest_shapes(anatomy: ChestAnatomy, size: int) -> ChestShapes:
    """Where lungs and heart are, for a picture of `size` x `size` pixels."""
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    moved_x, moved_y = centres[None, :] - anatomy.shift_x, centres[:, None] - anatomy.shift_y
    angle = math.radians(anatomy.lean_deg)
    cosine, sine = math.cos(angle) / anatomy.scale, math.sin(angle) / anatomy.scale
    x = cosine * moved_x + sine * moved_y
    y = cosine * moved_y - sine * moved_x

    tilt = math.radians(anatomy.heart_tilt_deg)
    along = math.cos(tilt) * (x - anatomy.heart_x) + math.sin(tilt) * (y - anatomy.heart_y)
    across = math.cos(tilt) * (y - anatomy.heart_y) - math.sin(tilt) * (x - anatomy.heart_x)
    radius = np.sqrt((along / anatomy.heart_long) ** 2 + (across / anatomy.heart_short) ** 2)
    floor = anatomy.left.dome_top + 0.16 - y  # the heart rests on the diaphragm
    heart = np.minimum((1 - radius) * anatomy.heart_short, floor)
    right = _side(anatomy.right, -x, y, heart)
    left = _side(anatomy.left, x, y, heart)
    return ChestShapes(x, y, right, left, heart)


def chest_label_map(anatomy: ChestAnatomy, *, size: int = 128) -> UInt8[np.ndarray, "y x"]:
    """The truth: 0 background, 1 right lung (image left), 2 left lung, 3 heart; hidden lung included."""
    shapes = chest_shapes(anatomy, size)
    label_map = np.zeros((size, size), dtype=np.uint8)
    label_map[shapes.right.inside > 0] = 1
    label_map[shapes.left.inside > 0] = 2
    label_map[shapes.heart > 0] = 3
    return label_map


def _side(
    lung: LungShape,
    lateral: Float[np.ndarray, "y x"],
    y: Float[np.ndarray, "y x"],
    heart: Float[np.ndarray, "y x"],
) -> Side:
    below_apex = np.maximum(y - lung.apex_y, 0)
    medial = lung.medial + (lung.apex_x - lung.medial) * np.exp(-below_apex / 0.10)
    to_wall = _chest_wall(lung, y) - lateral
    below = y - _diaphragm(lung, lateral)
    across = np.minimum(0.85 * to_wall, lateral - medial)  # the wall leans, so the gap overstates the distance
    along = np.minimum(-0.8 * below, y - lung.apex_y)
    return Side(lung, lateral, np.minimum(np.minimum(across, along), -heart), to_wall, below)


def _diaphragm(lung: LungShape, lateral: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Height of the diaphragm at a distance from the midline."""
    reach = max(lung.width - lung.dome_x, 0.15)
    away = (lateral - lung.dome_x) / reach
    away = np.maximum(away, -0.55 * away)  # flatter towards the midline
    first, second, third = lung.waves
    wave = first * np.sin(9 * lateral + lung.wave_phase) + second * np.sin(17 * lateral) + third
    return np.asarray(lung.dome_top + lung.dome_drop * np.minimum(away * away, 1.5) + wave)


def _chest_wall(lung: LungShape, y: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Distance of the inner chest wall from the midline, at a height."""
    depth = np.clip((y - lung.apex_y) / 1.05, 0, 1)
    first, second, third = lung.waves
    wave = first * np.sin(7 * y + lung.wave_phase) + second * np.sin(13 * y) + third * np.sin(23 * y)
    opening = np.sqrt(1 - (1 - depth) ** (2 * lung.fullness))
    return np.asarray(lung.apex_x + (lung.width - lung.apex_x) * opening + wave * np.minimum(1, depth * 8))
