from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.contract import BATCH, PATCH, Shapes, assert_equal, build, small_plan
from scantling.errors import IntegrityError
from scantling.recipes import build_recipe
from scantling.seeding import torch_generator
from scantling.training.optimisation import OptimisationConfig
from scantling.training.step import Stepper, is_out_of_memory, part_shares

SAMPLES = [Shapes().sample(0, i) for i in range(BATCH)]


def stepper(seed: int = 0) -> Stepper:
    config = OptimisationConfig()
    return Stepper(build("supervised", seed=seed), config, precision="float32", seed=0, device=torch.device("cpu"))


def gradients(of: Stepper) -> list[torch.Tensor]:
    return [p.grad.clone() for p in of.recipe.parameters() if p.grad is not None]


def test_a_batch_cut_in_parts_gives_the_mean_gradient_of_the_parts() -> None:
    one = stepper()
    whole = one.backward(SAMPLES, 0, patch_size=PATCH, batch_size=BATCH, parts=2)
    in_parts = gradients(one)
    halves = []
    for part in (SAMPLES[0::2], SAMPLES[1::2]):
        alone = stepper()
        alone.config = alone.config.model_copy(update={"gradient_clip": 0.0})
        outcome = alone.backward(part, 0, patch_size=PATCH, batch_size=len(part))
        halves.append((outcome.terms["dice"], gradients(alone)))
    scale = min(1.0, 1.0 / (whole.gradient_norm + 1e-6))
    for actual, first, second in zip(in_parts, halves[0][1], halves[1][1], strict=True):
        torch.testing.assert_close(actual, scale * (first + second) / 2, rtol=1e-4, atol=1e-6)
    assert whole.terms["dice"] == pytest.approx((halves[0][0] + halves[1][0]) / 2, rel=1e-5)


def test_shares_of_parts_count_the_samples_of_all_processes() -> None:
    assert part_shares(4, 1, 1) == [1.0]
    assert part_shares(5, 1, 2) == [0.6, 0.4]
    assert part_shares(5, 2, 2) == [0.6, 0.4]  # 3 + 2 samples: (2 + 1) and (1 + 1)
    assert part_shares(3, 2, 4) == [1.0]  # the second process has one sample, which cannot be cut
    assert sum(part_shares(11, 3, 3)) == pytest.approx(1.0)


def test_undoing_a_step_leaves_no_gradient_and_the_next_is_as_if_it_had_not_been() -> None:
    disturbed, plain = stepper(), stepper()
    disturbed.backward(SAMPLES, 7, patch_size=PATCH, batch_size=BATCH)
    disturbed.undo()
    assert gradients(disturbed) == []
    for each in (disturbed, plain):
        each.backward(SAMPLES, 0, patch_size=PATCH, batch_size=BATCH)
        each.take()
    assert_equal(disturbed.recipe.state_dict(), plain.recipe.state_dict())


def test_state_comes_back_and_that_of_another_network_is_refused() -> None:
    one, other = stepper(), stepper(seed=4)
    one.backward(SAMPLES, 0, patch_size=PATCH, batch_size=BATCH)
    one.take()
    tensors, scalars = one.state()
    other.restore(tensors, scalars)
    for each in (one, other):
        each.backward(SAMPLES, 1, patch_size=PATCH, batch_size=BATCH)
        each.take()
    assert_equal(one.recipe.state_dict(), other.recipe.state_dict())
    assert one.average is not None
    assert other.average is not None
    assert_equal(one.average.state_dict(), other.average.state_dict())
    plan = small_plan()
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"features": (4, 8)})})
    wider = build_recipe("supervised", {}, plan, torch_generator(0, "weights"))
    with pytest.raises(IntegrityError, match="holds the weights of another network"):
        Stepper(wider, OptimisationConfig(), precision="float32", seed=0, device=torch.device("cpu")).restore(
            tensors, scalars
        )


def test_only_errors_about_memory_count_as_out_of_memory(tmp_path: Path) -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of range"))


def test_what_a_recipe_moves_after_a_step_stays_when_the_run_is_stopped_there() -> None:
    recipe = build("supervised")
    moved = torch.zeros(())
    recipe.register_buffer("moved", moved)
    one = Stepper(recipe, OptimisationConfig(), precision="float32", seed=0, device=torch.device("cpu"))
    one.backward(SAMPLES, 0, patch_size=PATCH, batch_size=BATCH)
    recipe.after_step = lambda: moved.add_(1)  # type: ignore[assignment, method-assign, return-value]
    one.take()
    one.undo()
    assert float(moved) == 1
    one.backward(SAMPLES, 1, patch_size=PATCH, batch_size=BATCH)
    moved.add_(5)
    one.undo()
    assert float(moved) == 1
