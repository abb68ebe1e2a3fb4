"""Label maps that do not fit: a picture of each, and copies that do fit once they take the originals' place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scantling.cli.main import app
from scantling.errors import ConfigError
from scantling.workflows.verbs import inspect

TRUTH = np.zeros((12, 14, 10), dtype=np.uint8)  # voxel axes x, y, z
TRUTH[3:7, 2:9, 4:8] = 1
TRUTH[7:9, 2:5, 4:6] = 2


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def affine(*offset: float) -> np.ndarray:
    return nib.affines.from_matvec(np.diag([1.5, 1.5, 3.0]), offset or (0, 0, 0))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labels that fit, lie 0.2 voxels off, far off, in another orientation, and on a part of the image only."""
    rng = np.random.default_rng(0)
    for name in ("fits", "near", "far", "turned", "part"):
        save(tmp_path / "data" / "images" / f"{name}.nii.gz", rng.integers(0, 500, TRUTH.shape).astype("i2"), affine())
    labels = tmp_path / "data" / "labels"
    save(labels / "fits.nii.gz", TRUTH, affine())
    save(labels / "near.nii.gz", TRUTH, affine(0.3, 0, 0))
    save(labels / "far.nii.gz", TRUTH, affine(400, 0, 0))
    turned = nib.Nifti1Image(TRUTH, affine()).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, labels / "turned.nii.gz")
    save(labels / "part.nii.gz", TRUTH[2:, 1:, 3:], affine(3.0, 1.5, 9.0))
    return tmp_path / "data"


def run(*words: object, code: int) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def errors(data: Path) -> set[str]:
    return {problem.case_id for problem in inspect(data).errors}


def test_each_misfit_is_drawn_and_the_summary_says_where(data: Path, tmp_path: Path) -> None:
    printed = run(data, "-o", tmp_path / "out", code=3)
    pictures = sorted(path.name for path in (tmp_path / "out" / "misfits").iterdir())
    assert pictures == ["far.png", "near.png", "part.png", "turned.png"]
    for path in (tmp_path / "out" / "misfits").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("P").getcolors()) > 10
    line = f"Pictures of label maps that do not fit: {tmp_path / 'out' / 'misfits' / 'far.png'} (and 3 more there)"
    assert line in printed
    assert "'--fix header' writes its voxels under the image's header" in printed
    assert not (tmp_path / "out" / "fixed_labels").exists()
    assert not list(data.rglob("*.png"))


def test_headers_alone_show_misfits_but_no_damage(data: Path, tmp_path: Path) -> None:
    path = data / "images" / "fits.nii.gz"
    path.write_bytes(path.read_bytes()[:-3])
    printed = run(data, "-o", tmp_path / "out", "--headers-only", code=3)
    assert "Headers only: " in printed
    assert "damaged" not in printed
    assert len(list((tmp_path / "out" / "misfits").iterdir())) == 4
    assert "damaged" in run(data, "-o", tmp_path / "out", code=3)


def test_a_misfit_whose_voxels_turn_out_to_be_damaged_does_not_cost_the_others(data: Path, tmp_path: Path) -> None:
    path = data / "labels" / "turned.nii.gz"
    path.write_bytes(path.read_bytes()[:-3])
    table = "".join(f"{n},images/{n}.nii.gz,labels/{n}.nii.gz,full\n" for n in ("far", "part", "turned"))
    (data / "cases.csv").write_text("case,image,label,label_kind\n" + table)
    (data / "dataset.toml").write_text("[classes]\na = 1\nb = 2\n")
    found = inspect(data, tmp_path / "out", fix="header", headers_only=True)
    assert [path.stem for path in found.pictures] == ["far", "part"]
    assert [path.name for path in found.copies] == ["far.nii.gz"]
    said = {problem.case_id: problem.message for problem in found.problems if problem.code == "E-GEO-04"}
    assert said.keys() == {"part", "turned"}
    assert said["part"].endswith("wrote no copy, because it is 7 x 13 x 10 voxels and its image 10 x 14 x 12")
    assert "the file is damaged" in said["turned"]


def test_an_empty_label_map_of_another_size_is_resampled_to_an_empty_one(data: Path, tmp_path: Path) -> None:
    save(data / "labels" / "part.nii.gz", np.zeros((5, 5, 5), np.uint8), affine())
    found = inspect(data, tmp_path / "out", fix="grid")
    copy = nib.load(next(path for path in found.copies if path.name == "part.nii.gz"))
    assert (copy.shape, np.asarray(copy.dataobj).any()) == (TRUTH.shape, np.False_)


def test_a_set_that_fits_is_not_drawn(data: Path, tmp_path: Path) -> None:
    for name in ("near", "far", "turned", "part"):
        (data / "images" / f"{name}.nii.gz").unlink()
        (data / "labels" / f"{name}.nii.gz").unlink()
    assert "Pictures" not in run(data, "-o", tmp_path / "out", code=0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data.lock.json"]


def test_copies_resampled_by_their_headers_fit_and_hold_what_was_there(data: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*.nii.gz")}
    found = json.loads(run(data, "-o", tmp_path / "out", "--fix", "grid", "--json", code=3))
    assert {path: path.read_bytes() for path in data.rglob("*.nii.gz")} == before
    copies = tmp_path / "out" / "fixed_labels"
    assert found["copies"] == [(copies / "labels" / f"{n}.nii.gz").as_posix() for n in ("part", "turned")]
    (left_out,) = (problem for problem in found["problems"] if problem["code"] == "E-GEO-04")
    assert left_out["case_id"] == "far"
    assert "nothing of it lies inside the image" in left_out["message"]
    assert errors(data) == {"far", "turned", "part"}
    shutil.copytree(copies, data, dirs_exist_ok=True)
    assert errors(data) == {"far"}
    for name in ("turned", "part"):
        np.testing.assert_array_equal(np.asarray(nib.load(data / "labels" / f"{name}.nii.gz").dataobj), TRUTH)


def test_copies_under_the_image_header_fit_and_keep_every_voxel(data: Path, tmp_path: Path) -> None:
    run(data, "-o", tmp_path / "out", "--fix", "header", code=3)
    copies = tmp_path / "out" / "fixed_labels" / "labels"
    assert sorted(path.name for path in copies.iterdir()) == ["far.nii.gz"]  # the others' voxels are of another size
    copy = nib.load(copies / "far.nii.gz")
    np.testing.assert_array_equal(np.asarray(copy.dataobj), TRUTH)
    np.testing.assert_array_equal(copy.affine, affine())
    shutil.copytree(copies.parent, data, dirs_exist_ok=True)
    assert errors(data) == {"turned", "part"}


def test_a_scribble_that_is_resampled_stays_unknown_where_it_does_not_reach(tmp_path: Path) -> None:
    data = tmp_path / "data"
    save(data / "i.nii.gz", np.arange(1680, dtype="i2").reshape(TRUTH.shape), affine())
    drawn = np.where(TRUTH == 0, 4, TRUTH).astype("u1")
    drawn[0] = 0
    save(data / "s.nii.gz", drawn[2:], affine(3.0, 0, 0))
    (data / "cases.csv").write_text("case,image,label,label_kind,ignore\nc,i.nii.gz,s.nii.gz,scribble,4\n")
    (data / "dataset.toml").write_text("[classes]\na = 1\nb = 2\n")
    found = inspect(data, tmp_path / "out", fix="grid")
    expected = drawn.copy()
    expected[:2] = 4
    np.testing.assert_array_equal(np.asarray(nib.load(found.copies[0]).dataobj), expected)


def test_two_label_maps_of_one_case_share_its_picture_and_other_axes_are_not_drawn(tmp_path: Path) -> None:
    data = tmp_path / "data"
    save(data / "i.nii.gz", np.arange(1680, dtype="i2").reshape(TRUTH.shape), affine())
    for name in ("a", "b"):
        save(data / f"{name}.nii.gz", TRUTH, affine(5, 5, 5))
    Image.fromarray(TRUTH[:, :, 0]).save(data / "flat.png")
    rows = "".join(f"c,i.nii.gz,{name},{name[0]}\n" for name in ("a.nii.gz", "b.nii.gz", "flat.png"))
    (data / "cases.csv").write_text("case,image,label,rater\n" + rows)
    (data / "dataset.toml").write_text("[classes]\na = 1\nb = 2\n")
    found = inspect(data, tmp_path / "two")
    (data / "cases.csv").write_text("case,image,label,rater\n" + rows.splitlines()[0])
    one = inspect(data, tmp_path / "one")
    assert [path.name for path in (*found.pictures, *one.pictures)] == ["c.png", "c.png"]
    with Image.open(found.pictures[0]) as both, Image.open(one.pictures[0]) as single:
        assert both.height == 2 * single.height + 24
    assert "export the label map as a file with the image's axes" in next(
        problem.message for problem in found.errors if "flat.png" in problem.message
    )


def test_pictures_of_another_size_are_drawn_but_cannot_be_resampled(tmp_path: Path) -> None:
    for folder, size in (("images", (40, 30)), ("labels", (20, 15))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.fromarray(np.tri(*size, dtype=np.uint8)).save(tmp_path / "data" / folder / "c.png")
    found = inspect(tmp_path / "data", tmp_path / "out", fix="grid")
    assert [path.name for path in found.pictures] == ["c.png"]
    assert found.copies == ()
    assert "the files do not say where they lie" in next(p.message for p in found.problems if p.code == "E-GEO-04")


def test_copies_never_cover_files_and_need_a_place_and_a_known_fix(data: Path, tmp_path: Path) -> None:
    for fix, out, said in (("both", tmp_path, "no such fix"), ("grid", None, "name a folder for the copies")):
        with pytest.raises(ConfigError, match=said):
            inspect(data, out, fix=fix)
    (tmp_path / "fixed_labels").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        inspect(data, tmp_path, fix="grid")


def test_a_label_outside_of_the_data_set_is_copied_behind_the_name_of_its_case(data: Path, tmp_path: Path) -> None:
    (data / "labels" / "far.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    (data / "cases.csv").write_text("case,image,label\nfar,images/far.nii.gz,../elsewhere.nii.gz\n")
    found = inspect(data, tmp_path / "out", fix="header")
    assert found.copies == (tmp_path / "out" / "fixed_labels" / "far_elsewhere.nii.gz",)
