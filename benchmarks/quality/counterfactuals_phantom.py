"""Counterfactuals of the chest phantom against the true ones, which can be drawn: an image model and baselines.

    python benchmarks/quality/counterfactuals_phantom.py [WORK]

3,000 training images of 64 pixels, 1,000 of them labelled, and 200 held-out ones; an image model of 1,500 steps, which
sees no label, and a segmentation network of 1,500 steps. Rows go to docs/results/counterfactuals_phantom.csv. Nothing
was chosen on these patients: the settings on another draw of them (seed 1, docs/lab-notes.md), the checkpoint by the
bound on 64 validation images.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scantling
from scantling.counterfactuals.appearance import AppearanceSource
from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.model_files import load_image_model
from scantling.counterfactuals.source_image import SourceImage, read_source
from scantling.data.catalog.chest_anatomy import draw_chest_anatomy
from scantling.data.catalog.chest_render import hidden_by_fluid
from scantling.data.catalog.phantom import ChestCase, chest_image, draw_chest_case, write_chest_phantom
from scantling.data.image import MedicalImage
from scantling.data.layouts import open_dataset
from scantling.evaluation.statistics import bootstrap_mean
from scantling.inference.predictor import Predictor
from scantling.sealed_folder import find_model_folder
from scantling.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "counterfactuals_phantom.csv"
PAGE = ROOT / "docs" / "how-to" / "counterfactuals.md"
BEGIN, END = "<!-- table:counterfactuals_phantom -->", "<!-- /table:counterfactuals_phantom -->"
SEED, SIZE, N_TRAIN, N_LABELLED, N_TEST = 2, 64, 3000, 1000, 200
STEPS = int(os.environ.get("STEPS", "1500"))
ATTRIBUTES = ["scanner", "sex", "finding"]
SETTINGS = [
    'settings.attributes=["scanner", "sex", "finding"]',
    'settings.constraint.attributes=["sex", "finding"]',  # the bound alone pays for the scanner
    "settings.constraint.sparse={sex = 0.1, finding = 0.1}",  # said to change a part of the image only
]
OTHER = {"A": "B", "B": "A", "none": "effusion", "effusion": "none", "F": "M", "M": "F"}


def true_image(case: ChestCase, **changed: str) -> np.ndarray:
    """The radiograph this patient would have given."""
    return chest_image(SEED, replace(case, **changed), size=SIZE).astype(np.float64)  # type: ignore[arg-type]


def error(image: SourceImage, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Mean absolute error, as a share of the 255 grey values."""
    off = np.abs(image.channels[0].astype(np.float64) - truth) / 255
    return float(off.mean() if region is None else off[region].mean())


def swaps(
    generators: dict[str, CounterfactualGenerator], images: Sequence[SourceImage], cases: Sequence[ChestCase]
) -> Iterator[tuple[str, str, list[float]]]:
    """Measures by source, one value an image."""
    for attribute in ATTRIBUTES:
        truths = [true_image(case, **{attribute: OTHER[getattr(case, attribute)]}) for case in cases]
        yield f"{attribute}: error", "unchanged", [error(i, t) for i, t in zip(images, truths, strict=True)]
        regions = [hidden_by_fluid(draw_chest_anatomy(SEED, case.case_id), size=SIZE) for case in cases]
        if attribute == "finding":
            for before in ("none", "effusion"):
                kept = [k for k, case in enumerate(cases) if case.finding == before]
                values = [error(images[k], truths[k], regions[k]) for k in kept]
                yield f"finding {before} to {OTHER[before]}: error in its region", "unchanged", values
        for name, generator in generators.items():
            if name == "appearance" and attribute != "scanner":
                continue
            made = [
                generator.counterfactual(image, {attribute: OTHER[getattr(case, attribute)]}).image
                for image, case in zip(images, cases, strict=True)
            ]
            yield f"{attribute}: error", name, [error(m, t) for m, t in zip(made, truths, strict=True)]
            if attribute == "finding":
                for before in ("none", "effusion"):
                    kept = [k for k, case in enumerate(cases) if case.finding == before]
                    values = [error(made[k], truths[k], regions[k]) for k in kept]
                    yield f"finding {before} to {OTHER[before]}: error in its region", name, values
            back = [
                generator.counterfactual(m, {attribute: getattr(case, attribute)}).image
                for m, case in zip(made, cases, strict=True)
            ]
            returned = [error(b, i.channels[0].astype(np.float64)) for b, i in zip(back, images, strict=True)]
            yield f"{attribute}: error after there and back", name, returned
    for name, generator in generators.items():
        if name == "appearance":
            continue
        same = [
            generator.counterfactual(image, {a: getattr(case, a) for a in ATTRIBUTES}).image
            for image, case in zip(images, cases, strict=True)
        ]
        nothing = [error(s, i.channels[0].astype(np.float64)) for s, i in zip(same, images, strict=True)]
        yield "composition: error of doing nothing", name, nothing


def kept_lungs(
    generator: CounterfactualGenerator, segmenter: Predictor, images: Sequence[SourceImage], cases: Sequence[ChestCase]
) -> Iterator[tuple[str, str, list[float]]]:
    """Dice of both lungs as a segmentation network sees them in image and counterfactual."""

    def lungs(image: SourceImage) -> np.ndarray:
        picture = MedicalImage(array=np.stack(image.channels), geometry=image.geometry)
        label_map = segmenter.predict([picture]).label_map
        return np.isin(label_map, (1, 2))

    for attribute in ATTRIBUTES:
        values, truths = [], []
        for image, case in zip(images, cases, strict=True):
            other = OTHER[getattr(case, attribute)]
            first = lungs(image)
            made = lungs(generator.counterfactual(image, {attribute: other}).image)
            drawn = true_image(case, **{attribute: other}).astype(np.uint8)
            truth = lungs(replace(image, channels=(drawn,)))
            values.append(2 * float((first & made).sum()) / float(first.sum() + made.sum()))
            truths.append(2 * float((first & truth).sum()) / float(first.sum() + truth.sum()))
        yield f"{attribute}: lung Dice, image and counterfactual", "image model", values
        yield f"{attribute}: lung Dice, image and counterfactual", "true counterfactual", truths


def main(work: Path) -> None:
    """Draw, train, measure, write down."""
    data = work / "phantom"
    if not data.exists():
        write_chest_phantom(
            data, n_labelled=N_LABELLED, n_unlabelled=N_TRAIN - N_LABELLED, n_test=N_TEST, seed=SEED, size=SIZE
        )
    run, segmentation = work / "image-model", work / "segmentation"
    if not (run / "report.html").exists():
        scantling.train(
            data, run, recipe="counterfactual_vae", steps=STEPS, quiet=False, overwrite=True,
            settings=SETTINGS,
        )  # fmt: skip
    if not (segmentation / "report.html").exists():
        scantling.train(data, segmentation, recipe="supervised", steps=1500, quiet=False, overwrite=True)
    model = load_image_model(find_model_folder(run), torch.device("cpu"))
    manifest = open_dataset(data)
    cases = [draw_chest_case(SEED, N_TRAIN + k, "test") for k in range(N_TEST)]
    images = [read_source(manifest.case(case.case_id), 1) for case in cases]
    training = (read_source(case, 1) for case in manifest.cases if case.split == "train")
    appearance = AppearanceSource.fit(training, attribute="scanner")
    generators = {
        "image model": model.generator(),
        "appearance": CounterfactualGenerator(graph=model.graph, source=appearance, plan=model.plan),
    }
    fresh = True
    for measure, source, values in [
        *swaps(generators, images, cases),
        *kept_lungs(generators["image model"], Predictor.load(segmentation), images, cases),
    ]:
        append(row(measure, source, values, RunFolder.open(run).status()), fresh=fresh)
        fresh = False
    write_table()


def row(measure: str, source: str, values: Sequence[float], status: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table, with a bootstrap interval over patients, of whom each has one image."""
    patients = [str(k) for k in range(len(values))]
    found = bootstrap_mean(np.array(values), patients, np.random.default_rng(0))
    environment = status["environment"]
    return {
        "measure": measure,
        "source": source,
        "mean": f"{np.mean(values):.4f}",
        "low": f"{found.low:.4f}",
        "high": f"{found.high:.4f}",
        "n": len(values),
        "training_minutes": f"{status['training_seconds'] / 60:.1f}",
        "steps": status["steps"],
        "seed": status["seed"],
        "selection": "best bound on validation images",
        "version": scantling.__version__,
        "machine": f"{environment['cores']} cores, {environment['memory_gib']} GiB, {status['device']}, "
        f"{status['precision'].removeprefix('torch.')}, torch {environment['versions']['torch']}",
    }


def append(line: dict[str, Any], *, fresh: bool) -> None:
    """Add a row; a fresh table begins with its header."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w" if fresh else "a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, line.keys())
        if fresh:
            writer.writeheader()
        writer.writerow(line)
    print(line["measure"], "|", line["source"], "|", line["mean"], flush=True)


def write_table() -> None:
    """Put the rows as a table between its marks in the how-to."""
    with RESULTS.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lines = ["| measure | source | mean (95 % interval) | images |", "|" + " --- |" * 4]
    for row in rows:
        mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
        lines.append(f"| {row['measure']} | {row['source']} | {mean:.4f} ({low:.4f} to {high:.4f}) | {row['n']} |")
    first = rows[0]
    lines += [
        "",
        f"Chest phantom, {SIZE} x {SIZE}, {N_TRAIN} training images, {N_TEST} held-out ones; errors as shares of 255 "
        f"grey values. {first['training_minutes']} minutes of training ({first['steps']} steps), seed {first['seed']}, "
        f"checkpoint by {first['selection']}; {first['machine']}. Intervals: bootstrap over patients.",
    ]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary))
