"""Parts that are not trained stay as they are to the bit, in whatever mode the network is, and so do copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from scantling.data.plan import NetworkPlan
from scantling.networks import UNet, build_network, fix_parts, untrained
from scantling.networks.fixing import Tune
from scantling.targets.teacher import AveragedCopy

BATCH_NORM = NetworkPlan(
    features=(4, 8, 8), strides=((1, 1), (2, 2), (2, 2)), kernels=((3, 3),) * 3, norm="batch", deep_supervision=True
)
DROPOUT = NetworkPlan(
    kind="scribble_unet",
    features=(2, 4, 4, 4, 4),
    strides=((1, 1), *((2, 2),) * 4),
    kernels=((3, 3),) * 5,
    norm="batch",
)


def network(plan: NetworkPlan = BATCH_NORM) -> UNet:
    return build_network(
        plan, dimensions=2, in_channels=1, out_channels=3, generator=torch.Generator().manual_seed(0)
    ).train()


def trained(made: UNet, *, steps: int = 3) -> tuple[dict[str, Any], torch.optim.Optimizer, AveragedCopy]:
    """A few steps towards nothing in particular."""
    optimiser = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=0.1)
    average = AveragedCopy(made, decay=0.5)
    for step in range(steps):
        optimiser.zero_grad()
        logits = made.train()(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(step)))
        sum(part.square().mean() for part in (logits if isinstance(logits, list) else [logits])).backward()
        optimiser.step()
        average.update(made)
    return dict(made.state_dict()), optimiser, average


@pytest.mark.parametrize("plan", [BATCH_NORM, DROPOUT], ids=["deep supervision", "dropout"])
@pytest.mark.parametrize(("tune", "moved"), [
    ("full", ("encoder.", "decoder.", "heads.")),
    ("frozen", ("decoder.", "heads.")),
    ("linear-probe", ("heads.0.",)),
])  # fmt: skip
def test_what_is_fixed_is_bit_identical_after_training_and_all_else_moves(
    plan: NetworkPlan, tune: Tune, moved: tuple[str, ...]
) -> None:
    made = network(plan)
    fix_parts(made, tune)
    before = copy.deepcopy(made.state_dict())
    after, optimiser, average = trained(made)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {
        name for name in after if name.startswith(moved)
    }
    for name, value in average.module.state_dict().items():
        assert name.startswith(moved) or torch.equal(value, before[name]), name
    held = sum(p.numel() for group in optimiser.param_groups for p in group["params"])
    assert held == sum(p.numel() for name, p in made.named_parameters() if name.startswith(moved))


def test_levels_that_nobody_has_learnt_are_not_fixed() -> None:
    made = network(BATCH_NORM)
    fix_parts(made, "linear-probe", unlearnt=["decoder.1"])
    before = copy.deepcopy(made.state_dict())
    after, _, _ = trained(made)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {
        name for name in after if name.startswith(("decoder.1.", "heads.0."))
    }


def test_a_fixed_part_works_as_in_evaluation_whatever_the_mode_and_in_copies_too() -> None:
    made = network(DROPOUT)
    fix_parts(made, "linear-probe")
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(9))
    expected = made.eval()(image)
    for each in (made, copy.deepcopy(made)):
        torch.testing.assert_close(each.train()(image), expected, rtol=0, atol=0)
        assert each.training


def test_with_deep_supervision_training_still_gives_the_logits_of_every_level() -> None:
    made = network()
    fix_parts(made, "linear-probe")
    assert len(made(torch.zeros(1, 1, 32, 32))) == 2


def test_untrained_are_all_tensors_of_layers_without_a_trained_parameter_and_no_others() -> None:
    made = network()
    assert untrained(made) == set()
    made.decoder[1].requires_grad_(False)
    made.heads.requires_grad_(False)
    made.encoder[0][0].norm.bias.requires_grad_(False)  # its scale is trained
    expected = {name for name in made.state_dict() if name.startswith(("decoder.1.", "heads."))}
    assert untrained(made) == expected
    assert any(name.endswith("running_mean") for name in expected)
