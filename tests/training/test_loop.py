from __future__ import annotations

import contextlib
import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from recipes.contract import BATCH, PATCH, Shapes, assert_equal, build, loop_for, weights_of
from scantling.errors import ConfigError, IntegrityError, Interrupted, ResourceError
from scantling.training import loop as module
from scantling.training.batches import StepSamples, batches
from scantling.training.interruption import BrokenOff
from scantling.training.loop_state import LoopConfig, Validation
from scantling.training.optimisation import OptimisationConfig
from scantling.views.maker import make_views


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


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(tmp_path: Path) -> None:
    recipe = failing(build("supervised"), [torch.OutOfMemoryError("no"), RuntimeError("CUDA out of memory")])
    loop = loop_for(recipe, tmp_path, steps=2)
    loop.run()
    assert loop.state.splits == 2
    assert [event["parts"] for event in events(loop, "out_of_memory")] == [2, 4]


def test_out_of_memory_makes_the_patch_smaller_once_the_batch_is_in_single_samples(tmp_path: Path) -> None:
    shown: list[str] = []
    recipe = failing(build("supervised"), [MemoryError(), MemoryError(), torch.OutOfMemoryError("no")])
    loop = loop_for(recipe, tmp_path, steps=3)
    loop.display.say = shown.append  # type: ignore[method-assign]
    loop.run()
    assert loop.patch_size == (16, 32)
    assert [tuple(event["patch_size"]) for event in events(loop, "out_of_memory")] == [(32, 32), (32, 32), (16, 32)]
    assert shown[-1] == "Out of memory: patches are now 16 x 32 instead of 32 x 32 (retry 3 of 3)."
    again = loop_for(build("supervised"), tmp_path, steps=3)
    again.restore()
    assert again.patch_size == (16, 32)


def test_a_patch_is_halved_along_its_longest_axis_to_what_the_strides_allow() -> None:
    assert module._halved((48, 160, 144), (4, 16, 16)) == (48, 80, 144)
    assert module._halved((48, 96, 96), (4, 16, 16)) == (48, 48, 96)
    assert module._halved((3, 56, 40), (1, 8, 8)) == (3, 24, 40)
    assert module._halved((16, 16), (8, 8)) is None


def test_out_of_memory_ends_after_three_retries_with_a_fix_and_other_errors_pass(tmp_path: Path) -> None:
    loop = loop_for(failing(build("supervised"), [MemoryError()] * 9), tmp_path / "a", steps=2)
    with pytest.raises(ResourceError, match=r"after 3 retries; make plan\.patch_size smaller"):
        loop.run()
    assert len(events(loop, "out_of_memory")) == 3
    loop = loop_for(failing(build("supervised"), [RuntimeError("shape mismatch")]), tmp_path / "b", steps=2)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        loop.run()


def test_a_trial_that_does_not_fit_makes_the_run_smaller_before_it_begins(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=1)
    original, calls = loop.stepper.trial, itertools.count()

    def trial(*args: Any, **named: Any) -> float:
        if next(calls) == 0:
            raise torch.OutOfMemoryError("no")
        return original(*args, **named)

    loop.stepper.trial = trial  # type: ignore[method-assign]
    assert loop.trial() > 0
    assert loop.state.splits == 1


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


def test_a_step_that_is_not_finite_leaves_running_statistics_alone(tmp_path: Path) -> None:
    recipe = poisoned(build("supervised"), steps={1})
    recipe.statistics = nn.BatchNorm2d(1)
    original = recipe.losses

    def losses(batch: Any, rng: Any) -> Any:
        recipe.statistics(batch.images[:, 0])
        return original(batch, rng)

    recipe.losses = losses
    loop = loop_for(recipe, tmp_path, steps=2)
    after: list[torch.Tensor] = []
    loop.stop = lambda: bool(after.append(recipe.statistics.running_mean.clone()))  # type: ignore[func-returns-value]
    loop.run()
    first, second = after
    assert first.any()
    assert torch.equal(first, second)


def test_a_skipped_step_is_dumped_so_that_it_can_be_computed_again(tmp_path: Path) -> None:
    loop = loop_for(poisoned(build("supervised"), steps={1}), tmp_path, steps=3)
    loop.run()
    (dump,) = (tmp_path / "skipped").iterdir()
    with safe_open(dump, framework="pt") as stream:
        header = json.loads(stream.metadata()["scantling"])
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    assert header["step"] == 1
    assert header["terms"]["dice"] == "nan"
    assert [s["position"] for s in header["samples"]] == list(range(BATCH, 2 * BATCH))
    batch = make_views(loop.samples[1], loop.recipe.views(), PATCH, seed=0)
    assert torch.equal(tensors["images"], batch.images)
    assert sum(name.startswith("recipe/") for name in tensors) == len(loop.recipe.state_dict())


def test_divergence_stops_the_run_with_its_own_exit_code_and_a_checkpoint(tmp_path: Path) -> None:
    loop = loop_for(poisoned(build("supervised"), steps=set(range(99))), tmp_path, steps=50)
    with pytest.raises(IntegrityError, match="4 of 4 steps had a loss or gradient that is not finite") as caught:
        loop.run()
    assert caught.value.exit_code == 6
    assert list(tmp_path.glob("checkpoints/step-*.safetensors"))
    assert len(list((tmp_path / "skipped").iterdir())) == 3


@pytest.mark.parametrize(("bad", "ends"), [({5, 10, 20, 34}, False), ({5, 10, 15, 20}, True)])
def test_up_to_three_steps_or_the_allowed_share_may_be_skipped(tmp_path: Path, bad: set[int], ends: bool) -> None:
    loop = loop_for(poisoned(build("supervised"), steps=bad), tmp_path, steps=36, skipped_share=0.12)
    with pytest.raises(IntegrityError, match="4 of 21 steps") if ends else contextlib.nullcontext():
        loop.run()
    assert loop.state.skipped == len(bad)
    assert LoopConfig().skipped_share == 0.01


def scores(values: list[float]) -> Any:
    queue = iter(values)

    def validate(network: nn.Module) -> Validation:
        assert not network.training
        value = next(queue)
        return Validation(score=value, per_class={"disc": value})

    return validate


def test_the_deployed_weights_are_those_of_the_best_validation(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    loop = loop_for(build("supervised"), tmp_path, steps=15)
    values = iter([0.2, 0.8, 0.5])

    def validate(network: nn.Module) -> Validation:
        seen.append({k: v.clone() for k, v in network.state_dict().items()})
        return Validation(score=next(values), per_class={})

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
    assert loop.stepper.optimiser.param_groups[0]["lr"] < 0.5 * loop.config.optimisation.learning_rate


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
    optimisation = OptimisationConfig(average_decay=0.0)
    loop = loop_for(build("supervised"), tmp_path, steps=2, optimisation=optimisation)
    network = loop.run()
    assert network is loop.recipe.deployable()


def broken_off(recipe: Any, *, at: int) -> Any:
    """A recipe in whose loss number `at` a signal arrives."""
    original, counter = recipe.losses, itertools.count()

    def losses(batch: Any, rng: Any) -> Any:
        terms = original(batch, rng)
        if next(counter) == at:
            raise BrokenOff
        return terms

    recipe.losses = losses
    return recipe


def test_a_step_that_is_broken_off_is_done_again_after_resuming(tmp_path: Path) -> None:
    whole = loop_for(build("supervised"), tmp_path / "whole", steps=8)
    whole.run()
    loop = loop_for(broken_off(build("supervised"), at=4), tmp_path / "part", steps=8)
    with pytest.raises(Interrupted, match="stopped at step 4"):
        loop.run()
    resumed = loop_for(build("supervised", seed=3), tmp_path / "part", steps=8)
    resumed.restore()
    resumed.run()
    assert_equal(weights_of(whole), weights_of(resumed))


def test_a_validation_that_is_broken_off_is_done_again_and_the_best_weights_survive(tmp_path: Path) -> None:
    def loop_with(folder: str, values: list[float | None]) -> module.Loop:
        loop = loop_for(build("supervised"), tmp_path / folder, steps=15)
        queue = iter(values)

        def validate(network: nn.Module) -> Validation:
            if (value := next(queue)) is None:
                raise BrokenOff
            return Validation(score=value, per_class={})

        loop.validate = validate
        return loop

    whole = loop_with("whole", [0.8, 0.3, 0.5])
    best = {k: v.clone() for k, v in whole.run().state_dict().items()}
    part = loop_with("part", [0.8, None])
    with pytest.raises(Interrupted, match="stopped at step 10"):
        part.run()
    resumed = loop_with("part", [0.3, 0.5])
    resumed.restore()
    assert_equal(dict(resumed.run().state_dict()), best)
    scores = [e["validation"]["mean_dice"] for e in events(resumed, "epoch")]
    assert scores == [0.8, 0.3, 0.5]


def test_an_early_stop_stays_one_after_a_restart(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=30, patience=1)
    loop.validate = scores([0.5, 0.4])
    loop.run()
    again = loop_for(build("supervised"), tmp_path, steps=30, patience=1)
    again.validate = scores([])
    again.restore()
    again.run()
    assert again.state.step == 10


def rates(loop: module.Loop) -> list[float]:
    """The learning rate of every step the loop takes."""
    seen: list[float] = []
    original = loop.stepper.take

    def take() -> None:
        seen.append(loop.stepper.optimiser.param_groups[0]["lr"])
        original()

    loop.stepper.take = take  # type: ignore[method-assign]
    return seen


def test_a_run_made_longer_says_what_changes_and_its_rate_never_jumps(tmp_path: Path) -> None:
    optimisation = OptimisationConfig(learning_rate=1e-3, warmup_fraction=0.1)
    loop = loop_for(build("supervised"), tmp_path, steps=20, optimisation=optimisation)
    loop.run()
    longer = loop_for(build("supervised"), tmp_path, steps=20, optimisation=optimisation)
    longer.restore()
    sentence = longer.extend(longer.config.model_copy(update={"steps": 60}))
    assert sentence.startswith("The run's length changes from 20 steps to 60 steps, 33 % of which is done.")
    assert "rises no faster than in warm-up to the new schedule's" in sentence
    seen = rates(longer)
    longer.run()
    assert len(seen) == 40
    steepest = 1e-3 / (0.1 * 60)  # warm-up's slope in the longer run, a step
    before = loop.state.learning_rate
    for rate in seen:
        assert rate - before <= steepest * 1.0001
        before = rate
    assert max(seen) > 5e-4  # it does rise to the longer schedule
    assert seen[-1] < 2e-5


def test_resuming_without_a_change_of_length_takes_the_promised_rates(tmp_path: Path) -> None:
    whole = loop_for(build("supervised"), tmp_path / "whole", steps=12)
    promised = rates(whole)
    whole.run()
    loop = loop_for(build("supervised"), tmp_path / "part", steps=12)
    first = rates(loop)
    loop.stop = lambda: loop.state.step == 5
    with pytest.raises(Interrupted):
        loop.run()
    again = loop_for(build("supervised"), tmp_path / "part", steps=12)
    again.restore()
    second = rates(again)
    again.run()
    assert first + second == promised


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
