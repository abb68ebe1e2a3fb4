"""The whole way: an image model, counterfactuals as rows of a data set, and a recipe whose views show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import scantling
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.layouts import open_dataset
from scantling.training.config import DataConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.materials import gather
from scantling.training.progress import Silent
from scantling.training.run_folder import RunFolder

IMAGE_MODEL = (
    'settings.network={preset = "custom", encoder = "8b1d2,4b1d4,1b1", decoder = "1b1,4b1,8b1", widths = [8, 8, 16], '
    "patch = 4, latent_channels = [4, 2], stochastic_up_to = 4}",
    "settings.size=[32, 32]",
    'settings.attributes=["scanner", "finding"]',
    "settings.judge_steps=2",
    "training.steps_per_epoch=2",
)
SEGMENTATION = ("training.steps_per_epoch=2", "plan.batch_size=2", "plan.patch_size=[32, 32]")


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight labelled cases and four test cases, each with a counterfactual under the other scanner."""
    folder = tmp_path_factory.mktemp("views")
    data = write_chest_phantom(folder / "data", n_labelled=8, n_unlabelled=8, n_test=4, seed=3, size=40)
    run = folder / "run"
    scantling.train(data, run, recipe="counterfactual_vae", steps=1, settings=IMAGE_MODEL)
    limits = {"effectiveness": None, "kept": None, "reversibility": None}
    done = scantling.generate(
        run, data, folder / "out", do="scanner=other", source="appearance", limits=limits
    )  # a model of one step changes nothing yet
    assert len(done.sound) == 20
    return folder / "out"


def test_rows_of_counterfactuals_are_views_of_their_real_cases_and_nothing_else(
    generated: Path, tmp_path: Path
) -> None:
    config = RunConfig(
        settings={"views": {"image_of_view": "any"}},
        training=LoopConfig(steps=2, steps_per_epoch=2),
        data=DataConfig(path=str(generated)),
    )
    told = Told()
    materials = gather(RunFolder(tmp_path), config, device_kind="cpu", display=told)
    assert len(materials.split.train) == 8
    assert len(materials.split.heldout) == 4
    assert [len(case.alternatives) for case in materials.train.cases] == [1] * 8
    assert all(not case.alternatives for case in materials.validation.cases)
    assert "Views: 8 counterfactuals of 8 of 8 cases are shown too" in told.sentences
    for case in materials.train.cases:
        other = case.alternatives[0]
        assert other.image.shape == case.image.shape
        assert not np.array_equal(other.image, case.image)


def test_without_asking_no_counterfactual_is_read(generated: Path, tmp_path: Path) -> None:
    config = RunConfig(training=LoopConfig(steps=2, steps_per_epoch=2), data=DataConfig(path=str(generated)))
    materials = gather(RunFolder(tmp_path), config, device_kind="cpu", display=Silent())
    assert materials.train.n_alternatives == 0


def test_a_data_set_without_counterfactuals_says_so(generated: Path, tmp_path: Path) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=4, n_unlabelled=0, n_test=1, seed=3, size=40)
    config = RunConfig(
        settings={"views": {"image_of_view": "any"}},
        training=LoopConfig(steps=2, steps_per_epoch=2),
        data=DataConfig(path=str(data)),
    )
    told = Told()
    (tmp_path / "run").mkdir()
    gather(RunFolder(tmp_path / "run"), config, device_kind="cpu", display=told)
    assert any("no case has a counterfactual" in sentence for sentence in told.sentences)


def test_a_run_trains_on_them_and_scores_real_images_alone(generated: Path, tmp_path: Path) -> None:
    result = scantling.train(
        generated, tmp_path / "run", steps=2, settings=(*SEGMENTATION, "settings.views.image_of_view=any")
    )
    assert result.evaluation is not None
    held_out = set(result.evaluation.patients)
    real = {case.case_id for case in open_dataset(generated).real}
    assert len(held_out) == 4
    assert held_out <= real
