"""Oracle: the averages by hand."""

from __future__ import annotations

import copy

import torch
from torch import nn

from scantling.targets.momentum import MomentumTeacher


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def moved(source: nn.Module, seed: int) -> None:
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))


def test_the_teacher_follows_the_average_with_its_warm_up():
    source = layers()
    teacher = MomentumTeacher(source, decay=0.3)
    expected = [p.detach().clone() for p in source.parameters()]
    for step in range(5):
        moved(source, step)
        teacher.update(source)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, source.parameters(), strict=True)]
    for actual, wanted in zip(teacher.module.parameters(), expected, strict=True):
        torch.testing.assert_close(actual, wanted.detach())
    assert int(teacher.updates) == 5


def test_it_answers_without_gradient_and_from_running_statistics_in_every_mode():
    source, x = layers(), torch.randn(6, 3)
    owner = nn.ModuleList([MomentumTeacher(source, decay=0.9)]).train()
    statistics = owner[0].module[1].running_mean.clone()
    answer = owner[0](x)
    assert not answer.requires_grad
    torch.testing.assert_close(answer, copy.deepcopy(source).eval()(x))
    torch.testing.assert_close(owner[0](x[:1]), answer[:1])
    assert torch.equal(owner[0].module[1].running_mean, statistics)
    assert not any(p.requires_grad for p in owner.parameters())


def test_its_state_goes_with_the_recipes_to_the_bit_and_the_warm_up_goes_on():
    source = layers()
    first = MomentumTeacher(source, decay=0.9)
    for step in range(3):
        moved(source, step)
        first.update(source)
    second = MomentumTeacher(layers(), decay=0.9)
    second.load_state_dict(first.state_dict())
    twin = copy.deepcopy(first)
    for teacher in (first, second, twin):
        teacher.update(source)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
        assert torch.equal(value, twin.state_dict()[name]), name


def test_a_copy_of_it_is_its_own():
    source = layers()
    teacher = MomentumTeacher(source, decay=0.9)
    twin = copy.deepcopy(teacher)
    moved(source, 0)
    twin.update(source)
    assert int(teacher.updates) == 0
    assert not torch.equal(teacher.module[0].weight, twin.module[0].weight)
    x = torch.randn(2, 3)
    assert not torch.equal(teacher(x), twin(x))
