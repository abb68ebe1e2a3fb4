"""The scanners of the chest phantom: from attenuation to grey values by sharpness, response and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from scantling.seeding import numpy_generator


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How attenuation becomes grey values.

    Attributes:
        blur: standard deviation of the point spread, in 1/128 of the picture.
        sharpen: share of high frequencies added back by the scanner's own processing.
        contrast, middle: slope and centre of the S-shaped response; `gamma` bends it.
        noise: standard deviation, as a share of full scale; stronger where less light arrives.
        grain: standard deviation of the noise's own blur, in 1/128 of the picture.
        black, white: grey values of the ends of the response, in [0, 1].
        marker: whether a lead letter lies in the upper corner.
    """

    blur: float
    sharpen: float
    contrast: float
    middle: float
    gamma: float
    noise: float
    grain: float
    black: float
    white: float
    marker: bool


SCANNERS: Final[dict[str, Scanner]] = {
    "A": Scanner(blur=0.45, sharpen=0.7, contrast=3.6, middle=0.42, gamma=1.0, noise=0.016, grain=0.0,
                 black=0.02, white=0.97, marker=True),
    "B": Scanner(blur=0.95, sharpen=0.0, contrast=3.0, middle=0.30, gamma=1.3, noise=0.024, grain=0.6,
                 black=0.10, white=0.80, marker=False),
}  # fmt: skip


def expose(attenuation: Float[np.ndarray, "y x"], scanner: Scanner, noise_key: str) -> UInt8[np.ndarray, "y x"]:
    """Grey values of one exposure; equal keys give equal gain, slant and noise under every scanner."""
    size = attenuation.shape[0]
    pixel = size / 128
    rng = numpy_generator(0, "chest-noise", noise_key, size)
    gain, offset = 1 + 0.11 * float(rng.standard_normal()), 0.06 * float(rng.standard_normal())
    noise = rng.standard_normal(attenuation.shape, dtype=np.float32)
    slant_x, slant_y = (0.05 * float(rng.standard_normal()) for _ in range(2))

    sharp = gaussian_filter(attenuation, scanner.blur * pixel)
    if scanner.sharpen:
        sharp += scanner.sharpen * (sharp - gaussian_filter(sharp, 3.0 * pixel))
    if scanner.grain:
        noise = gaussian_filter(noise, scanner.grain * pixel)
        noise /= noise.std()
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    seen = gain * sharp + (offset + slant_x * ramp[None, :] + slant_y * ramp[:, None])
    slope, middle = scanner.contrast / 2, scanner.middle
    low, high = math.tanh(-slope * middle), math.tanh(slope * (1 - middle))
    curve = (np.tanh(slope * (seen - middle)) - low) / (high - low)
    response = np.clip(curve, 0, 1) ** scanner.gamma
    grey = scanner.black + (scanner.white - scanner.black) * response
    grey += scanner.noise * noise * (0.6 + 0.7 * np.clip(sharp, 0, 1))
    if scanner.marker:
        _stamp(grey, round(0.05 * size), round(0.90 * size), max(1, round(pixel)))
    return np.asarray(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8))


def _stamp(grey: Float[np.ndarray, "y x"], row: int, column: int, scale: int) -> None:
    """A lead letter L, in place."""
    letter = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)
    letter = np.kron(letter, np.ones((scale, scale), dtype=bool))
    window = grey[row : row + letter.shape[0], column : column + letter.shape[1]]
    window[letter[: window.shape[0], : window.shape[1]]] = 0.98
