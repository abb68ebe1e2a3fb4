"""Alignment and consistency of a batch spread over two processes move the weights as they would in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from two_processes import run_two

SCRIPT = Path(__file__).with_name("agreement_process.py")
NAMES = [
    "align", "window alignment", "window alignment, pairs", "energy distance", "hard cross-entropy",
    "soft cross-entropy", "KL", "probabilities", "logits", "entropy",
]  # fmt: skip

Gradients = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Gradients:
    """Per loss, "shared" by two processes and "alone" in one: the gradient, then the loss."""
    folder = tmp_path_factory.mktemp("processes")
    run_two(SCRIPT, folder)
    found: Gradients = torch.load(folder / "gradients.pt")
    return found


def test_every_loss_was_computed(gradients: Gradients) -> None:
    assert sorted(gradients) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_gradient_and_the_loss_of_one(gradients: Gradients, name: str) -> None:
    shared, alone = gradients[name]["shared"], gradients[name]["alone"]
    assert alone[:-1].abs().max() > 1e-3
    torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"energy distance"}))  # whose samples all count alike
def test_the_shares_differ_so_much_that_a_mean_of_their_own_would_show(gradients: Gradients, name: str) -> None:
    assert (gradients[name]["uncorrected"] - gradients[name]["alone"])[:-1].abs().max() > 1e-4
