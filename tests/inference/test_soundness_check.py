"""What is measured on counterfactuals, with and without a judge and a segmenter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.swapped_scanners import BRIGHTER, make_generator, swap, write_data
from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig
from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.judging import judge_counterfactuals, read_attributes
from scantling.counterfactuals.ready_made import FolderSource
from scantling.counterfactuals.source_image import SourceImage, read_source
from scantling.counterfactuals.table import Row
from scantling.data.case import Case
from scantling.data.layouts import open_dataset
from scantling.data.plan import ClassPlan, Plan
from scantling.errors import ConfigError, PlanMismatch
from scantling.inference.generate import generate_folder
from scantling.inference.group_realism import realism_by_intervention
from scantling.inference.predictor import Predictor
from scantling.inference.soundness_check import SoundnessCheck, segment_with, stored_masks


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def untrained_judge(generator: CounterfactualGenerator) -> AttributePredictor:
    return AttributePredictor(
        PredictorConfig(widths=(8, 8)), generator.graph.attributes, in_channels=1, dimensions=2,
        generator=torch.Generator().manual_seed(0),
    ).eval()  # fmt: skip


def pairs(
    data: Path, generator: CounterfactualGenerator, *wanted: tuple[str, dict[str, str]]
) -> tuple[list[SourceImage], list[SourceImage]]:
    """Images by case id and their counterfactuals."""
    manifest = open_dataset(data)
    images = [read_source(manifest.case(name), 1) for name, _ in wanted]
    after = [{**image.row, **do} for image, (_, do) in zip(images, wanted, strict=True)]
    return images, list(generator.source(images, after))


def test_change_and_the_way_back_are_shares_of_the_range_of_the_plan(data: Path) -> None:
    def forgetful(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        """Gives back half of what it took, and brightens by 3 whatever is asked."""
        step = {"A": {"A": 3, "B": 43}, "B": {"A": -20, "B": 3}}
        return image + step[before["scanner"]][after["scanner"]]

    generator = make_generator(data, forgetful)
    images, made = pairs(data, generator, ("case0", {"scanner": "B"}), ("case2", {"scanner": "B"}))
    found = SoundnessCheck(generator.source, generator.plan, generator.graph)(images, made)
    for one in found:
        assert one.change == pytest.approx(43 / 255)
        assert one.reversibility == pytest.approx(23 / 255)
        assert one.composition == pytest.approx(3 / 255)
        assert one.structure == pytest.approx(1)
        assert all(math.isnan(value) for value in (one.effectiveness, one.kept, one.identity_dice))


def test_one_image_under_two_interventions_is_looked_at_once(data: Path) -> None:
    generator = make_generator(data)
    idle: list[str] = []
    segmented: list[str] = []

    class Watching:
        name = "watching"

        def __call__(self, images: list[SourceImage], after: list[Row]) -> tuple[SourceImage, ...]:
            idle.extend(i.case_id for i, row in zip(images, after, strict=True) if dict(i.row) == dict(row))
            return tuple(generator.source(images, after))

    def segment(image: SourceImage) -> np.ndarray:
        segmented.append(image.case_id)
        return (image.channels[0] > 0).astype(np.int8)

    images, made = pairs(
        data, generator, ("case0", {"scanner": "B"}), ("case0", {"finding": "effusion"}), ("case1", {"scanner": "A"})
    )
    SoundnessCheck(Watching(), generator.plan, generator.graph, segment=segment)(images, made)
    assert idle == ["case0", "case1"]
    assert len(segmented) == 2 + 3


def test_the_judge_sees_each_image_beside_its_own_counterfactual(data: Path) -> None:
    generator = make_generator(data)
    judge = untrained_judge(generator)
    images, made = pairs(
        data,
        generator,
        ("case1", {"scanner": "A"}),
        ("case0", {"finding": "effusion"}),
        ("case1", {"finding": "effusion"}),
    )
    found = SoundnessCheck(generator.source, generator.plan, generator.graph, judge=judge)(images, made)
    for index, one in enumerate(found):
        alone = judge_counterfactuals(
            judge,
            torch.from_numpy(images[index].channels[0] / 127.5 - 1).float()[None, None],
            torch.from_numpy(made[index].channels[0] / 127.5 - 1).float()[None, None],
            generator.graph.encode([images[index].row]),
            generator.graph.encode([made[index].row]),
        )
        assert one.effectiveness == pytest.approx(float(alone.effectiveness), abs=1e-5)
        assert one.kept == pytest.approx(float(alone.kept), abs=1e-5)


def test_the_judge_is_not_asked_about_what_it_cannot_read(data: Path) -> None:
    generator = make_generator(data)
    check = SoundnessCheck(
        generator.source, generator.plan, generator.graph, judge=untrained_judge(generator),
        judge_scores={"scanner": 0.55, "finding": 0.98},
    )  # fmt: skip
    assert check.asked == ("finding",)
    images, made = pairs(data, generator, ("case0", {"scanner": "B"}), ("case0", {"finding": "effusion"}))
    first, second = check(images, made)
    assert math.isnan(first.effectiveness)
    assert not math.isnan(first.kept)
    assert not math.isnan(second.effectiveness)
    assert math.isnan(second.kept)


def test_features_are_what_the_judge_sees(data: Path) -> None:
    generator = make_generator(data)
    judge = untrained_judge(generator)
    check = SoundnessCheck(generator.source, generator.plan, generator.graph, judge=judge)
    images, _ = pairs(data, generator, ("case0", {}), ("case1", {}))
    stored = np.stack([image.channels[0] for image in images])[:, None]
    np.testing.assert_allclose(check.features(images), read_attributes(judge, stored).features.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="there is none"):
        SoundnessCheck(generator.source, generator.plan, generator.graph).features(images)


def test_ready_made_images_can_neither_do_nothing_nor_go_back(data: Path, tmp_path: Path) -> None:
    generator = make_generator(data)
    folder = tmp_path / "made"
    folder.mkdir()
    with Image.open(data / "pictures" / "case0.png") as picture:
        Image.fromarray(np.asarray(picture) + np.uint8(BRIGHTER)).save(folder / "x.png")
    (folder / "counterfactuals.csv").write_text("case,intervention,image\ncase0,scanner=B,x.png\n")
    source = FolderSource(folder, generator.graph)
    ready = CounterfactualGenerator(graph=generator.graph, source=source, plan=generator.plan)
    run = generate_folder(ready, open_dataset(data), tmp_path / "out", ["scanner=B"])
    (record,) = run.records
    assert record.name == "case0__scanner-B"
    assert math.isnan(record.soundness.composition)
    assert math.isnan(record.soundness.reversibility)
    assert record.soundness.change == pytest.approx(BRIGHTER / 255)
    assert set(run.failures) == {"case2__scanner-B", "case4__scanner-B", "case5__scanner-B"}


def test_a_trained_network_segments_image_and_counterfactual(
    data: Path, make_plan: Callable[..., Plan], above_mean: Callable[[Plan], Predictor]
) -> None:
    generator = make_generator(data)
    predictor = above_mean(make_plan(2, 2, patch_size=(16, 16)))
    segment = segment_with(predictor, generator.plan)
    images, made = pairs(data, generator, ("case0", {"scanner": "B"}))
    array = images[0].channels[0]
    np.testing.assert_array_equal(segment(images[0]), array > array.mean())
    check = SoundnessCheck(generator.source, generator.plan, generator.graph, segment=segment)
    assert check(images, made)[0].identity_dice == 1  # 40 brighter everywhere: the same pixels lie above the mean
    with pytest.raises(PlanMismatch, match="learnt from 2D images of 2 channels, the image model on 2D images of 1"):
        segment_with(above_mean(make_plan(2, 2, channels=("a", "b"), patch_size=(16, 16))), generator.plan)


def test_a_stored_mask_stands_for_what_the_network_sees_in_the_image(
    data: Path, make_plan: Callable[..., Plan], above_mean: Callable[[Plan], Predictor]
) -> None:
    generator = make_generator(data)
    classes = ClassPlan(names=("background", "square"), stored=((0,), (7,)))
    predictor = above_mean(make_plan(2, 2, patch_size=(16, 16), classes=classes))
    segment, manifest = segment_with(predictor, generator.plan), open_dataset(data)
    images, made = pairs(data, generator, ("case0", {"scanner": "B"}), ("case1", {"scanner": "A"}))
    check = SoundnessCheck(
        generator.source, generator.plan, generator.graph, segment=segment,
        mask=stored_masks(manifest, predictor.plan, ("silver", "full")),
    )  # fmt: skip
    for image, other, found in zip(images, made, check(images, made), strict=True):
        square = np.asarray(Image.open(data / "pictures" / f"{image.case_id}_label.png")) > 0
        seen = other.channels[0] > other.channels[0].mean()
        by_hand = 2 * (square & seen).sum() / (square.sum() + seen.sum())
        assert found.identity_dice == pytest.approx(by_hand)
    absent = stored_masks(manifest, predictor.plan, ("silver",))
    assert absent(images[0]) is None
    assert absent(replace(images[0], case_id="nobody")) is None
    with pytest.raises(ConfigError, match="class 'bright': not a class of this data set"):
        stored_masks(manifest, make_plan(2, 2, patch_size=(16, 16)), ("full",))


def test_realism_compares_with_real_images_that_are_so_by_nature(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 24)
    generator = make_generator(data)
    check = SoundnessCheck(generator.source, generator.plan, generator.graph, judge=untrained_judge(generator))
    manifest = open_dataset(data)
    run = generate_folder(generator, manifest, tmp_path / "out", ["scanner=B", "finding=none;scanner=A"], check=check)
    real = list(manifest.cases)
    found = realism_by_intervention(run.records, real, check, tmp_path / "out", seed=0)
    assert found["scanner=B"].n_real == sum(case.scanner == "B" for case in real)
    assert found["scanner=B"].n_counterfactual == sum(r.intervention == "scanner=B" for r in run.records)
    both = [case for case in real if case.scanner == "A" and case.attribute("finding") == "none"]
    assert found["finding=none;scanner=A"].n_real == len(both)
    assert found["scanner=B"].group > 1
    again = realism_by_intervention(run.records, real[::-1], check, tmp_path / "out", seed=0)
    assert set(again) == set(found)
    without = SoundnessCheck(generator.source, generator.plan, generator.graph)
    assert realism_by_intervention(run.records, real, without, tmp_path / "out", seed=0) == {}


def test_an_image_that_cannot_be_read_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 12)
    generator = make_generator(data, swap)
    check = SoundnessCheck(generator.source, generator.plan, generator.graph, judge=untrained_judge(generator))
    manifest = open_dataset(data)
    run = generate_folder(generator, manifest, tmp_path / "out", ["scanner=B"], check=check)
    missing: list[Case] = [
        replace(case, images=(tmp_path / "gone.png",)) if case.case_id == "case1" else case for case in manifest.cases
    ]
    n_all = realism_by_intervention(run.records, manifest.cases, check, tmp_path / "out", seed=0)["scanner=B"].n_real
    assert (
        realism_by_intervention(run.records, missing, check, tmp_path / "out", seed=0)["scanner=B"].n_real == n_all - 1
    )
