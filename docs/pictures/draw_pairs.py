"""The pictures of docs/concepts/pixels-and-pairs.md: `python docs/pictures/draw_pairs.py` draws them again.

A pair of views of a phantom radiograph with corresponding points, and the pair matrix of each rule for twelve
pixels: two samples of two views with three places each, the second sample from a source in which nobody looked for
the right lung.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Tags
from scantling.contrast.relations import (
    ACROSS_PATIENTS,
    ACROSS_VIEWS,
    Relation,
    SameClass,
    SameGroup,
    SameImage,
    SamePoint,
    SameSliceBand,
    SameView,
    SliceWithin,
    Within,
)
from scantling.contrast.sampling import shared_points
from scantling.data.catalog.phantom import chest_image, draw_chest_case
from scantling.data.sample import Sample
from scantling.figures.correspondence import draw_correspondence
from scantling.figures.pair_matrix import Bracket, pair_matrix
from scantling.figures.svg import standalone
from scantling.views.correspondence import overlap, source_positions_mm, view_indices
from scantling.views.maker import ViewConfig, make_views
from scantling.views.view import ViewBatch

FOLDER = Path(__file__).parent
SIZE, PATCH = 192, (128, 128)

RULES: dict[str, tuple[str, Relation]] = {
    "same-point": ("SamePoint()", SamePoint()),
    "exclusion": ("SamePoint().among(~Within(12), only='negatives')", SamePoint().among(~Within(12), only="negatives")),
    "within": ("Within(12)", Within(12)),
    "within-ring": ("Within(12, exclusion_mm=55)", Within(12, exclusion_mm=55)),
    "same-image": ("SameImage()", SameImage()),
    "same-class": ("SameClass()", SameClass()),
    "across-views": ("SameClass().among(ACROSS_VIEWS)", SameClass().among(ACROSS_VIEWS)),
    "other-patients": (
        "SameClass().among(ACROSS_PATIENTS, only='positives')",
        SameClass().among(ACROSS_PATIENTS, only="positives"),
    ),
    "slice-band": ("SameSliceBand(2)", SameSliceBand(2)),
    "slice-within": ("SliceWithin(0.15)", SliceWithin(0.15)),
    "same-view": ("SameView()", SameView()),
    "same-group": ("SameGroup()", SameGroup()),
    "and": ("SameClass() & SameImage()", SameClass() & SameImage()),
    "or": ("SamePoint() | SameSliceBand(2)", SamePoint() | SameSliceBand(2)),
}


def tags() -> Tags:
    """Twelve pixels in the order (sample, view, place); classes are 0 background, 1 left lung, 2 right lung."""
    whole, part = [True, True, True], [True, True, False]
    one_view = torch.tensor([[10.0, 10.0], [18.0, 10.0], [60.0, 40.0]])
    return Tags(
        image=torch.tensor([0] * 6 + [1] * 6),
        patient=torch.tensor([0] * 6 + [1] * 6),
        view=torch.tensor([0, 0, 0, 1, 1, 1] * 2),
        point=torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]),
        position_mm=one_view.repeat(4, 1),
        slice_position=torch.tensor([0.2] * 6 + [0.3] * 3 + [0.8] * 3),
        klass=torch.tensor([1, 2, 0, 1, 2, 0, 1, 0, -1, 1, 0, -1]),
        annotated=torch.tensor([whole] * 6 + [part] * 6),
        group=torch.tensor([0, 1, 0, 0, 1, 1, 1, 0, -1, 0, 1, -1]),
    )


def matrices() -> dict[str, str]:
    """A picture for each rule."""
    brackets = [
        [Bracket(label=f"view {view}", length=3) for _ in range(2) for view in range(2)],
        [Bracket(label="sample 0", length=6), Bracket(label="sample 1", length=6)],
    ]
    found = {}
    for name, (title, relation) in RULES.items():
        pairs = PairRule(relation).pairs(tags())
        block = pairs.block(slice(0, 12), slice(0, 12))
        nobody, everybody = torch.zeros(12, 12, dtype=torch.bool), torch.ones(12, 12, dtype=torch.bool)
        compared = (everybody if block.compared is None else block.compared).clone()
        for usable, view in ((pairs.anchors_usable, (slice(None), None)), (pairs.keys_usable, (None, slice(None)))):
            compared &= everybody if usable is None else usable[view]
        compared.fill_diagonal_(False)  # a pixel is never a pair of itself
        positive = (nobody if block.positive is None else block.positive) & compared
        found[name] = pair_matrix(
            positive.numpy(), compared.numpy(), title=title, anchor_brackets=brackets, key_brackets=brackets, cell_px=18
        )
    return found


def views() -> np.ndarray:
    """Two views of a phantom radiograph, twelve places that both see, and what each sees of the other, dashed."""
    pixels = chest_image(3, draw_chest_case(3, 2, "labelled"), size=SIZE)
    image = torch.from_numpy(pixels.astype(np.float32))[None]
    sample = Sample(
        image=(image - image.mean()) / image.std(),
        label_map=torch.zeros(SIZE, SIZE, dtype=torch.long),
        weight=torch.ones(SIZE, SIZE),
        annotated=torch.tensor([True]),
        spacing_mm=(1.0, 1.0),
        source_from_sample=torch.eye(3, dtype=torch.float64),
        case_index=0,
        patient_index=0,
        slice_position=0.0,
        key=(0, 0),
    )
    config = ViewConfig(
        n_views=2, rotation_probability=1, rotation_deg=25, crop_probability=1, crop_area=(0.35, 0.6),
        scale_probability=0, translate_probability=0, elastic_probability=1, elastic_mm=4, elastic_spacing_mm=32,
    )  # fmt: skip
    batch = make_views([sample], config, PATCH, seed=11)
    points = shared_points(batch, 12, torch.Generator().manual_seed(1))
    frames = [frame(batch, of=1, within=0), frame(batch, of=0, within=1)]
    first, second = (view.numpy() for view in batch.images[0])
    assert overlap(batch, 0, 1).any()
    return draw_correspondence(
        first, second, points.indices[0, 0].double().numpy(), points.indices[0, 1].double().numpy(),
        shared=points.usable[0].all(dim=0).numpy(), first_frame=frames[0], second_frame=frames[1],
        captions=("one view", "another: turned, cropped, bent"),
    )  # fmt: skip


def frame(batch: ViewBatch, *, of: int, within: int) -> np.ndarray:
    """The border of one view, in the indices of another."""
    steps = torch.linspace(-0.5, PATCH[0] - 0.5, 40, dtype=torch.float64)
    low, high = torch.full_like(steps, -0.5), torch.full_like(steps, PATCH[1] - 0.5)
    sides = [(steps, low), (high, steps), (steps.flip(0), high), (low, steps.flip(0))]
    border = torch.cat([torch.stack(side, dim=1) for side in sides]).flip(1)
    everywhere = source_positions_mm(batch, border.expand(1, 2, *border.shape))
    return view_indices(batch, everywhere[:, [of, of]])[0, within].numpy()


def main() -> None:
    Image.fromarray(views()).save(FOLDER / "view-pair.png", optimize=True)
    (FOLDER / "pairs").mkdir(exist_ok=True)
    for name, picture in matrices().items():
        (FOLDER / "pairs" / f"{name}.svg").write_text(standalone(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
