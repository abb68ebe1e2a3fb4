"""A folder of counterfactuals: right to the pixel, a data set of its own, and whole after any stop."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.swapped_scanners import BRIGHTER, make_generator, swap, write_data
from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.soundness import SoundnessLimits
from scantling.counterfactuals.source_image import SourceImage
from scantling.counterfactuals.table import Row
from scantling.data.image_io import read_image
from scantling.data.inspect import inspect_dataset
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError, Interrupted
from scantling.inference.generate import generate_folder
from scantling.inference.soundness_check import SoundnessCheck

DO = ("scanner=other", "finding=effusion")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def rows(folder: Path, name: str = "cases.csv") -> dict[str, dict[str, str]]:
    with (folder / name).open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stopped_after(calls: int) -> Callable[[np.ndarray, Row, Row], np.ndarray]:
    """`swap` until Ctrl-C is pressed."""
    left = [calls]

    def stopping(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return swap(image, before, after)

    return stopping


def test_images_are_the_true_counterfactuals_in_the_type_of_the_source(data: Path, tmp_path: Path) -> None:
    run = generate_folder(make_generator(data), open_dataset(data), tmp_path / "out", DO)
    before = pixels(data / "pictures" / "case0.png")
    after = pixels(tmp_path / "out" / "images" / "case0__scanner-B.png")
    np.testing.assert_array_equal(after, before + BRIGHTER)
    with Image.open(tmp_path / "out" / "images" / "case0__scanner-B.png") as picture:
        assert picture.mode == "L"
    # scanner: cases 0, 2, 4 -> B, 1 and 3 -> A, 5 knows none; finding: 0, 1, 4, 5 have none yet
    assert sorted(record.name for record in run.records) == sorted(
        [f"case{i}__scanner-B" for i in (0, 2, 4)]
        + [f"case{i}__scanner-A" for i in (1, 3)]
        + [f"case{i}__finding-effusion" for i in (0, 1, 4, 5)]
    )
    assert dict(run.skipped) == {
        ("finding=effusion", "already so"): 2,
        ("scanner=other", "its own value is unknown"): 1,
    }


def test_the_folder_is_a_data_set_with_real_and_counterfactual_rows(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate_folder(make_generator(data), open_dataset(data), out, DO)
    found = inspect_dataset(open_dataset(out))
    assert not found.errors
    manifest = found.usable
    assert [case.case_id for case in manifest.real] == [f"case{i}" for i in range(6)]
    assert manifest.classes == open_dataset(data).classes
    for real in manifest.real:
        (annotation,) = real.annotations
        assert annotation.path.samefile(data / "pictures" / f"{real.case_id}_label.png")
        assert (annotation.kind, real.split) == ("full", "train")
    made = manifest.case("case2__scanner-B")
    assert (made.counterfactual_of, made.patient_id, made.scanner, made.split) == ("case2", "patient1", "B", "train")
    assert made.attribute("finding") == "effusion"
    assert made.attribute("intervention") == "scanner=B"
    assert made.attribute("sound") == "yes"
    assert float(made.attribute("change")) == pytest.approx(BRIGHTER / 255, abs=1e-6)
    assert made.annotations == ()


def test_measures_and_limits_decide_what_is_sound_and_the_tables_say_why(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    limits = SoundnessLimits(change=0.1)
    run = generate_folder(make_generator(data), open_dataset(data), out, DO, limits=limits)
    table = rows(out, "soundness.csv")
    assert {row["sound"] for row in table.values() if row["intervention"].startswith("scanner")} == {"no"}
    assert {row["sound"] for row in table.values() if row["intervention"].startswith("finding")} == {"yes"}
    assert table["case0__scanner-B"]["reason"].startswith("too much of it changes: change is 0.16, wanted at most 0.10")
    assert table["case0__scanner-B"]["effectiveness"] == ""
    assert rows(out)["case0__scanner-B"]["sound"] == "no"
    said = json.loads((out / "generate.json").read_text())
    assert (said["counterfactuals"], said["sound"]) == (9, 4)
    scanner_b = next(one for one in said["interventions"] if one["intervention"] == "scanner=B")
    assert (scanner_b["count"], scanner_b["rejected"], scanner_b["reasons"]) == (3, 3, {"change": 3})
    assert scanner_b["measures"]["change"]["mean"] == pytest.approx(BRIGHTER / 255)
    text = run.text()
    assert text.startswith("9 counterfactuals of 6 cases: 4 sound, 5 rejected.")
    assert "scanner=B: 3 of 3 rejected (3 for change)" in text
    assert "not checked: effectiveness, kept, identity_dice" in text
    assert json.loads(json.dumps(run.to_json()))["interventions"][0]["means"]["kept"] is None


def test_a_second_call_keeps_what_is_there_and_changes_no_byte(data: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        calls.append(1)
        return swap(image, before, after)

    generate_folder(make_generator(data, counted), open_dataset(data), tmp_path / "out", DO)
    first, n_calls = content(tmp_path / "out"), len(calls)
    run = generate_folder(make_generator(data, counted), open_dataset(data), tmp_path / "out", DO)
    assert (run.kept, len(run.records), len(calls)) == (9, 9, n_calls)
    assert content(tmp_path / "out") == first
    assert "All of them were there already." in run.text()


def test_stopped_anywhere_and_gone_on_with_gives_the_same_folder(data: Path, tmp_path: Path) -> None:
    manifest = open_dataset(data)
    generate_folder(make_generator(data, batch_size=2), manifest, tmp_path / "straight", DO)
    straight = content(tmp_path / "straight")
    out = tmp_path / "out"
    for calls in (1, 7, 3, 8):
        with pytest.raises(Interrupted, match="the same command goes on from there"):
            generate_folder(make_generator(data, stopped_after(calls), batch_size=2), manifest, out, DO)
        assert not (out / "cases.csv").exists()
    generate_folder(make_generator(data, batch_size=2), manifest, out, DO)
    again = content(out)
    assert again.keys() == straight.keys()
    assert {k: v for k, v in again.items() if k != "records.jsonl"} == {
        k: v for k, v in straight.items() if k != "records.jsonl"
    }
    assert sorted(again["records.jsonl"].splitlines()) == sorted(straight["records.jsonl"].splitlines())


def test_a_damaged_image_a_changed_source_and_a_changed_attribute_are_made_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate_folder(make_generator(data), open_dataset(data), out, DO)
    damaged = out / "images" / "case0__scanner-B.png"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-20])
    Image.fromarray(np.full((16, 16), 30, np.uint8)).save(data / "pictures" / "case2.png")
    run = generate_folder(make_generator(data), open_dataset(data), out, DO)
    assert (run.kept, len(run.records)) == (7, 9)
    assert damaged.read_bytes() == good
    np.testing.assert_array_equal(pixels(out / "images" / "case2__scanner-B.png"), 30 + BRIGHTER)
    table = (data / "cases.csv").read_text()
    (data / "cases.csv").write_text(table.replace("patient2,A,none", "patient2,B,none"))
    run = generate_folder(make_generator(data), open_dataset(data), out, DO)
    assert {"case4__scanner-A"} <= {r.name for r in run.records}
    assert "case4__scanner-B" not in rows(out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interventions": ("scanner=B",)}, "was generated with interventions 'scanner=other, finding=effusion'"),
        ({"seed": 1}, "was generated with seed '0', and now it is '1'"),
        ({"cases": ("case0",)}, "was generated with cases none, and now it is 'case0'"),
        ({"provenance": {"model_sha256": "ab"}}, "was generated with model_sha256 none, and now it is 'ab'"),
    ],
)
def test_other_settings_are_refused_in_one_sentence(
    change: dict[str, object], said: str, data: Path, tmp_path: Path
) -> None:
    generate_folder(make_generator(data), open_dataset(data), tmp_path / "out", DO)
    before = content(tmp_path / "out")
    generator = make_generator(data, seed=int(str(change.pop("seed", 0))))
    asked = change.pop("interventions", DO)
    with pytest.raises(ConfigError, match=said):
        generate_folder(generator, open_dataset(data), tmp_path / "out", asked, **change)  # type: ignore[arg-type]
    assert content(tmp_path / "out") == before
    generate_folder(generator, open_dataset(data), tmp_path / "out", asked, overwrite=True, **change)  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("out.old-*"))) == 1


def test_other_limits_judge_anew_without_making_an_image_again(data: Path, tmp_path: Path) -> None:
    manifest, out = open_dataset(data), tmp_path / "out"
    assert len(generate_folder(make_generator(data), manifest, out, DO).sound) == 9
    stricter = generate_folder(make_generator(data), manifest, out, DO, limits=SoundnessLimits(change=0.1))
    assert (stricter.kept, len(stricter.sound)) == (9, 4)
    assert rows(out)["case0__scanner-B"]["sound"] == "no"


def test_a_folder_with_something_else_in_it_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="already exists and is not empty"):
        generate_folder(make_generator(data), open_dataset(data), tmp_path / "out", DO)
    assert content(tmp_path / "out") == {"letter.txt": b"dear"}


def test_a_case_that_fails_is_named_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    broken = data / "pictures" / "case0.png"
    broken.write_bytes(broken.read_bytes()[:60])

    def odd(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        if before["scanner"] == "" and after["finding"] == "effusion":
            return image[:, :3]  # case 5
        return swap(image, before, after)

    run = generate_folder(make_generator(data, odd), open_dataset(data), tmp_path / "out", DO)
    assert set(run.failures) == {"case0", "case5__finding-effusion"}
    assert "case0" in run.failures["case0"]
    assert "wanted numbers of (1, 16, 16)" in run.failures["case5__finding-effusion"]
    assert {record.counterfactual_of for record in run.records} == {"case1", "case2", "case3", "case4"}
    assert json.loads((tmp_path / "out" / "generate.json").read_text())["failures"].keys() == run.failures.keys()


def test_nothing_at_all_is_an_error_that_says_why(data: Path, tmp_path: Path) -> None:
    def broken(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        return image[:, :3]

    with pytest.raises(DataError, match="no counterfactual could be made; 9 failed, the first"):
        generate_folder(make_generator(data, broken), open_dataset(data), tmp_path / "out", DO)
    with pytest.raises(DataError, match=r"nothing would change in any case \(scanner=A: 1 cases, already so\)"):
        generate_folder(make_generator(data), open_dataset(data), tmp_path / "other", ["scanner=A"], cases=["case0"])


def test_only_chosen_real_cases_are_changed_and_an_unknown_one_is_refused(data: Path, tmp_path: Path) -> None:
    run = generate_folder(make_generator(data), open_dataset(data), tmp_path / "out", DO, cases=["case3", "case1"])
    assert [record.name for record in run.records] == [
        "case1__scanner-A",
        "case1__finding-effusion",
        "case3__scanner-A",
    ]
    assert len(open_dataset(tmp_path / "out").real) == 6
    with pytest.raises(ConfigError, match="case 'case7': no real case of the data set; did you mean"):
        generate_folder(make_generator(data), open_dataset(data), tmp_path / "b", DO, cases=["case7"])
    again = open_dataset(tmp_path / "out")  # counterfactuals of counterfactuals are not made
    with pytest.raises(ConfigError, match="no real case"):
        generate_folder(make_generator(data), again, tmp_path / "b", DO, cases=["case1__scanner-A"])
    second = generate_folder(make_generator(data), again, tmp_path / "b", ["scanner=B"])
    assert {record.counterfactual_of for record in second.records} == {"case0", "case2", "case4", "case5"}


def test_a_column_of_ones_own_is_never_written_over(data: Path, tmp_path: Path) -> None:
    table = (data / "cases.csv").read_text().replace(",split", ",structure").replace(",train", ",dense")
    (data / "cases.csv").write_text(table)
    with pytest.raises(ConfigError, match=r"has a column 'structure'.*rename yours"):
        generate_folder(make_generator(data), open_dataset(data), tmp_path / "out", DO)
    assert not (tmp_path / "out").exists()


def test_the_seed_and_the_case_alone_decide_the_attributes_after(data: Path, tmp_path: Path) -> None:
    """However cases are batched or chosen."""
    names: list[dict[str, Row]] = []
    for number, (batch_size, cases) in enumerate([(1, ()), (5, ()), (3, ("case4", "case0"))]):
        run = generate_folder(
            make_generator(data, batch_size=batch_size), open_dataset(data), tmp_path / str(number), DO, cases=cases
        )
        names.append({record.name: record.after for record in run.records})
    assert names[0] == names[1]
    assert names[2].items() <= names[0].items()


def test_no_more_images_are_held_than_a_batch_needs(data: Path, tmp_path: Path) -> None:
    sizes: list[int] = []
    generator = make_generator(data, batch_size=3)

    class Watching:
        name = "watching"

        def __call__(self, images: list[SourceImage], after: list[Row]) -> tuple[SourceImage, ...]:
            sizes.append(len(images))
            return tuple(generator.source(images, after))

    watched = CounterfactualGenerator(graph=generator.graph, source=Watching(), plan=generator.plan)
    generate_folder(watched, open_dataset(data), tmp_path / "out", DO)
    assert max(sizes) == 3


def test_a_segmenter_decides_whether_the_anatomy_stayed(data: Path, tmp_path: Path) -> None:
    def segment(image: SourceImage) -> np.ndarray:
        bright = 75 + BRIGHTER * (image.row["scanner"] == "B")
        return (image.channels[0] > bright).astype(np.int8)

    generator = make_generator(data)
    check = SoundnessCheck(generator.source, generator.plan, generator.graph, segment=segment)
    generate_folder(generator, open_dataset(data), tmp_path / "out", DO, check=check)
    table = rows(tmp_path / "out", "soundness.csv")
    assert float(table["case0__scanner-B"]["identity_dice"]) == 1
    truth = pixels(data / "pictures" / "case0_label.png") > 0
    square, corner = truth.sum(), 9  # the corner does not touch the square, so Dice is 2a / (2a + 9)
    expected = 2 * square / (2 * square + corner)
    assert float(table["case0__finding-effusion"]["identity_dice"]) == pytest.approx(expected, abs=1e-5)


def test_a_channel_a_file_stays_a_channel_a_file(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    lines = ["case,image:T1,image:T2,scanner,finding"]
    for index in range(4):
        for channel in ("T1", "T2"):
            voxels = rng.integers(-50, 900, (6, 5, 4)).astype(np.int16)
            write_nifti(tmp_path / "data" / f"c{index}_{channel}.nii.gz", voxels, axes="LPS")
        lines.append(
            f"c{index},c{index}_T1.nii.gz,c{index}_T2.nii.gz,{'AB'[index % 2]},{('none', 'effusion')[index // 2]}"
        )
    (tmp_path / "data" / "cases.csv").write_text("\n".join(lines) + "\n")
    manifest: Manifest = open_dataset(tmp_path / "data")
    square = write_data(tmp_path / "squares")
    base = make_generator(square)
    plan = base.plan.model_copy(
        update={
            "image_axes": 3, "axis_order": (0, 1, 2), "size": (4, 4, 4), "channels": ("T1", "T2"),
            "scaling": base.plan.scaling[:1] * 2,
        }
    )  # fmt: skip
    scaling = plan.scaling[0].model_copy(update={"low": -100.0, "high": 1000.0})
    plan = plan.model_copy(update={"scaling": (scaling, scaling)})

    def brighter(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        return image + BRIGHTER * ((after["scanner"] == "B") - (before["scanner"] == "B"))

    source = make_generator(square, brighter).source
    generator = CounterfactualGenerator(graph=base.graph, source=source, plan=plan)
    run = generate_folder(generator, manifest, tmp_path / "out", ["scanner=B"])
    again = open_dataset(tmp_path / "out")
    assert again.channels == ("T1", "T2")
    assert len(run.records[0].images) == 2
    assert not inspect_dataset(again).errors
    made, real = again.case("c0__scanner-B"), again.case("c0")
    for own, other in zip(made.images, real.images, strict=True):
        image, source = read_image(own), read_image(other)
        assert image.array.dtype == np.int16
        np.testing.assert_array_equal(image.array, source.array + BRIGHTER)
        np.testing.assert_array_equal(image.geometry.world_from_index, source.geometry.world_from_index)
