"""Radiographs of the chest phantom: one anatomy under any scanner, finding and build.

Attenuation is added up structure by structure (body, bones, heart, abdomen, minus air), then a scanner turns
it into grey values. Nothing a scanner, finding or build does moves a structure, so two renderings of one
anatomy and noise key are true counterfactuals of each other.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import gaussian_filter

from scantling.data.catalog.chest_anatomy import (
    ChestAnatomy,
    ChestShapes,
    Side,
    chest_shapes,
)
from scantling.data.catalog.chest_scanner import SCANNERS, expose
from scantling.errors import ConfigError
from scantling.seeding import numpy_generator

Finding = Literal["none", "effusion"]
Build = Literal["F", "M"]


def render_chest(
    anatomy: ChestAnatomy,
    *,
    scanner: str,
    finding: Finding = "none",
    sex: Build = "M",
    noise_key: str,
    size: int = 128,
) -> UInt8[np.ndarray, "y x"]:
    """A radiograph of this patient; equal keys give equal exposure and noise under every scanner.

    Args:
        scanner: a name in `SCANNERS`.
        sex: soft-tissue build only (breast shadows, shoulders); no labelled structure moves.
        noise_key: names exposure and noise; usually seed and case.

    Raises:
        ConfigError: no such scanner.
    """
    if scanner not in SCANNERS:
        raise ConfigError(f"scanner {scanner!r}: not a phantom scanner; known are {', '.join(SCANNERS)}")
    attenuation = _attenuation(anatomy, finding, sex, size)
    return expose(attenuation, SCANNERS[scanner], noise_key)


def hidden_by_fluid(anatomy: ChestAnatomy, *, size: int = 128) -> Bool[np.ndarray, "y x"]:
    """Lung that an effusion makes invisible; part of the true label all the same."""
    shapes = chest_shapes(anatomy, size)
    hidden = np.zeros((size, size), dtype=bool)
    for side, has_fluid in zip((shapes.right, shapes.left), anatomy.effusion, strict=True):
        if has_fluid:
            hidden |= (side.inside > 0) & (_fluid(side, shapes.y) > 0.5)
    return hidden


def _attenuation(anatomy: ChestAnatomy, finding: Finding, sex: Build, size: int) -> Float[np.ndarray, "y x"]:
    shapes = chest_shapes(anatomy, size)
    x, y = shapes.x, shapes.y
    off_midline = np.abs(x)
    edge = 1.6 / size

    shoulder = anatomy.shoulder * (1.06 if sex == "M" else 0.95)
    down = _smooth_step((y - anatomy.shoulder_y + 0.16) / 0.34)
    waist = _smooth_step((y + 0.42) / 0.55)
    trunk = 0.27 + (shoulder - 0.27) * down - (shoulder - anatomy.trunk - anatomy.fat) * waist
    body = np.clip(1 - (off_midline / trunk) ** 2, 0, 1)
    total = 0.50 * np.sqrt(body) + 0.10 * np.clip(body * 12, 0, 1) * (1 + anatomy.fat)

    air, abdomen = _lungs(anatomy, shapes, finding, edge)
    inside = np.clip(body * 8, 0, 1)
    total += 0.17 * abdomen * inside
    heart = np.clip(shapes.heart / anatomy.heart_short, 0, 1)
    total += (0.025 * _ramp(shapes.heart, 2 * edge) + 0.13 * np.sqrt(heart)) * (1 - 0.9 * abdomen)
    mediastinum = _plateau(off_midline / (anatomy.right.medial * 0.95))
    total += 0.09 * mediastinum * _smooth_step((y - anatomy.right.apex_y + 0.3) / 0.3)
    knob = ((x - anatomy.left.medial) / 0.075) ** 2 + ((y - anatomy.hilum_y + 0.26) / 0.10) ** 2
    total += 0.11 * np.exp(-knob)  # the arch of the aorta
    total += _spine(anatomy, x, y)
    if sex == "F":
        total += _breasts(anatomy, off_midline, y)

    texture = numpy_generator(anatomy.texture_key, "chest-texture", size)
    cloud = gaussian_filter(texture.standard_normal((size, size), dtype=np.float32), size / 24, mode="wrap")
    total += (0.022 / max(float(cloud.std()), 1e-6)) * cloud * inside
    vessels = _vessels(anatomy, texture, size, x, y)
    total += air * (-0.40 + 0.12 * anatomy.vessel_contrast * vessels)
    total += _bones(anatomy, shapes) * inside * (0.45 + 0.55 * air)
    total -= 0.07 * _plateau((x - 0.01) / 0.04) * _smooth_step((-0.18 - y) / 0.15) * inside  # trachea
    return np.asarray(total)


def _lungs(
    anatomy: ChestAnatomy, shapes: ChestShapes, finding: Finding, edge: float
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    """Air in [0, 1] along the ray, and what is as dense as the abdomen: below the diaphragm, or fluid."""
    air = np.zeros_like(shapes.x)
    abdomen = np.zeros_like(shapes.x)
    for side, has_fluid in zip((shapes.right, shapes.left), anatomy.effusion, strict=True):
        filled = _ramp(side.inside, edge) * (0.62 + 0.38 * np.sqrt(np.clip(side.inside / 0.16, 0, 1)))
        below = _ramp(side.below, 2 * edge) * _ramp(side.to_wall + 0.03, 0.08)
        if finding == "effusion" and has_fluid:
            fluid = _fluid(side, shapes.y)
            filled = filled * (1 - 0.97 * fluid)
            below = np.maximum(below, fluid * _ramp(side.inside + 3 * edge, 2 * edge))
        air += filled
        abdomen += below * (side.lateral > 0)
    gas_y = anatomy.left.dome_top + 0.14
    gas = ((shapes.x - anatomy.gas_x) / 0.16) ** 2 + ((shapes.y - gas_y) / 0.08) ** 2
    abdomen -= 1.1 * max(anatomy.gas_size, 0.0) / 0.12 * np.exp(-gas * np.sqrt(gas)) * (shapes.left.inside < 0)
    return air, abdomen


def _fluid(side: Side, y: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Share of the ray that is fluid: all of it below a surface that climbs along the chest wall."""
    lung = side.lung
    across = np.clip((side.lateral - lung.medial) / (lung.width - lung.medial), 0, 1.2)
    surface = lung.fluid_level - lung.meniscus * across * across * across
    return _smooth_step((y - surface + 0.07) / 0.14)


def _bones(anatomy: ChestAnatomy, shapes: ChestShapes) -> Float[np.ndarray, "y x"]:
    """Ribs (all of one kind drawn as one periodic band) and clavicles."""
    lateral, y = np.abs(shapes.x), shapes.y
    to_wall = np.where(shapes.x < 0, shapes.right.to_wall, shapes.left.to_wall)
    cage = _ramp(to_wall + 0.035, 0.03) * _ramp(y - anatomy.right.apex_y + 0.02, 0.05)
    behind = y - anatomy.rib_droop * np.clip(lateral - 0.15, 0, None) ** 2 * 1.25 + 0.12 * np.exp(-lateral / 0.10)
    front = y + 0.62 * lateral - 0.35 * lateral**2
    fade_behind = _ramp(lateral - 0.07, 0.05) * _ramp(0.62 - y, 0.3)
    fade_front = _smooth_step((lateral - 0.22) / 0.22) * _ramp(0.42 - y, 0.3) * _ramp(y + 0.58, 0.2)
    ribs = 0.085 * _band(behind / anatomy.rib_period + anatomy.rib_phase, 0.36) * fade_behind
    ribs += 0.060 * _band(front / (1.12 * anatomy.rib_period) + 0.5 + anatomy.rib_phase, 0.40) * fade_front
    line = anatomy.right.apex_y + 0.16 + anatomy.clavicle_slope * (lateral - 0.15) + 0.04 * np.sin(8 * lateral)
    clavicle = _plateau((y - line) / 0.028) * _ramp(lateral - 0.09, 0.03) * _ramp(0.86 - lateral, 0.1)
    return np.asarray(anatomy.rib_contrast * ribs * cage + 0.085 * clavicle)


def _spine(anatomy: ChestAnatomy, x: Float[np.ndarray, "y x"], y: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    column = _plateau(x / anatomy.spine)
    return column * (0.055 + 0.03 * _band(y / 0.135 + anatomy.rib_phase, 0.75))


def _breasts(
    anatomy: ChestAnatomy, off_midline: Float[np.ndarray, "y x"], y: Float[np.ndarray, "y x"]
) -> Float[np.ndarray, "y x"]:
    across = (off_midline - anatomy.breast_x) / anatomy.breast_size
    down = (y - anatomy.breast_y) / (1.05 * anatomy.breast_size)
    within = np.clip(1 - across**2 - down**2, 0, 1)
    sagging = np.clip(0.62 + 0.55 * down, 0.15, 1.1)  # thicker, and sharply bordered, below
    return 0.17 * np.sqrt(within) * sagging


def _vessels(
    anatomy: ChestAnatomy,
    rng: np.random.Generator,
    size: int,
    x: Float[np.ndarray, "y x"],
    y: Float[np.ndarray, "y x"],
) -> Float[np.ndarray, "y x"]:
    """Branches from both hila, thinning outwards, and the hila themselves."""
    n_branches, n_points = 44, 64
    side = np.where(np.arange(n_branches) % 2 == 0, -1.0, 1.0)[:, None]
    along = np.linspace(0, 1, n_points)[None, :] ** 0.8
    heading = rng.uniform(-1.25, 1.45, (n_branches, 1)) + rng.uniform(-0.7, 0.7, (n_branches, 1)) * along
    reach = rng.uniform(0.18, 0.60, (n_branches, 1))
    points_x = side * (0.13 + reach * along * np.cos(heading))
    points_y = anatomy.hilum_y + 1.1 * reach * along * np.sin(heading)
    strength = (1 - along) ** 0.7 * rng.uniform(0.5, 1.3, (n_branches, 1))

    angle = math.radians(anatomy.lean_deg)
    picture_x = anatomy.shift_x + anatomy.scale * (math.cos(angle) * points_x - math.sin(angle) * points_y)
    picture_y = anatomy.shift_y + anatomy.scale * (math.sin(angle) * points_x + math.cos(angle) * points_y)
    column = np.rint((picture_x + 1) * size / 2 - 0.5).astype(np.intp)
    row = np.rint((picture_y + 1) * size / 2 - 0.5).astype(np.intp)
    seen = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    flat = row[seen] * size + column[seen]
    drawn = np.bincount(flat, weights=strength[seen], minlength=size * size).reshape(size, size)
    lines = gaussian_filter(np.minimum(drawn, 2.5).astype(np.float32), 0.8 * size / 128)
    hila = np.exp(-(((np.abs(x) - 0.15) / 0.07) ** 2) - ((y - anatomy.hilum_y) / 0.12) ** 2)
    return np.asarray(lines * (size / 128) ** 0.5 + 0.9 * hila)


def _ramp(distance: Float[np.ndarray, "y x"], width: float) -> Float[np.ndarray, "y x"]:
    """0 outside, 1 inside, linear over `width` around the border."""
    return np.clip(distance / width + 0.5, 0, 1)


def _smooth_step(value: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    t = np.clip(value, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _plateau(value: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """exp(-value^4): flat within 1, gone beyond."""
    square = value * value
    return np.asarray(np.exp(-square * square))


def _band(phase: Float[np.ndarray, "y x"], share: float) -> Float[np.ndarray, "y x"]:
    """A periodic band with soft edges and a slightly darker core (cortical bone is denser than marrow)."""
    away = np.abs(phase - np.rint(phase)) * 2  # 0 in the middle of a band, 1 half-way to the next
    inside = np.clip((share - away) / 0.10 + 0.5, 0, 1)
    return np.asarray(inside * (0.72 + 0.28 * np.clip(away / share, 0, 1) ** 2))
