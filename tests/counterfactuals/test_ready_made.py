from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from counterfactuals.toy_image_model import graph, greys, picture, write_pictures
from scantling.counterfactuals.ready_made import FolderSource
from scantling.counterfactuals.source_image import SourceImage, read_source
from scantling.data.case import Case
from scantling.errors import ConfigError, DataError

REAL = greys((6, 5), 0)
ROW = {"site": "n", "scanner": "A", "age": "40"}


def folder(path: Path, rows: dict[str, Any], header: str = "case,intervention,image") -> Path:
    """A table of `intervention -> array`, all of the case `case`, and their pictures."""
    path.mkdir(exist_ok=True)
    lines = [header]
    for index, (intervention, array) in enumerate(rows.items()):
        Image.fromarray(array).save(path / f"{index}.png")
        lines.append(f"case,{intervention},{index}.png")
    (path / "counterfactuals.csv").write_text("\n".join(lines) + "\n")
    return path


def image(**changes: str) -> SourceImage:
    return picture(REAL, {**ROW, **changes})


def test_the_image_of_the_intervention_is_the_answer(tmp_path: Path) -> None:
    rows = {"scanner=B": REAL + 1, "scanner=B;age=60": REAL + 2, "age=60": REAL + 3}
    source = FolderSource(folder(tmp_path, rows), graph())
    for change, step in [({"scanner": "B"}, 1), ({"scanner": "B", "age": "60.0"}, 2), ({"age": "6e1"}, 3)]:
        (made,) = source([image()], [{**ROW, **change}])
        assert np.array_equal(made.channels[0], REAL + step)
        assert made.row == {**ROW, **change}
        assert made.geometry == image().geometry


def test_what_descends_from_the_intervention_may_move_with_it(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path, {"site=s": REAL + 1}), graph())
    (made,) = source([image()], [{**ROW, "site": "s", "scanner": "B"}])  # the site causes the scanner
    assert np.array_equal(made.channels[0], REAL + 1)
    with pytest.raises(DataError, match="has no image with site=s;age=60"):
        source([image()], [{**ROW, "site": "s", "age": "60"}])


def test_of_two_that_say_the_same_of_a_case_the_shorter_is_taken(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path, {"scanner=B;age=40": REAL + 1, "scanner=B": REAL + 2}), graph())
    (made,) = source([image()], [{**ROW, "scanner": "B"}])
    assert np.array_equal(made.channels[0], REAL + 2)


def test_an_image_of_which_nothing_changes_is_its_own_answer(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path, {"scanner=B": REAL + 1}), graph())
    (made,) = source([image()], [dict(ROW)])
    assert made.channels[0] is REAL


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path, {"scanner=B": REAL + 1}), graph())
    with pytest.raises(DataError, match=r"case case: .*counterfactuals\.csv has no image with age=60"):
        source([image()], [{**ROW, "age": "60"}])
    with pytest.raises(DataError, match=r"case other: .* has no image with scanner=B"):
        source([picture(REAL, ROW, case_id="other")], [{**ROW, "scanner": "B"}])


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (greys((6, 6), 0), "is 6 x 6 but the image is 6 x 5"),
        (REAL.astype(np.uint16), "stores uint16 but the image stores uint8"),
        (np.stack([REAL, REAL + 1, REAL], axis=-1), "3 channels, the plan is for 1"),
    ],
)
def test_an_image_of_another_kind_is_refused(tmp_path: Path, made: np.ndarray, sentence: str) -> None:
    source = FolderSource(folder(tmp_path, {"scanner=B": made}), graph())
    with pytest.raises(DataError, match=f"case case: .*{sentence}"):
        source([image()], [{**ROW, "scanner": "B"}])


def test_a_volume_must_lie_where_the_real_one_lies(tmp_path: Path) -> None:
    array = greys((4, 5, 6), 0, np.int16)
    affines = {"real": np.eye(4), "same": np.eye(4), "moved": np.eye(4)}
    affines["moved"][0, 3] = 3
    for name, affine in affines.items():
        nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), affine), tmp_path / f"{name}.nii.gz")
    table = "case,intervention,image\ncase,scanner=B,same.nii.gz\ncase,age=60,moved.nii.gz\n"
    (tmp_path / "counterfactuals.csv").write_text(table)
    source = FolderSource(tmp_path, graph())
    case = Case(case_id="case", images=(tmp_path / "real.nii.gz",), attributes={"age": "40"}, scanner="A")
    real = read_source(case, 1)
    (made,) = source([real], [{**real.row, "scanner": "B"}])
    assert np.array_equal(made.channels[0], array)
    with pytest.raises(DataError, match="corners up to 3 voxels apart"):
        source([real], [{**real.row, "age": "60"}])


def test_channels_have_columns_of_their_own(tmp_path: Path) -> None:
    write_pictures(tmp_path, [REAL, REAL + 1])
    table = "case,intervention,image:T1,image:T2\ncase,scanner=B,case_0.png,case_1.png\n"
    (tmp_path / "counterfactuals.csv").write_text(table)
    real = picture(REAL, ROW)
    both = SourceImage(case_id="case", channels=(REAL, REAL), geometry=real.geometry, row=ROW)
    (made,) = FolderSource(tmp_path, graph())([both], [{**ROW, "scanner": "B"}])
    assert [np.array_equal(c, REAL + i) for i, c in enumerate(made.channels)] == [True, True]


@pytest.mark.parametrize(
    ("table", "kind", "sentence"),
    [
        ("case,intervention\nc,scanner=B\n", DataError, "no column 'image'"),
        ("case,intervention,image\nc,scanner=B,gone.png\n", DataError, "line 2: image 'gone.png' is no file"),
        ("case,intervention,image\nc,scanner=B,\n", DataError, "line 2: image '' is no file"),
        ("case,intervention,image\nc,scanner,0.png\n", DataError, "wanted attribute=value"),
        ("case,intervention,image\nc,age=4;age=5,0.png\n", DataError, "each attribute once"),
        ("case,intervention,image\nc,age=4,0.png\nc,age=4.0,0.png\n", DataError, "line 3: .* stands twice"),
        ("case,intervention,image\nc,scaner=B,0.png\n", ConfigError, "line 2: 'scaner' is not .*'scanner'"),
        ("case,intervention,image\nc,scanner=C,0.png\n", ConfigError, "'C' was never seen"),
    ],
)
def test_a_wrong_table_is_refused_at_once(tmp_path: Path, table: str, kind: type[Exception], sentence: str) -> None:
    Image.fromarray(REAL).save(tmp_path / "0.png")
    (tmp_path / "counterfactuals.csv").write_text(table)
    with pytest.raises(kind, match=sentence):
        FolderSource(tmp_path, graph())


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"counterfactuals\.csv: no such file"):
        FolderSource(tmp_path, graph())
