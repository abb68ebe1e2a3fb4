"""`scantling figure chromap`: from a trained run and images to sheets, pages and a map that others can be turned to."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import scantling
from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.image_io import read_image
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.figures.colour_disk import disk_colours
from scantling.figures.fitted_chromap import ChroMap
from scantling.inference.embed import Embedder
from scantling.inference.model_folder import FEATURES, load_model, save_model
from scantling.networks import build_network
from scantling.seeding import torch_generator

SHORT = ("plan.patch_size=[32,32]", "plan.batch_size=2", "training.steps_per_epoch=2")
SET = [word for setting in SHORT for word in ("--set", setting)]


def invoke(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def refused(*words: object) -> str:
    """The error of a call that is refused."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code != 0
    return str(result.exception)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figure") / "chest"
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=0, n_test=1, seed=5, size=48)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figure-runs") / "a"
    invoke("train", data, "-o", out, "--steps", 2, *SET, "--quiet")
    return out


@pytest.fixture(scope="module")
def other(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another epoch: the same network, a little moved."""
    model = load_model(run / "model", torch.device("cpu"))
    generator = torch_generator(0, "moved")
    for tensor in model.network.state_dict().values():
        tensor += 0.02 * tensor.std(unbiased=False) * torch.randn(tensor.shape, generator=generator)
    folder = tmp_path_factory.mktemp("figure-other") / "model"
    save_model(folder, model.network, model.plan, dict(model.meta))
    return folder


@pytest.fixture(scope="module")
def views(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two cases with counterfactual rows, one of them unsound."""
    folder = tmp_path_factory.mktemp("figure-views")
    rows = []
    for source in sorted((data / "images").glob("*.png"))[:2]:
        pixels = pixels_of(source)
        for change, sound in (("", ""), ("scanner=B", "yes"), ("finding=none;scanner=B", "yes"), ("sex=F", "no")):
            name = f"{source.stem}{'__' if change else ''}{change.replace('=', '-').replace(';', '_')}"
            Image.fromarray((pixels * (0.8 if change else 1.0)).astype(np.uint8)).save(folder / f"{name}.png")
            of = source.stem if change else ""
            rows.append([name, f"{name}.png", of, change, sound])
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["case", "image", "counterfactual_of", "intervention", "sound"], *rows])
    return folder


@pytest.fixture(scope="module")
def drawn(run: Path, views: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figure-out") / "first"
    printed = json.loads(invoke("figure", "chromap", run, views, "-o", out, "--json", "--quiet"))
    assert printed["failures"] == {}
    assert len(printed["pictures"]) == len(printed["pages"]) == 2
    assert all(Path(path).is_file() for path in (*printed["pictures"], *printed["pages"]))
    return out


def record(folder: Path) -> dict[str, object]:
    said = json.loads((folder / "chromap.json").read_text(encoding="utf-8"))
    assert isinstance(said, dict)
    return said


def test_a_case_with_its_sound_counterfactuals_is_one_picture_one_page_and_one_map(drawn: Path, views: Path) -> None:
    said = record(drawn)
    cases = said["cases"]
    assert isinstance(cases, list)
    assert [len(case["views"]) for case in cases] == [3, 3]
    assert not any("sex-F" in view for case in cases for view in case["views"])
    page = (drawn / cases[0]["page"]).read_text(encoding="utf-8")
    assert page.count("<figure") == 3
    assert "finding=none; scanner=B" in page
    overlays = sorted((drawn / "overlays").iterdir())
    assert len(overlays) == 6
    for path in overlays:
        assert pixels_of(path).shape[:2] == pixels_of(views / path.name).shape[:2]
    with (drawn / "anchors.csv").open(encoding="utf-8") as stream:
        assert len({row["image"] for row in csv.DictReader(stream)}) == 6


def test_the_same_call_gives_the_same_bytes_and_python_is_the_same_call(
    drawn: Path, run: Path, views: Path, tmp_path: Path
) -> None:
    done = scantling.figure("chromap", run, views, tmp_path / "again")
    assert len(done.pictures) == 2
    for path in sorted(drawn.rglob("*")):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(drawn)).read_bytes() == path.read_bytes(), path.name


def test_another_network_is_turned_to_the_colours_of_the_first(
    drawn: Path, other: Path, views: Path, tmp_path: Path
) -> None:
    own, turned = tmp_path / "own", tmp_path / "turned"
    invoke("figure", "chromap", other, views, "-o", own, "--quiet")
    invoke("figure", "chromap", other, views, "-o", turned, "--like", drawn, "--quiet")
    alignment = record(turned)["alignment"]
    assert isinstance(alignment, dict)
    assert (alignment["images"], alignment["pixels"]) == (6, 6 * 64)
    assert alignment["mean_hue_change_degrees"] < 15
    assert record(own)["alignment"] == {}
    places = {folder: anchor_places(folder) for folder in (drawn, own, turned)}
    distance = np.linalg.norm(places[turned] - places[drawn], axis=1).mean()
    assert distance <= np.linalg.norm(places[own] - places[drawn], axis=1).mean() + 1e-6
    np.testing.assert_allclose(np.hypot(*places[turned].T), np.hypot(*places[own].T), atol=1e-4)


def anchor_places(folder: Path) -> np.ndarray:
    with (folder / "anchors.csv").open(encoding="utf-8") as stream:
        return np.array([[float(row["x"]), float(row["y"])] for row in csv.DictReader(stream)])


def test_the_same_network_takes_a_figures_map_over_for_any_images(
    drawn: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    last = max((data / "images").glob("*.png"))
    said = json.loads(
        invoke("figure", "chromap", run, last, "-o", tmp_path / "out", "--like", drawn, "--json", "--quiet")
    )
    assert said["notes"] == ["the map of first, which shows the same features"]
    assert record(tmp_path / "out")["map"] == record(drawn)["map"]


def test_figures_that_cannot_be_compared_say_why(drawn: Path, other: Path, data: Path, tmp_path: Path) -> None:
    last = max((data / "images").glob("*.png"))
    out = tmp_path / "out"
    assert "shows none of these images" in refused("figure", "chromap", other, last, "-o", out, "--like", drawn)
    assert "E-FIG-07" in refused("figure", "chromap", other, last, "-o", out, "--like", data)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "chromap.json").write_bytes((drawn / "chromap.json").read_bytes())
    assert "E-FIG-09" in refused("figure", "chromap", other, last, "-o", out, "--like", damaged)
    (damaged / "anchors.csv").write_text("image,index_0,x\na,1,oh\n", encoding="utf-8")
    assert "E-FIG-09" in refused("figure", "chromap", other, last, "-o", out, "--like", damaged)
    (damaged / "chromap.json").write_text("[]", encoding="utf-8")
    assert "E-FIG-09" in refused("figure", "chromap", other, last, "-o", out, "--like", damaged)
    assert not out.exists()  # all of that before anything is written


def test_a_folder_of_plain_images_and_a_single_one_are_cases_too_and_a_damaged_one_fails_alone(
    run: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    first, second = sorted((data / "images").glob("*.png"))[:2]
    for path in (first, second):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    said = json.loads(invoke("figure", "chromap", run, folder, "-o", tmp_path / "out", "--json", "--quiet", code=3))
    assert list(said["failures"]) == ["broken"]
    assert len(said["pictures"]) == 2
    printed = invoke("figure", "chromap", run, second, "-o", tmp_path / "one", "--quiet", "--tap", "encoder.1")
    assert printed.split() == [str(tmp_path / "one" / f"{second.stem}{end}") for end in (".png", ".html")]
    chosen = json.loads(
        invoke("figure", "chromap", run, data, "-o", tmp_path / "chosen", "--cases", first.stem, "--json", "--quiet")
    )
    assert [Path(path).stem for path in chosen["pictures"]] == [first.stem]


def test_what_cannot_be_drawn_is_refused_in_a_sentence(run: Path, data: Path, tmp_path: Path) -> None:
    image = min((data / "images").glob("*.png"))
    out = tmp_path / "out"
    expected = {
        ("chromaps",): "did you mean 'chromap'",
        ("chromap", "--mode", "pac"): "E-FIG-02",
        ("chromap", "--tap", "decoder.7"): "E-FIG-04",
        ("chromap", "--cases", "nobody"): "E-FIG-12",
        ("chromap", "--opacity", "1.5"): "E-FIG-13",
        ("chromap", "--share", "0"): "E-FIG-13",
    }
    for (kind, *words), sentence in expected.items():
        assert sentence in refused("figure", kind, run, image, "-o", out, *words), words
    assert "E-FIG-14" in refused("figure", "chromap", run, image, "-o", image.parent)
    assert "E-FIG-14" in refused("figure", "chromap", run, image, "-o", run)
    assert "E-FIG-06" in refused("figure", "chromap", run, image, "-o", out, "--mode", "umap", "--like", run)
    assert "E-FIG-06" in refused("figure", "chromap", run, image, "-o", out, "--mode", "umap", "--share", "0.9")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    said = refused("figure", "chromap", run, broken, "-o", out)
    assert "E-FIG-10" in said
    assert "broken.png" in said


def test_a_pretrained_network_of_volumes_shows_three_planes_and_a_strip(tmp_path: Path) -> None:
    network = NetworkPlan(features=(4, 8), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2)
    plan = Plan(
        dataset="block", image_axes=3, dimensions=3, classes=ClassPlan(names=("background", "a"), stored=((0,), (1,))),
        axis_order=(0, 1, 2), spacing_mm=(None, None, None), patch_size=(16, 16, 16), batch_size=1,
        intensities=(IntensityPlan(scheme="zscore"),), network=network,
    )  # fmt: skip
    weights = build_network(
        network, dimensions=3, in_channels=1, out_channels=2, generator=torch_generator(0, "figure")
    )
    save_model(tmp_path / "run" / "model", weights, plan, {"tap": "encoder.1"}, kind=FEATURES)
    voxels = np.random.default_rng(0).normal(size=(20, 16, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "volume.nii.gz")
    invoke("figure", "chromap", tmp_path / "run", tmp_path / "volume.nii.gz", "-o", tmp_path / "out", "--quiet")
    page = (tmp_path / "out" / "volume.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 3 + 8
    for name in ("axial", "coronal", "sagittal", "slice 1"):
        assert f"<span>{name}</span>" in page
    assert not (tmp_path / "out" / "overlays").exists()
    assert record(tmp_path / "out")["settings"]["tap"] == "encoder.1"  # type: ignore[index]
    assert anchor_places(tmp_path / "out").shape == (64, 2)


def test_an_overlay_is_the_image_mixed_with_the_colours_of_its_features(run: Path, data: Path, tmp_path: Path) -> None:
    image = max((data / "images").glob("*.png"))
    invoke("figure", "chromap", run, image, "-o", tmp_path / "out", "--quiet", "--opacity", "1")
    found = pixels_of(tmp_path / "out" / "overlays" / image.name).astype(int)
    said = record(tmp_path / "out")
    features = Embedder.load(run, device="cpu").embed([read_image(image)]).features
    wanted = ChroMap.from_json(said["map"], where="x").places(features)
    assert wanted.shape[:2] == found.shape[:2]  # the phantom is prepared at its own resolution
    np.testing.assert_allclose(found, disk_colours(wanted), atol=1)


@pytest.mark.skipif(
    importlib.util.find_spec("umap") is None,
    reason="umap-learn is not installed (pip install 'scantling[umap]')",
)
def test_the_published_mode_colours_each_case_alone_and_keeps_no_map(run: Path, data: Path, tmp_path: Path) -> None:
    image = max((data / "images").glob("*.png"))
    invoke("figure", "chromap", run, image, "-o", tmp_path / "out", "--mode", "umap", "--quiet")
    assert record(tmp_path / "out")["map"] is None
    assert "as published" in (tmp_path / "out" / f"{image.stem}.html").read_text(encoding="utf-8")
    assert "E-FIG-06" in refused("figure", "chromap", run, image, "-o", tmp_path / "b", "--like", tmp_path / "out")
