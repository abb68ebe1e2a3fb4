"""The phantoms must be anatomy first: same body under every scanner, labels that no rendering moves."""

import csv
import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from scantling.data.catalog.cardiac_anatomy import GROUPS, cardiac_label_map, draw_cardiac_anatomy
from scantling.data.catalog.cardiac_render import render_cardiac
from scantling.data.catalog.chest_anatomy import chest_label_map, draw_chest_anatomy
from scantling.data.catalog.chest_render import hidden_by_fluid, render_chest
from scantling.data.catalog.chest_silver import mean_dice, silver_chest_label_map
from scantling.data.catalog.phantom import (
    chest_image,
    draw_chest_case,
    write_cardiac_phantom,
    write_chest_phantom,
)
from scantling.errors import ConfigError

SHAPE, SPACING = (8, 80, 80), (10.0, 2.0, 2.0)


def chest(index: int, **factors: str) -> np.ndarray:
    chosen = {"scanner": "A", "finding": "none", "sex": "M"} | factors
    return render_chest(draw_chest_anatomy(7, f"c{index}"), noise_key=str(index), **chosen).astype(float)


def cardiac(index: int, **factors: str) -> np.ndarray:
    anatomy = draw_cardiac_anatomy(7, f"c{index}")
    return render_cardiac(anatomy, scanner="A", noise_key="k", shape=SHAPE, spacing_mm=SPACING)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("index", range(12))
def test_chest_structures_are_whole_and_on_their_sides(index):
    label_map = chest_label_map(draw_chest_anatomy(7, f"c{index}"))
    shares = [np.mean(label_map == value) for value in range(4)]
    assert shares[0] > 0.4
    assert all(0.02 < share < 0.3 for share in shares[1:])
    centre = [ndimage.center_of_mass(label_map == value)[1] for value in range(4)]
    assert centre[1] < centre[3] < centre[2]  # the right lung is on the image's left
    for value in (1, 2, 3):
        parts, _ = ndimage.label(label_map == value)
        assert np.bincount(parts.ravel())[1:].max() > 0.93 * np.count_nonzero(label_map == value)


def test_lungs_are_darker_than_heart_and_abdomen_under_both_scanners():
    for scanner in ("A", "B"):
        for index in range(6):
            image = chest(index, scanner=scanner)
            label_map = chest_label_map(draw_chest_anatomy(7, f"c{index}"))
            lungs, heart = image[(label_map == 1) | (label_map == 2)], image[label_map == 3]
            assert np.median(lungs) + 15 < np.median(heart)


def test_an_effusion_changes_the_image_only_around_hidden_lung():
    changed_shares = []
    for index in range(8):
        anatomy = draw_chest_anatomy(7, f"c{index}")
        changed = np.abs(chest(index, finding="effusion") - chest(index)) > 12
        near = ndimage.binary_dilation(hidden_by_fluid(anatomy), iterations=9)
        changed_shares.append(changed.mean())
        assert (changed & ~near).mean() < 0.002  # haze at the surface's thin end
    assert np.median(changed_shares) > 0.01


def test_hidden_lung_is_part_of_the_true_label_and_as_bright_as_the_abdomen():
    for index in range(8):
        anatomy = draw_chest_anatomy(7, f"c{index}")
        hidden = ndimage.binary_erosion(hidden_by_fluid(anatomy), iterations=2)
        assert (chest_label_map(anatomy)[hidden] > 0).all()
        if hidden.sum() > 30:
            assert np.median(chest(index, finding="effusion")[hidden]) > np.median(chest(index)[hidden]) + 20


def test_scanners_share_noise_and_differ_in_response():
    first, second = chest(0, scanner="A"), chest(0, scanner="B")
    assert abs(first.std() - second.std()) > 10
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.85
    assert np.array_equal(chest(0, scanner="A"), first)


def test_another_noise_key_moves_no_structure():
    anatomy = draw_chest_anatomy(7, "c0")
    first, second = (render_chest(anatomy, scanner="A", noise_key=key).astype(float) for key in "ab")
    assert not np.array_equal(first, second)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.95


def test_the_female_build_adds_soft_tissue_and_keeps_the_lungs_where_they_are():
    for index in range(4):
        label_map = chest_label_map(draw_chest_anatomy(7, f"c{index}"))
        lungs = (label_map == 1) | (label_map == 2)
        upper = lungs.copy()
        upper[64:] = False
        difference = chest(index, sex="F") - chest(index, sex="M")
        assert difference[lungs].max() > 15
        assert np.median(np.abs(difference[upper])) < 6


def test_shapes_do_not_depend_on_the_size_of_the_picture():
    anatomy = draw_chest_anatomy(7, "c3")
    small, large = chest_label_map(anatomy, size=64), chest_label_map(anatomy, size=256)
    assert mean_dice(np.kron(small, np.ones((4, 4), dtype=np.uint8)), large) > 0.94


def test_an_unknown_scanner_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"'C'.*known are A, B"):
        chest(0, scanner="C")


def test_silver_labels_carry_their_true_quality_and_fail_sometimes_badly():
    qualities = []
    for index in range(60):
        anatomy = draw_chest_anatomy(7, f"c{index}")
        silver, quality = silver_chest_label_map(anatomy, finding="effusion" if index % 2 else "none", key=f"{index}")
        truth = chest_label_map(anatomy)
        dice = [
            2 * np.sum((silver == v) & (truth == v)) / (np.sum(silver == v) + np.sum(truth == v)) for v in (1, 2, 3)
        ]
        assert quality == pytest.approx(np.mean(dice), abs=1e-12)
        qualities.append(quality)
    assert 0.88 < np.median(qualities) < 0.98
    assert min(qualities) < 0.8
    assert np.mean(qualities[1::2]) < np.mean(qualities[::2])  # effusions are where the method fails


def test_a_case_can_be_drawn_again_from_seed_and_row(tmp_path):
    folder = write_chest_phantom(tmp_path / "d", n_labelled=2, n_unlabelled=3, n_test=2, seed=11, size=64)
    roles = ["labelled"] * 2 + ["unlabelled"] * 3 + ["test"] * 2
    for index, (row, role) in enumerate(zip(rows_of(folder), roles, strict=True)):
        case = draw_chest_case(11, index, role)
        assert (row["case"], row["scanner"], row["sex"], row["finding"], row["site"]) == (
            case.case_id, case.scanner, case.sex, case.finding, case.site,
        )  # fmt: skip
        stored = pixels(folder / row["image"])
        assert np.array_equal(stored, chest_image(11, case, size=64))
        swapped = replace(case, scanner="B" if case.scanner == "A" else "A")
        assert not np.array_equal(stored, chest_image(11, swapped, size=64))


def test_chest_folder_holds_the_labels_its_table_promises(tmp_path):
    folder = write_chest_phantom(tmp_path / "d", n_labelled=2, n_unlabelled=4, n_test=3, seed=0, size=64, silver=True)
    rows = rows_of(folder)
    kinds = [(row["case"][-1], row["label_kind"], row["split"]) for row in rows]
    training = [(str(k), "full", "train") for k in range(2)] + [(str(k), "silver", "train") for k in range(6)]
    assert sorted(kinds) == sorted(training + [(str(k), "full", "test") for k in range(6, 9)])
    for row in rows:
        assert pixels(folder / row["image"]).shape == (64, 64)
        assert set(np.unique(pixels(folder / row["label"]))) <= {0, 1, 2, 3}
        if row["label_kind"] == "silver":
            assert 0 <= float(row["quality"]) <= 1
    assert {row["scanner"] for row in rows} == {"A", "B"}
    table = tomllib.loads((folder / "dataset.toml").read_text())
    assert table["classes"] == {"right_lung": 1, "left_lung": 2, "heart": 3}
    assert table["modality"] == "CR"


def test_the_same_seed_gives_the_same_bytes_and_more_cases_change_no_earlier_one(tmp_path):
    first = write_chest_phantom(tmp_path / "a", n_labelled=2, n_unlabelled=1, n_test=0, seed=4, size=48)
    again = write_chest_phantom(tmp_path / "b", n_labelled=2, n_unlabelled=3, n_test=1, seed=4, size=48)
    other = write_chest_phantom(tmp_path / "c", n_labelled=2, n_unlabelled=1, n_test=0, seed=5, size=48)
    names = sorted(p.relative_to(first) for p in first.rglob("*.png"))
    assert len(names) == 5
    assert all((first / n).read_bytes() == (again / n).read_bytes() for n in names)
    assert all((first / n).read_bytes() != (other / n).read_bytes() for n in names)


@pytest.mark.parametrize("writer", [write_chest_phantom, write_cardiac_phantom])
def test_senseless_counts_and_used_folders_are_refused(writer, tmp_path):
    with pytest.raises(ConfigError, match="at least one case"):
        writer(tmp_path / "d", n_labelled=0, n_unlabelled=0, n_test=0, seed=0)
    with pytest.raises(ConfigError, match="counts of 0 or more"):
        writer(tmp_path / "d", n_labelled=-1, n_unlabelled=2, n_test=0, seed=0)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        writer(tmp_path / "used", n_labelled=1, n_unlabelled=0, n_test=0, seed=0)


@pytest.mark.parametrize("index", range(6))
def test_cardiac_cavity_is_enclosed_by_its_wall_and_the_right_side_lies_beside(index):
    label_map = cardiac_label_map(draw_cardiac_anatomy(7, f"c{index}"), shape=SHAPE, spacing_mm=SPACING)
    assert set(np.unique(label_map)) == {0, 1, 2, 3}
    for piece in label_map:
        around_cavity = ndimage.binary_dilation(piece == 3) & (piece != 3)
        assert (piece[around_cavity] == 2).all()
        if (piece == 1).any() and (piece == 3).any():
            assert ndimage.center_of_mass(piece == 1)[1] < ndimage.center_of_mass(piece == 3)[1]


def test_cardiac_groups_differ_in_the_way_their_names_say():
    ratios: dict[str, list[float]] = {group: [] for group in GROUPS}
    for index in range(24):
        anatomy = draw_cardiac_anatomy(1, f"c{index}")
        label_map = cardiac_label_map(anatomy, shape=SHAPE, spacing_mm=SPACING)
        ratios[anatomy.group].append(np.count_nonzero(label_map == 2) / np.count_nonzero(label_map == 3))
    means = {group: float(np.mean(values)) for group, values in ratios.items()}
    assert means["dilated"] < means["normal"] < means["hypertrophic"]


def test_cardiac_blood_is_brighter_than_muscle_and_borders_are_partly_both():
    anatomy = draw_cardiac_anatomy(7, "c0")
    image, label_map = cardiac(0), cardiac_label_map(anatomy, shape=SHAPE, spacing_mm=SPACING)
    cavity, wall = (ndimage.binary_erosion(label_map == v, structure=np.ones((1, 3, 3))) for v in (3, 2))
    blood, muscle = np.median(image[cavity]), np.median(image[wall])
    assert blood > 1.6 * muscle
    middle = label_map[SHAPE[0] // 2]
    edge = ndimage.binary_dilation(middle == 3) & (middle == 2)
    assert muscle < np.median(image[SHAPE[0] // 2][edge]) < blood


def test_cardiac_folder_is_readable_with_its_spacing_and_its_scribbles_are_true(tmp_path):
    folder = write_cardiac_phantom(
        tmp_path / "d",
        n_labelled=1,
        n_unlabelled=1,
        n_test=1,
        seed=2,
        shape=(6, 64, 64),
        spacing_mm=(9.0, 2.0, 2.0),
    )
    rows = rows_of(folder)
    assert [row["label_kind"] for row in rows] == ["full", "scribble", "none", "full"]
    assert [row["split"] for row in rows] == ["train", "train", "train", "test"]
    image, full, drawn = (nib.load(folder / path) for path in (rows[0]["image"], rows[0]["label"], rows[1]["label"]))
    assert image.shape == (64, 64, 6)
    assert image.header.get_zooms()[2] == pytest.approx(9.0)
    assert 1.7 < image.header.get_zooms()[0] < 2.3
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert np.allclose(image.affine, full.affine)
    scribble, truth = np.asarray(drawn.dataobj), np.asarray(full.dataobj)
    said = scribble != int(rows[1]["ignore"])
    assert np.array_equal(scribble[said], truth[said])
    assert 0.004 < said.mean() < 0.03


def test_phantom_folders_are_read_as_they_are(tmp_path):
    layouts = pytest.importorskip("scantling.data.layouts")
    folder = write_chest_phantom(tmp_path / "d", n_labelled=2, n_unlabelled=2, n_test=1, seed=0, size=48, silver=True)
    manifest = layouts.open_dataset(folder)
    assert len(manifest.cases) == 5
    assert manifest.classes.names == ("background", "right_lung", "left_lung", "heart")
    assert len(manifest.labelled(("full",))) == 3
    assert not manifest.problems
    assert manifest.cases[0].attributes["finding"] in ("none", "effusion")
