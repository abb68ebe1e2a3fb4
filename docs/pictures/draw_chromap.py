"""The picture of docs/how-to/chromap.md: `python docs/pictures/draw_chromap.py IMAGES OUT.png NAME=RUN NAME=RUN ...`.

A row of images, and below it a row of overlays for each network, in the colours of the last one. In a name, `_` is a
space and `|` a line break.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import scantling
from scantling.figures.colour_disk import disk_picture
from scantling.figures.map_overlay import shown

SIDE, GAP, LEFT, DISK = 176, 6, 112, 88
INK: Final = (28, 28, 28)


def main(images: Path, out: Path, networks: dict[str, Path]) -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as work:
        reference = Path(work) / "reference"
        *others, last = networks
        scantling.figure("chromap", networks[last], images, reference)
        folders = {name: Path(work) / name for name in others} | {last: reference}
        for name in others:
            scantling.figure("chromap", networks[name], images, folders[name], like=reference)
        names = sorted(path.name for path in (reference / "overlays").iterdir())
        rows = [[_sized(_grey(images / name)) for name in names]]
        rows += [[_sized(Image.open(folders[name] / "overlays" / each)) for each in names] for name in networks]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (LEFT + len(names) * (SIDE + GAP) - GAP, sum(heights) + GAP * (len(rows) - 1)), "white")
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(15), 0
    for title, row, height in zip(("image", *networks), rows, heights, strict=True):
        for k, line in enumerate(title.replace("_", " ").split("|")):
            pen.text((0, top + height // 2 - 10 + 20 * k), line, fill=INK, font=font)
        for column, picture in enumerate(row):
            sheet.paste(picture, (LEFT + column * (SIDE + GAP), top))
        top += height + GAP
    sheet.paste(Image.fromarray(disk_picture(DISK)), (0, heights[0] // 2 + 24))
    sheet.save(out, optimize=True)


def _grey(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return Image.fromarray(shown(np.asarray(image.convert("L"))[None]))


def _sized(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE, round(SIDE * picture.height / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), {n: Path(run) for n, _, run in (a.partition("=") for a in sys.argv[3:])})
