from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from faults.full_disk import KINDS, Kind, full_disk
from scantling.data.case import IGNORE, Annotation, Case, ClassTable
from scantling.data.image_io import ImageGeometry, read_geometry
from scantling.data.layouts import cases_csv
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError, IntegrityError, ResourceError, ScantlingError
from scantling.targets.pseudo_label_records import PseudoLabel, VolumeFilter
from scantling.targets.pseudo_labels import PseudoLabelStore

CLASSES = ClassTable.of({"lung": (2, 3), "heart": 5})
MODEL = "a" * 64


def picture(tmp_path: Path, name: str = "image.png", size: tuple[int, int] = (6, 5)) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).save(path)
    return path


def volume(tmp_path: Path, shape: tuple[int, int, int] = (3, 5, 4)) -> Path:
    """An oblique grid with odd spacing and both of NIfTI's geometry forms."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7031, 0.9, 3.3])
    affine[:3, 3] = [-11.5, 20.25, 7.125]
    image = nib.Nifti1Image(np.zeros(shape[::-1], np.int16), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    path = tmp_path / "volume.nii.gz"
    nib.save(image, path)
    return path


def prediction(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 3, shape).astype(np.int64), rng.random(shape)


def begun(tmp_path: Path, **facts: Any) -> PseudoLabelStore:
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    store.begin_round(**{"model_sha256": MODEL, "teacher": "averaged copy", **facts})
    return store


def finished(store: PseudoLabelStore, geometry: ImageGeometry, *cases: str) -> None:
    if store.unfinished() is None:
        store.begin_round(model_sha256=MODEL, teacher="averaged copy")
    for number, case in enumerate(cases):
        store.add(case, *prediction(geometry.shape, number), geometry)
    store.finish_round()


@pytest.mark.parametrize("kind", ["png", "jpg", "nifti", "stack"])
def test_a_case_comes_back_as_it_was_on_the_grid_of_its_image(tmp_path: Path, kind: str) -> None:
    if kind == "stack":
        path = tmp_path / "image.tiff"
        pages = [Image.fromarray(np.full((6, 5), n, np.uint8)) for n in range(3)]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        path = volume(tmp_path) if kind == "nifti" else picture(tmp_path, f"image.{kind}")
    geometry = read_geometry(path)
    label_map, confidence = prediction(geometry.shape)
    store = begun(tmp_path)
    record = store.add("case", label_map, confidence, geometry)
    found = store.read("case", 1)
    assert np.array_equal(found.label_map, label_map)
    assert np.abs(found.confidence - confidence).max() <= 0.5 / 255 + 1e-6
    assert found.geometry.shape == geometry.shape
    known = label_map != IGNORE
    assert record.mean_confidence == pytest.approx(confidence[known].mean())
    assert record.share_kept == pytest.approx(known.mean())
    suffix = {"png": ".png", "jpg": ".png", "nifti": ".nii.gz", "stack": ".tiff"}[kind]
    assert record.label == f"labels/case{suffix}"


def test_another_tool_reads_the_volume_where_it_was_with_stored_values_in_one_byte(tmp_path: Path) -> None:
    path = volume(tmp_path)
    geometry = read_geometry(path)
    label_map, confidence = prediction(geometry.shape)
    store = begun(tmp_path)
    store.add("case", label_map, confidence, geometry)
    for name in ("labels", "confidence"):
        mine, theirs = nib.load(store.folder / "round-001" / name / "case.nii.gz"), nib.load(path)
        assert mine.get_data_dtype() == np.uint8
        for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "pixdim", "sform_code", "qform_code"):
            assert np.array_equal(mine.header[field], theirs.header[field]), field
    stored = np.asarray(nib.load(store.folder / "round-001/labels/case.nii.gz").dataobj).transpose(2, 1, 0)
    assert np.array_equal(stored, np.choose(label_map + 1, [255, 0, 2, 5]))


def test_another_tool_reads_the_picture_and_a_class_stored_as_255_keeps_it(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    label_map = np.tile(np.array([IGNORE, 0, 1, 1, 0]), (6, 1))
    store = PseudoLabelStore(tmp_path / "store", ClassTable.of({"lung": 255}))
    store.begin_round(model_sha256=MODEL, teacher="frozen copy")
    store.add("case", label_map, 0.75, geometry)
    stored = np.asarray(Image.open(store.folder / "round-001/labels/case.png"))
    assert np.array_equal(stored, np.tile(np.array([256, 0, 255, 255, 0]), (6, 1)))
    found = store.read("case", 1)
    assert np.array_equal(found.label_map, label_map)
    assert (found.confidence == np.float32(0.75)).all()
    assert not (store.folder / "round-001/confidence").exists()


def test_the_manifest_and_cases_csv_read_the_rows_as_annotations_with_round_and_confidence(tmp_path: Path) -> None:
    images = [picture(tmp_path, f"images/{name}.png") for name in ("a", "b", "c")]
    own = Annotation(path=picture(tmp_path, "drawn.png"), kind="scribble")
    manifest = Manifest(
        root=tmp_path, name="set", layout="pairs", classes=CLASSES,
        cases=tuple(Case(case_id=p.stem, images=(p,), annotations=(own,) if p.stem == "a" else ()) for p in images),
    )  # fmt: skip
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    assert store.in_manifest(manifest) == manifest
    finished(store, read_geometry(images[0]), "a", "b", "not in the manifest")
    finished(store, read_geometry(images[0]), "a", "b")
    found = store.in_manifest(store.in_manifest(manifest, 1))
    assert [[one.kind for one in case.annotations] for case in found.cases] == [["scribble", "pseudo"], ["pseudo"], []]
    annotation = found.case("b").annotation(("full", "pseudo"))
    assert annotation is not None
    assert (annotation.round, annotation.ignore) == (2, (255,))
    label_map, confidence = prediction((6, 5), 1)
    assert annotation.confidence == pytest.approx(confidence[label_map != IGNORE].mean())
    cases_csv.write(found, tmp_path / "written")
    again = cases_csv.read(tmp_path / "written")
    row = again.case("b").annotation(("pseudo",))
    assert row is not None
    assert (row.round, row.confidence, row.ignore) == (2, annotation.confidence, (255,))
    stored = np.asarray(Image.open(row.path))
    assert np.array_equal(again.classes.to_index(stored, ignore=row.ignore), label_map)


def test_rounds_follow_one_another_and_say_where_they_come_from(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    assert (store.history(), store.current(), store.rows(), store.labels()) == ((), None, {}, {})
    finished(store, geometry, "a", "b")
    store.begin_round(
        model_sha256="b" * 64, teacher="peers", thresholds={"entropy": 0.521, "lung": math.nan}, source_round=1
    )
    assert store.current() is not None
    assert store.current().number == 1
    finished(store, geometry, "a")
    first, second = PseudoLabelStore(tmp_path / "store", CLASSES).history()
    assert (first.status, first.number, first.source_round, first.n_cases) == ("finished", 1, None, 2)
    assert (second.teacher, second.source_round, second.model_sha256) == ("peers", 1, "b" * 64)
    assert second.thresholds["entropy"] == 0.521
    assert math.isnan(second.thresholds["lung"])
    assert first.begun <= first.ended <= second.begun
    records = store.labels(1).values()
    assert first.mean_confidence == pytest.approx(np.mean([one.mean_confidence for one in records]))
    assert first.share_kept == pytest.approx(np.mean([one.share_kept for one in records]))
    assert not (store.folder / "round-001/entries").exists()


def record(**facts: Any) -> PseudoLabel:
    known = {"case_id": "a", "label": "l", "label_sha256": "", "added": "", "mean_confidence": 0.8, "share_kept": 0.5}
    return PseudoLabel(**{**known, **facts})


@pytest.mark.parametrize(
    ("rule", "facts", "said"),
    [
        (VolumeFilter(), {}, ""),
        (VolumeFilter(), {"share_kept": 0.0, "mean_confidence": math.nan}, "no pixel is sure enough"),
        (VolumeFilter(min_agreement=0.9), {"scores": {"agreement": 0.93}}, ""),
        (VolumeFilter(min_agreement=0.9), {"scores": {"agreement": 0.9}}, ""),
        (VolumeFilter(min_agreement=0.9), {"scores": {"agreement": 0.85}}, "agreement is 0.85, wanted 0.9 or more"),
        (VolumeFilter(min_agreement=0.9), {"scores": {"agreement": math.nan}}, "agreement is nan, wanted 0.9 or more"),
        (VolumeFilter(min_agreement=0.9), {}, "agreement is nan, wanted 0.9 or more"),
        (VolumeFilter(min_confidence=0.85), {}, "mean confidence is 0.8, wanted 0.85 or more"),
        (VolumeFilter(min_confidence=0.75, min_share=0.6), {}, "share of labelled pixels is 0.5, wanted 0.6 or more"),
        (VolumeFilter(max_entropy=0.3), {"scores": {"entropy": 0.3}}, ""),
        (VolumeFilter(max_entropy=0.3), {"scores": {"entropy": 0.4}}, "entropy is 0.4, wanted 0.3 or less"),
        (VolumeFilter(max_entropy=0.3), {}, "entropy is nan, wanted 0.3 or less"),
    ],
)
def test_a_filter_says_why_a_case_is_dropped(rule: VolumeFilter, facts: dict[str, Any], said: str) -> None:
    assert rule.reason(record(**facts)) == said


def test_dropped_cases_stay_on_disk_with_the_reason_and_give_no_row(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = begun(tmp_path)
    for case, agreement in (("good", 0.95), ("poor", 0.6), ("undefined", math.nan)):
        store.add(case, *prediction(geometry.shape), geometry, scores={"agreement": agreement})
    store.add("unsure", np.full(geometry.shape, IGNORE), 0.2, geometry, scores={"agreement": 1.0})
    closed = store.finish_round(keep=VolumeFilter(min_agreement=0.9))
    assert (closed.n_cases, closed.n_kept) == (4, 1)
    assert list(store.rows()) == ["good"]
    assert store.labels()["poor"].dropped == "agreement is 0.6, wanted 0.9 or more"
    assert math.isnan(store.labels()["undefined"].scores["agreement"])
    assert math.isnan(store.labels()["unsure"].mean_confidence)
    assert store.labels()["unsure"].dropped == "no pixel is sure enough"
    assert store.read("poor").label_map.shape == geometry.shape


def test_a_rollback_marks_rounds_keeps_their_files_and_never_gives_a_number_twice(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    for _ in range(3):
        finished(store, geometry, "a")
    marked = store.rollback(1, reason="held-out score fell")
    assert [one.number for one in marked] == [2, 3]
    assert store.current().number == 1
    assert [(one.status, one.reason) for one in store.history()] == [
        ("finished", ""), ("rolled back", "held-out score fell"), ("rolled back", "held-out score fell"),
    ]  # fmt: skip
    assert store.rows()["a"].round == 1
    assert store.read("a", 3).label_map.shape == geometry.shape  # to be looked at still
    with pytest.raises(
        ConfigError, match=r"round 3 is rolled back \(held-out score fell\); wanted one that is finished"
    ):
        store.rows(3)
    with pytest.raises(ConfigError, match="round 2 is rolled back"):
        store.begin_round(model_sha256=MODEL, teacher="peers", source_round=2)
    finished(store, geometry, "a")
    assert store.current().number == 4
    assert [one.number for one in store.rollback(0, reason="again")] == [1, 4]
    assert store.current() is None
    assert store.rollback(0, reason="nothing is left") == ()


def test_files_are_deleted_only_when_asked_for_and_only_of_rounds_that_do_not_stand(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    finished(store, geometry, "a")
    finished(store, geometry, "a")
    with pytest.raises(ConfigError, match="round 2 is finished; only rounds that were rolled back or discarded"):
        store.remove_files(2)
    store.rollback(1, reason="fell")
    assert (store.folder / "round-002/labels/a.png").is_file()
    store.remove_files(2)
    store.remove_files(2)  # as after a crash in between
    assert not (store.folder / "round-002").exists()
    assert store.history()[1].removed
    assert store.history()[1].n_cases == 1
    with pytest.raises(ConfigError, match="the files of round 2 were removed"):
        store.read("a", 2)
    assert "removed" in store.damage(2)[0]


def test_an_unfinished_round_is_said_and_can_be_resumed_or_given_up(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    begun(tmp_path).add("a", *prediction(geometry.shape), geometry)
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    assert store.unfinished().number == 1
    assert (store.current(), store.rows()) == (None, {})
    for attempt in (
        lambda: store.begin_round(model_sha256=MODEL, teacher="peers"),
        lambda: store.rollback(0, reason=""),
    ):
        with pytest.raises(
            ConfigError, match=r"round 1 was begun at \d.*not finished; go on with resume_round, or give"
        ):
            attempt()
    with pytest.raises(ConfigError, match=r"begun with the model a{12}\.\.\., this is b{12}\.\.\.; discard it"):
        store.resume_round(model_sha256="b" * 64)
    assert store.resume_round(model_sha256=MODEL)[1] == ("a",)
    assert store.discard_round("the model changed").status == "discarded"
    assert (store.folder / "round-001/labels/a.png").is_file()
    assert store.begin_round(model_sha256=MODEL, teacher="peers").number == 2
    with pytest.raises(ConfigError, match="round 2 has no case; add some, or give it up with discard_round"):
        store.finish_round()
    store.discard_round("empty")
    for attempt in (
        store.finish_round,
        lambda: store.discard_round(""),
        lambda: store.resume_round(model_sha256=MODEL),
        lambda: store.add("a", *prediction(geometry.shape), geometry),
    ):
        with pytest.raises(ConfigError, match="no round is open; begin one with begin_round"):
            attempt()


class Killed(BaseException):
    """Stands for the end of a process: nothing is cleaned up after it."""


def work(store: PseudoLabelStore, geometry: ImageGeometry) -> None:
    """Makes one round of two cases, from wherever a process was killed before."""
    done: tuple[str, ...] = ()
    if store.unfinished() is not None:
        _, done = store.resume_round(model_sha256=MODEL)
    elif store.current() is None:
        store.begin_round(model_sha256=MODEL, teacher="averaged copy")
    else:
        return
    for number, case in enumerate(("a", "b")):
        if case not in done:
            store.add(case, *prediction(geometry.shape, number), geometry)
    store.finish_round()


def content(folder: Path) -> dict[str, bytes]:
    maps = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in maps}


@pytest.mark.parametrize("before_rename", [True, False])
def test_a_process_killed_at_any_write_leaves_a_round_that_is_resumed_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_rename: bool
) -> None:
    geometry = read_geometry(picture(tmp_path))
    undisturbed = PseudoLabelStore(tmp_path / "undisturbed", CLASSES)
    real_replace, real_unlink = os.replace, Path.unlink
    writes = 0

    def counted(source: Any, target: Any) -> None:
        nonlocal writes
        writes += 1
        real_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        work(undisturbed, geometry)
    wanted = content(undisturbed.folder)
    assert writes == 9  # begin; label, confidence and entry of two cases; table of cases; end
    assert len(wanted) == 4
    for last in range(1, writes + 1):
        folder = tmp_path / f"killed-{last}"
        left = last

        def killing(source: Any, target: Any) -> None:
            nonlocal left
            left -= 1
            if left > 0 or not before_rename:
                real_replace(source, target)
            if left == 0:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killing)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a dead process removes nothing
            with pytest.raises(Killed):
                work(PseudoLabelStore(folder, CLASSES), geometry)
        assert Path.unlink is real_unlink
        store = PseudoLabelStore(folder, CLASSES)
        is_over = last == writes and not before_rename
        assert (store.current() is not None) is is_over
        assert bool(store.rows()) is is_over
        began = last > 1 or not before_rename
        assert (store.unfinished() is not None) is (began and not is_over)
        work(store, geometry)
        assert content(folder / "round-001") == content(undisturbed.folder / "round-001")
        assert sorted(store.rows()) == ["a", "b"]
        assert store.damage(1) == ()
        assert len(store.history()) == 1
        assert [one.label_sha256 for one in store.labels().values()] == [
            one.label_sha256 for one in undisturbed.labels().values()
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_nothing_is_half_written_and_the_round_goes_on(tmp_path: Path, kind: Kind) -> None:
    geometry = read_geometry(picture(tmp_path, size=(40, 30)))
    with full_disk(tmp_path / "whole", kind, None) as disk:
        work(PseudoLabelStore(tmp_path / "whole", CLASSES), geometry)
    sites = len(disk.sites[kind])
    assert sites >= 9
    noticed = 0
    for site in range(0, sites, 3):
        folder = tmp_path / f"full-{site}"
        error = None
        with full_disk(folder, kind, site):
            try:
                work(PseudoLabelStore(folder, CLASSES), geometry)
            except ResourceError as caught:
                error = caught
        assert error is None or "free some space" in error.message
        noticed += error is not None
        assert not list(folder.rglob(".partial-*"))
        store = PseudoLabelStore(folder, CLASSES)
        work(store, geometry)
        assert content(folder) == content(tmp_path / "whole")
        assert store.damage(1) == ()
    assert noticed >= sites // 3 - 1


@pytest.mark.parametrize("name", ["labels/a.png", "confidence/a.png", "cases.json", "../rounds.json"])
def test_one_flipped_bit_anywhere_in_a_file_is_noticed(tmp_path: Path, name: str) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = begun(tmp_path)
    finished(store, geometry, "a", "b")
    path = store.folder / "round-001" / name
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(ScantlingError) as caught:
            PseudoLabelStore(store.folder, CLASSES).rows()
        assert isinstance(caught.value, IntegrityError), caught.value
    path.write_bytes(whole)
    assert sorted(store.rows()) == ["a", "b"]


def test_the_table_of_cases_of_another_round_or_none_at_all_is_noticed(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    finished(store, geometry, "a", "b")
    finished(store, geometry, "a")
    first, second = (store.folder / f"round-00{number}/cases.json" for number in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(IntegrityError, match="damaged"):
        store.labels()
    second.unlink()
    with pytest.raises(IntegrityError, match="the file is missing"):
        store.rows()
    assert "the file is missing" in store.damage(2)[0]


def test_damage_is_listed_file_by_file_and_a_damaged_case_of_an_open_round_is_made_again(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = begun(tmp_path)
    for case in ("a", "b", "c"):
        store.add(case, *prediction(geometry.shape), geometry)
    labels = store.folder / "round-001/labels"
    (labels / "a.png").write_bytes((labels / "a.png").read_bytes()[:-3])
    (labels / "b.png").unlink()
    said = store.damage(1)
    assert len(said) == 2
    assert "a.png: the file is damaged" in said[0]
    assert "b.png: the file is missing" in said[1]
    with pytest.raises(IntegrityError, match="damaged"):
        store.read("a", 1)
    assert store.resume_round(model_sha256=MODEL)[1] == ("c",)
    (store.folder / "round-001/entries/c.json").write_text("{")
    assert store.resume_round(model_sha256=MODEL)[1] == ()


def test_a_store_edited_by_hand_or_of_a_newer_release_or_of_other_classes_is_refused(tmp_path: Path) -> None:
    store = begun(tmp_path)
    path = store.folder / "rounds.json"
    facts = json.loads(path.read_text())
    with pytest.raises(ConfigError, match=r"the store has the classes background = 0, lung = 2/3, heart = 5, wanted"):
        PseudoLabelStore(store.folder, ClassTable.of({"lung": 1}))
    manifest = Manifest(root=tmp_path, name="other", layout="pairs", classes=ClassTable.of({"lung": 1}), cases=())
    with pytest.raises(ConfigError, match=r"the data set 'other' has the classes background = 0, lung = 1, wanted"):
        store.in_manifest(manifest)
    facts["rounds"][0]["status"] = "finished"
    path.write_text(json.dumps(facts))
    with pytest.raises(IntegrityError, match="damaged, or edited by hand; bring it back from a backup"):
        PseudoLabelStore(store.folder, CLASSES)
    facts["schema_version"] = 2
    path.write_text(json.dumps(facts))
    with pytest.raises(IntegrityError, match="written by a newer release"):
        PseudoLabelStore(store.folder, CLASSES)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    label_map, confidence = prediction(geometry.shape)
    store = begun(tmp_path)
    with pytest.raises(DataError, match=r"label map of case a is 5 x 6 but its image is 6 x 5; restore it"):
        store.add("a", label_map.T.copy(), confidence.T.copy(), geometry)
    with pytest.raises(DataError, match=r"classes are 0\.\.2"):
        store.add("a", label_map + 2, confidence, geometry)
    with pytest.raises(DataError, match=r"case 'a/b' holds '/', but results are files of that name"):
        store.add("a/b", label_map, confidence, geometry)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"case a: confidence must lie in \[0, 1\]"):
            store.add("a", label_map, wrong, geometry)
    assert not (store.folder / "round-001").exists()
    with pytest.raises(ConfigError, match="there is no round 7; there are: 1"):
        store.labels(7)
    store.add("a", label_map, confidence, geometry)
    with pytest.raises(DataError, match=r"no pseudo-label of case 'b' \(round 1 has none\)"):
        store.read("b", 1)
    with pytest.raises(DataError, match=r"no pseudo-label of case 'a' \(no round stands\)"):
        store.read("a")


def test_a_case_added_again_replaces_its_label_even_by_one_without_a_confidence_map(tmp_path: Path) -> None:
    geometry = read_geometry(picture(tmp_path))
    store = begun(tmp_path)
    store.add("a", *prediction(geometry.shape, 0), geometry)
    label_map = prediction(geometry.shape, 1)[0]
    store.add("a", label_map, 0.5, geometry)
    closed = store.finish_round()
    found = store.read("a")
    assert np.array_equal(found.label_map, label_map)
    assert (closed.n_cases, closed.mean_confidence, found.record.confidence) == (1, 0.5, "")


def test_equal_labels_give_equal_checksums_in_every_round(tmp_path: Path) -> None:
    geometry = read_geometry(volume(tmp_path))
    store = PseudoLabelStore(tmp_path / "store", CLASSES)
    for _ in range(2):
        finished(store, geometry, "a", "b")
    for one, other in itertools.product(store.labels(1).values(), store.labels(2).values()):
        assert (one.label_sha256 == other.label_sha256) is (one.case_id == other.case_id)
