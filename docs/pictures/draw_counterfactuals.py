"""The picture of docs/how-to/counterfactuals.md: `python docs/pictures/draw_counterfactuals.py WORK`.

WORK is where benchmarks/quality/counterfactuals_phantom.py trained its image model. Held-out phantom radiographs, the
first of each scanner and finding: the image, its counterfactual under the other scanner and the true one, its
counterfactual with the finding put in or taken out and the true one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw

from scantling.counterfactuals.model_files import load_generator
from scantling.counterfactuals.source_image import read_source
from scantling.data.catalog.phantom import ChestCase, chest_image, draw_chest_case
from scantling.data.layouts import open_dataset

SEED, SIZE, N_TRAIN, ENLARGED = 2, 64, 3000, 2
OTHER: Final = {"A": "B", "B": "A", "none": "effusion", "effusion": "none"}
TITLES: Final = ("image", "other scanner", "the true one", "other finding", "the true one")
GAP, HEAD = 6, 20


def shown() -> list[ChestCase]:
    """One held-out case of each scanner and finding, the first there is."""
    found: dict[tuple[str, str], ChestCase] = {}
    for k in range(200):
        case = draw_chest_case(SEED, N_TRAIN + k, "test")
        found.setdefault((case.scanner, case.finding), case)
    return [found[key] for key in sorted(found)]


def main(work: Path) -> None:
    """Draw it."""
    generator = load_generator(work / "image-model", torch.device("cpu"))
    manifest = open_dataset(work / "phantom")
    side = SIZE * ENLARGED
    cases = shown()
    sheet = Image.new("L", (len(TITLES) * (side + GAP) - GAP, HEAD + len(cases) * (side + GAP) - GAP), 255)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(TITLES):
        pen.text((column * (side + GAP) + 2, 4), title, fill=0)
    for row, case in enumerate(cases):
        image = read_source(manifest.case(case.case_id), 1)
        pictures: list[np.ndarray] = [image.channels[0]]
        for attribute in ("scanner", "finding"):
            other = OTHER[getattr(case, attribute)]
            pictures.append(generator.counterfactual(image, {attribute: other}).image.channels[0])
            changed: dict[str, str] = {attribute: other}
            pictures.append(chest_image(SEED, replace(case, **changed), size=SIZE))  # type: ignore[arg-type]
        for column, picture in enumerate(pictures):
            enlarged = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(enlarged, (column * (side + GAP), HEAD + row * (side + GAP)))
    sheet.save(Path(__file__).with_name("counterfactuals.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
