"""A batch spread over two processes moves the weights as it would in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from two_processes import run_two

SCRIPT = Path(__file__).with_name("gradient_process.py")


Gradients = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Gradients:
    """Per loss, "shared" by two processes and "alone" in one: the gradient, then the loss."""
    folder = tmp_path_factory.mktemp("processes")
    run_two(SCRIPT, folder)
    found: Gradients = torch.load(folder / "gradients.pt")
    return found


@pytest.mark.parametrize("name", ["cross_entropy, normaliser", "cross_entropy", "dice", "dice per sample", "both"])
def test_two_processes_give_the_gradient_of_one(gradients: Gradients, name: str) -> None:
    shared, alone = gradients[name]["shared"][:-1], gradients[name]["alone"][:-1]
    assert alone.abs().max() > 1e-3
    torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "dice per sample", "both"])
def test_summing_over_processes_gives_each_the_loss_of_the_whole_batch(gradients: Gradients, name: str) -> None:
    assert gradients[name]["shared"][-1].item() == pytest.approx(gradients[name]["alone"][-1].item(), rel=1e-12)


def test_the_shares_differ_so_much_that_dividing_by_their_own_weight_would_show(gradients: Gradients) -> None:
    found = gradients["cross_entropy, uncorrected"]
    assert (found["shared"][:-1] - found["alone"][:-1]).abs().max() > 1e-3
