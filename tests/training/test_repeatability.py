"""What decides a run's bits: the seed and the settings; not workers, not restarts; the number of threads does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.contract import BATCH, PATCH, Shapes, build
from scantling.data.catalog.phantom import write_cardiac_phantom, write_chest_phantom
from scantling.training.config import DataConfig, PlanConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.optimisation import OptimisationConfig
from scantling.training.run_folder import RunFolder
from scantling.training.step import Stepper
from scantling.training.train import resume, start


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(data: Path, *, seed: int = 0, workers: int = 0, steps: int = 4, **plan: Any) -> RunConfig:
    loop = LoopConfig(steps=steps, steps_per_epoch=2, precision="float32")
    plan_config = PlanConfig(**({"batch_size": 2} | plan))
    return RunConfig(data=DataConfig(path=str(data)), plan=plan_config, training=loop, seed=seed, workers=workers)


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


@pytest.fixture(scope="module", params=["2D", "3D"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A data folder and what its plan must say."""
    folder = tmp_path_factory.mktemp(request.param) / "data"
    if request.param == "2D":
        write_chest_phantom(folder, n_labelled=4, n_unlabelled=0, n_test=1, seed=0, size=48)
        return folder, {"patch_size": (32, 32)}
    write_cardiac_phantom(folder, n_labelled=3, n_unlabelled=0, n_test=1, seed=0, shape=(6, 48, 48))
    return folder, {"patch_size": (4, 32, 32), "dimensions": 3}


def test_workers_and_repetition_change_no_bit_and_another_seed_does(
    case: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    data, plan = case
    first = weights(start(config(data, **plan), tmp_path / "first"))
    assert weights(start(config(data, **plan), tmp_path / "again")) == first
    assert weights(start(config(data, workers=2, **plan), tmp_path / "workers")) == first
    assert weights(start(config(data, seed=1, **plan), tmp_path / "seed")) != first


def losses_and_gradients(threads: int) -> tuple[dict[str, float], list[torch.Tensor]]:
    torch.set_num_threads(threads)
    stepper = Stepper(
        build("supervised"), OptimisationConfig(), precision="float32", seed=0, device=torch.device("cpu")
    )
    samples = [Shapes().sample(0, i) for i in range(BATCH)]
    outcome = stepper.backward(samples, 0, patch_size=PATCH, batch_size=BATCH)
    return dict(outcome.terms), [p.grad.clone() for p in stepper.recipe.parameters() if p.grad is not None]


def test_threads_change_at_most_the_last_bits_of_a_gradient() -> None:
    terms, gradients = losses_and_gradients(1)
    for threads in (2, 4):
        others, theirs = losses_and_gradients(threads)
        for name, value in terms.items():
            assert others[name] == pytest.approx(value, rel=1e-6)
        for one, other in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_number_of_threads_is_recorded_and_taken_up_again_on_resuming(
    case: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    data, plan = case
    torch.set_num_threads(1)
    whole = start(config(data, steps=6, **plan), tmp_path / "whole")
    part = start(config(data, steps=6, **plan), tmp_path / "part", dry_run=True)
    assert part.status()["threads"] == 1
    torch.set_num_threads(4)
    assert weights(resume(part.path)) == weights(whole)
    assert part.status()["threads"] == 1
    assert torch.get_num_threads() == 4
