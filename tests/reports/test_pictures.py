"""Worst cases are drawn from the files, the right way round, and nothing is left out in silence."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scantling.data.case import ClassTable
from scantling.data.catalog.chest_anatomy import CHEST_CLASSES
from scantling.data.image import ImageGeometry
from scantling.data.image_io import read_geometry, read_label, write_scalar_map
from scantling.data.layouts import open_dataset
from scantling.data.plan import Plan
from scantling.evaluation.results import Evaluation
from scantling.figures.hanging import oriented_slices
from scantling.reports.pictures import draw_worst_cases
from scantling.reports.reliability import measured_reliability
from scantling.reports.scores import case_scores


def volume_geometry(shape, spacing, axes) -> ImageGeometry:
    """A grid whose array axes run along the given world axes, as `("S", "P", "L")`."""
    world = np.zeros((4, 4))
    world[3, 3] = 1
    for axis, (letter, mm) in enumerate(zip(axes, spacing, strict=True)):
        row = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter]
        world[row, axis] = mm if letter in "RAS" else -mm
    return ImageGeometry(shape=shape, spacing_mm=spacing, spacing_known=True, world_from_index=world, file_type="nifti")


def index_of(run: Path) -> dict:
    return json.loads((run / "pictures" / "index.json").read_text())


def test_the_worst_usable_cases_and_the_median_are_drawn_in_order(finished_run):
    evaluation = Evaluation.load(finished_run / "metrics.csv", finished_run / "evaluation.json")
    usable = [s for s in case_scores(evaluation) if "missing_file" not in s.status.values()]
    drawn = index_of(finished_run)["pictures"]
    assert [(d["case"], d["role"]) for d in drawn] == [(s.case_id, "worst") for s in usable[:4]] + [
        (usable[4].case_id, "median")
    ]
    assert drawn[0]["dice"] == pytest.approx(usable[0].mean)
    assert drawn[0]["n_slices"] == 1
    assert not drawn[0]["enlarged"]  # lungs fill the picture
    for entry in drawn:
        with Image.open(finished_run / "pictures" / entry["file"]) as picture:
            assert picture.size == (120, 120)


def test_file_names_of_pictures_hold_no_case_name(finished_run):
    assert all("chest" not in path.name for path in (finished_run / "pictures").iterdir())


def test_drawing_again_gives_the_same_bytes(finished_run):
    before = {path.name: path.read_bytes() for path in (finished_run / "pictures").iterdir()}
    draw_worst_cases(finished_run, n_worst=4, height_px=120)
    assert {path.name: path.read_bytes() for path in (finished_run / "pictures").iterdir()} == before


def test_without_the_data_every_case_is_listed_with_the_reason(finished_run):
    config = finished_run / "config.toml"
    config.write_text('[data]\npath = "/nowhere/at/all"\n')
    assert draw_worst_cases(finished_run, n_worst=2) == []
    index = index_of(finished_run)
    assert index["pictures"] == []
    assert len(index["left_out"]) == 3
    assert all("no longer where the run found it" in left["reason"] for left in index["left_out"])


def test_a_vanished_prediction_is_listed_and_the_others_are_drawn(finished_run):
    first = index_of(finished_run)["pictures"][0]["case"]
    (finished_run / "predictions" / f"{first}.png").unlink()
    assert len(draw_worst_cases(finished_run, n_worst=3)) == 3
    assert index_of(finished_run)["left_out"] == [{"case": first, "reason": "it has no prediction"}]


def test_without_scores_nothing_is_drawn(finished_run):
    (finished_run / "evaluation.json").unlink()
    shutil.rmtree(finished_run / "pictures")
    assert draw_worst_cases(finished_run) == []
    assert not (finished_run / "pictures").exists()


@pytest.mark.parametrize(
    ("axes", "spacing"),
    [(("S", "P", "L"), (8, 1, 1)), (("I", "A", "R"), (8, 1, 1)), (("R", "S", "A"), (1, 1, 1))],
)
def test_axial_slices_hang_with_the_front_up_and_the_left_on_the_right(axes, spacing):
    shape = (4, 5, 6)
    geometry = volume_geometry(shape, tuple(map(float, spacing)), axes)
    world = np.einsum("ij,jzyx->izyx", geometry.world_from_index[:3, :3], np.indices(shape).astype(float))
    slices, _ = oriented_slices(world, geometry)
    x, y, z = slices  # world coordinates of every displayed pixel
    assert (np.diff(x, axis=2) < 0).all()  # columns run to the patient's left
    assert (np.diff(y, axis=1) < 0).all()  # rows run to the back
    assert (np.ptp(z, axis=(1, 2)) == 0).all()


def test_thick_sagittal_slices_hang_head_up_and_face_left():
    geometry = volume_geometry((3, 6, 7), (5.0, 1.0, 2.0), ("R", "A", "S"))
    world = np.einsum("ij,jzyx->izyx", geometry.world_from_index[:3, :3], np.indices((3, 6, 7)).astype(float))
    slices, spacing = oriented_slices(world, geometry)
    _, y, z = slices
    assert slices.shape == (3, 3, 7, 6)
    assert (np.diff(z, axis=1) < 0).all()
    assert (np.diff(y, axis=2) < 0).all()
    assert spacing == (2.0, 1.0)


def test_honest_probabilities_lie_on_the_diagonal(finished_run):
    data = json.loads((finished_run / "splits.json").read_text())["heldout"][:4]
    root = finished_run_data(finished_run)
    manifest = open_dataset(root)
    rng = np.random.default_rng(0)
    for case_id in data:
        reference, _ = read_label(root / "labels" / f"{case_id}.png")
        right = rng.random(reference.shape) < 0.7  # the predicted class is right in 70 of 100 pixels
        winner = np.where(right, reference, (reference + 1) % 4)
        probs = np.full((4, *reference.shape), 0.1, dtype=np.float32)
        np.put_along_axis(probs, winner[None].astype(int), 0.7, axis=0)
        geometry = read_geometry(root / "images" / f"{case_id}.png")
        write_scalar_map(finished_run / "predictions" / "probabilities" / f"{case_id}.tiff", probs, geometry)
    plan = plan_of(finished_run)
    classes = ClassTable(names=CHEST_CLASSES.names, stored=CHEST_CLASSES.stored)
    found = measured_reliability(finished_run, manifest, plan, classes, data)
    assert found["confidence"] == pytest.approx([0.7], abs=1e-6)
    assert found["frequency"] == pytest.approx([0.7], abs=0.02)
    assert sum(found["count"]) == 4 * 64 * 64


def finished_run_data(run: Path) -> Path:
    return Path(tomllib.loads((run / "config.toml").read_text())["data"]["path"])


def plan_of(run: Path) -> Plan:
    return Plan.parse(json.loads((run / "plan.json").read_text()), where="plan")
