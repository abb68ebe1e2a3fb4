from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes.contract import BATCH, PATCH, Shapes, assert_equal, build, loop_for, weights_of
from scantling.errors import ConfigError, IntegrityError, Interrupted, ResourceError
from scantling.training import loop as module
from scantling.training.batches import StepSamples, batches
from scantling.training.loop import Validation


def events(loop: module.Loop, name: str) -> list[dict[str, Any]]:
    return [event for event in loop.run_folder.read_log() if event["event"] == name]


def failing(recipe: Any, errors: list[Exception | None]) -> Any:
    """A recipe whose next calls of `losses` raise these errors, None meaning none."""
    original, queue = recipe.losses, iter(errors)

    def losses(batch: Any, rng: Any) -> Any:
        error = next(queue, None)
        if error is not None:
            raise error
        return original(batch, rng)

    recipe.losses = losses
    return recipe


def test_a_batch_cut_in_parts_gives_the_gradient_of_the_mean_over_parts(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=1)
    samples = loop.samples[0]
    loop.state.splits = 1
    loop._backward(loop.recipe, samples)
    in_parts = [p.grad.clone() for p in loop.recipe.parameters()]
    expected = None
    loop.state.splits = 0
    for part in (samples[0::2], samples[1::2]):
        loop._backward(loop.recipe, part)
        gradients = [p.grad.clone() for p in loop.recipe.parameters()]
        expected = gradients if expected is None else [a + b for a, b in zip(expected, gradients, strict=True)]
    for actual, total in zip(in_parts, expected, strict=True):
        torch.testing.assert_close(actual, total / 2, rtol=1e-4, atol=1e-6)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(tmp_path: Path) -> None:
    recipe = failing(build("supervised"), [torch.OutOfMemoryError("no"), RuntimeError("CUDA out of memory")])
    loop = loop_for(recipe, tmp_path, steps=2)
    loop.run()
    assert loop.state.splits == 2
    assert [event["parts"] for event in events(loop, "out_of_memory")] == [2, 4]


def test_out_of_memory_with_single_samples_ends_with_a_fix_and_other_errors_pass(tmp_path: Path) -> None:
    loop = loop_for(failing(build("supervised"), [MemoryError()] * 9), tmp_path / "a", steps=2)
    with pytest.raises(ResourceError, match=r"does not fit in memory; make plan\.patch_size smaller"):
        loop.run()
    loop = loop_for(failing(build("supervised"), [RuntimeError("shape mismatch")]), tmp_path / "b", steps=2)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        loop.run()


def poisoned(recipe: Any, *, steps: set[int]) -> Any:
    original, counter = recipe.losses, itertools.count()

    def losses(batch: Any, rng: Any) -> Any:
        bad = next(counter) in steps
        return {k: v * (float("nan") if bad else 1.0) for k, v in original(batch, rng).items()}

    recipe.losses = losses
    return recipe


def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted(tmp_path: Path) -> None:
    loop = loop_for(poisoned(build("supervised"), steps={0}), tmp_path, steps=1)
    before = {k: v.clone() for k, v in loop.recipe.state_dict().items()}
    loop.run()
    assert all(torch.equal(before[k], v) for k, v in loop.recipe.state_dict().items())
    assert loop.state.skipped == 1
    assert events(loop, "skipped_step")[0]["terms"] == ["dice", "cross_entropy"]


def test_divergence_stops_the_run_with_its_own_exit_code_and_a_checkpoint(tmp_path: Path) -> None:
    loop = loop_for(poisoned(build("supervised"), steps=set(range(99))), tmp_path, steps=50)
    with pytest.raises(IntegrityError, match="4 of 4 steps had a loss or gradient that is not finite") as caught:
        loop.run()
    assert caught.value.exit_code == 6
    assert list(tmp_path.glob("checkpoints/step-*.safetensors"))


def scores(values: list[float]) -> Any:
    queue = iter(values)

    def validate(network: nn.Module) -> Validation:
        assert not network.training
        value = next(queue)
        return Validation(mean_dice=value, per_class={"disc": value})

    return validate


def test_the_deployed_weights_are_those_of_the_best_validation(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    loop = loop_for(build("supervised"), tmp_path, steps=15)
    values = iter([0.2, 0.8, 0.5])

    def validate(network: nn.Module) -> Validation:
        seen.append({k: v.clone() for k, v in network.state_dict().items()})
        return Validation(mean_dice=next(values), per_class={})

    loop.validate = validate
    network = loop.run()
    assert_equal(dict(network.state_dict()), seen[1])
    assert loop.state.best_score == 0.8
    assert [e["validation"]["mean_dice"] for e in events(loop, "epoch")] == [0.2, 0.8, 0.5]


def test_patience_stops_early_and_zero_patience_never(tmp_path: Path) -> None:
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    patient = loop_for(build("supervised"), tmp_path / "a", steps=30, patience=2)
    patient.validate = scores(values)
    patient.run()
    assert patient.state.step == 15
    stubborn = loop_for(build("supervised"), tmp_path / "b", steps=30)
    stubborn.validate = scores(values)
    stubborn.run()
    assert stubborn.state.step == 30


def test_a_run_by_the_clock_ends_when_its_seconds_are_over_with_a_decayed_rate(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=1, seconds=1.0)
    loop.config = loop.config.model_copy(update={"steps": None})
    loop.run()
    assert loop.state.elapsed >= 1.0
    assert loop.progress() == 1.0
    assert loop.state.step > 3
    assert loop.optimiser.param_groups[0]["lr"] < 0.5 * loop.config.optimisation.learning_rate


def test_a_stopped_run_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=50)
    loop.stop = lambda: loop.state.step == 2
    with pytest.raises(Interrupted, match="stopped at step 2; continue with: scantling resume") as caught:
        loop.run()
    assert caught.value.exit_code == 5
    fresh = loop_for(build("supervised", seed=5), tmp_path, steps=50)
    fresh.restore()
    assert_equal(weights_of(loop), weights_of(fresh))


def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=4, checkpoint_seconds=0)
    loop.run()
    newest = max(tmp_path.glob("checkpoints/step-*"))
    newest.write_bytes(newest.read_bytes()[:-7])
    fresh = loop_for(build("supervised"), tmp_path, steps=4)
    assert "going back to the checkpoint before it" in fresh.restore()[0]
    assert fresh.state.step == 3


def test_a_trial_leaves_no_trace_in_the_run(tmp_path: Path) -> None:
    tried, untried = (loop_for(build("supervised"), tmp_path / name, steps=3) for name in ("a", "b"))
    assert tried.trial() > 0
    tried.run()
    untried.run()
    assert_equal(weights_of(tried), weights_of(untried))


def test_without_averaging_the_last_weights_are_deployed(tmp_path: Path) -> None:
    optimisation = module.OptimisationConfig(average_decay=0.0)
    loop = loop_for(build("supervised"), tmp_path, steps=2, optimisation=optimisation)
    network = loop.run()
    assert network is loop.recipe.deployable()


def test_samples_are_the_same_with_workers_as_without() -> None:
    samples = StepSamples(Shapes(), BATCH, steps_per_epoch=2)
    alone = batches(samples, start=1, workers=0)
    helped = batches(samples, start=1, workers=2)
    for _ in range(4):
        for one, other in zip(next(alone), next(helped), strict=True):
            assert one.key == other.key
            assert torch.equal(one.image, other.image)
    assert [s.key for s in samples[3]] == [(1, BATCH + i) for i in range(BATCH)]
    assert samples[0][0].image.shape[-2:] != PATCH


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_half_precision_trains_and_keeps_weights_in_float32(tmp_path: Path, precision: str) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=10, precision=precision)
    loop.run()
    assert {p.dtype for p in loop.recipe.parameters()} == {torch.float32}
    losses = [sum(e["losses"].values()) for e in events(loop, "epoch")]
    assert losses[-1] < losses[0]


def test_tensorboard_gets_every_term_of_an_epoch_or_its_absence_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: list[tuple[str, float, int]] = []
    writer = types.ModuleType("torch.utils.tensorboard.writer")
    writer.SummaryWriter = lambda folder: types.SimpleNamespace(  # type: ignore[attr-defined]
        add_scalar=lambda *point: points.append(point), flush=lambda: None
    )
    package = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", writer)
    loop = loop_for(build("supervised"), tmp_path / "a", steps=5, tensorboard=True)
    loop.validate = scores([0.5])
    loop.run()
    names = {name for name, _, step in points if step == 5}
    assert names >= {
        "loss/dice",
        "loss/cross_entropy",
        "learning_rate",
        "validation/mean_dice",
        "validation/disc",
    }
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ConfigError, match=r"scantling\[tensorboard\]"):
        loop_for(build("supervised"), tmp_path / "b", steps=5, tensorboard=True)
