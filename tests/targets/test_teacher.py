from __future__ import annotations

import pytest
import torch
from torch import nn

from scantling.targets.teacher import AveragedCopy


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_average_follows_its_recursion_by_hand_and_copies_buffers() -> None:
    source = network()
    average = AveragedCopy(source, decay=0.5)
    expected = source[0].weight.detach().clone()
    for n in range(5):
        with torch.no_grad():
            source[0].weight.add_(1.0)
            source[1].running_mean.add_(0.25)
        average.update(source)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * source[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight, expected)
    assert torch.equal(average.module[1].running_mean, source[1].running_mean)


def test_the_average_has_no_gradient_and_leaves_its_source_alone() -> None:
    source = network()
    before = source[0].weight.detach().clone()
    average = AveragedCopy(source)
    average.update(source)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert torch.equal(source[0].weight, before)
    assert source[0].weight.requires_grad


def test_a_restored_average_goes_on_as_the_original() -> None:
    source = network()
    first, second = AveragedCopy(source, decay=0.9), AveragedCopy(network(), decay=0.9)
    for _ in range(3):
        with torch.no_grad():
            source[0].weight.mul_(1.1)
        first.update(source)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        source[0].weight.mul_(1.1)
    first.update(source)
    second.update(source)
    assert torch.equal(first.module[0].weight, second.module[0].weight)
    assert second.updates == 4


def test_an_impossible_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="decay must be in"):
        AveragedCopy(network(), decay=1.0)
