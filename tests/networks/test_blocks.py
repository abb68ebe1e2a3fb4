"""Stages against torch's own layers and against arithmetic written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scantling.networks.blocks import (
    ConvNormAct,
    InstanceNorm,
    ResidualBlock,
    UpStage,
    plain_stage,
    residual_stage,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shake(module: nn.Module) -> nn.Module:
    """Every parameter random, so that no default value hides a mistake."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.3, 0.5, generator=generator)
    return module


@pytest.mark.parametrize("size", [(5, 6), (2, 3, 4)])
def test_instance_norm_equals_torchs_own(size: tuple[int, ...]) -> None:
    norm, x = shake(InstanceNorm(3)), noise(2, 3, *size) * 4 + 7
    expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)


def test_instance_norm_of_a_single_pixel_is_its_shift() -> None:
    norm = shake(InstanceNorm(3))
    torch.testing.assert_close(norm(noise(1, 3, 1, 1)).flatten(), norm.bias, rtol=1e-6, atol=1e-6)


def test_convolution_norm_and_activation_come_in_this_order() -> None:
    block, x = shake(ConvNormAct(2, 4, (3, 3), (2, 1), "instance")), noise(2, 2, 8, 6)
    convolved = F.conv2d(x, block.conv.weight, stride=(2, 1), padding=1)
    normed = F.instance_norm(convolved, weight=block.norm.weight, bias=block.norm.bias)
    torch.testing.assert_close(block(x), torch.where(normed > 0, normed, 0.01 * normed), rtol=1e-4, atol=1e-5)


def test_a_kernel_of_one_along_an_axis_keeps_slices_apart() -> None:
    stage = shake(plain_stage(1, 3, (1, 3, 3), None, "batch", 2)).eval()
    x, other = noise(1, 1, 4, 6, 6), noise(1, 1, 4, 6, 6)
    other[:, :, 2] += 1
    differs = (stage(x) != stage(other)).any(dim=1).any(dim=-1).any(dim=-1).squeeze(0)
    assert differs.tolist() == [False, False, True, False]


def test_a_residual_block_adds_the_averaged_and_projected_input() -> None:
    block, x = shake(ResidualBlock(2, 4, (3, 3), (2, 2), "instance")), noise(1, 2, 8, 8)
    inner = block.norm(F.conv2d(block.first(x), block.conv.weight, padding=1))
    averaged = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    _, project, norm = block.shortcut
    shortcut = norm(torch.einsum("oi,bihw->bohw", project.weight[:, :, 0, 0], averaged))
    torch.testing.assert_close(block(x), F.leaky_relu(inner + shortcut, 0.01), rtol=1e-4, atol=1e-5)


def test_a_residual_block_that_changes_nothing_adds_the_input_itself() -> None:
    block = shake(ResidualBlock(3, 3, (3, 3), None, "instance"))
    nn.init.zeros_(block.norm.weight)
    nn.init.zeros_(block.norm.bias)
    x = noise(2, 3, 4, 4)
    assert torch.equal(block(x), F.leaky_relu(x, 0.01))


@pytest.mark.parametrize(("convs", "blocks"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_a_residual_stage_has_at_least_the_convolutions_asked_for(convs: int, blocks: int) -> None:
    assert len(residual_stage(2, 4, (3, 3), (2, 2), "instance", convs)) == blocks


def test_going_up_repeats_each_pixel_along_the_strided_axes_and_joins_the_skip() -> None:
    up = UpStage(4, 2, (1, 2, 2), nn.Identity())
    below, skip = noise(1, 4, 3, 2, 2), noise(1, 2, 3, 4, 4, seed=1)
    joined = up(below, skip)
    projected = torch.einsum("oi,bizyx->bozyx", up.project.weight[..., 0, 0, 0], below)
    expected = projected.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    torch.testing.assert_close(joined[:, :2], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(joined[:, 2:], skip)
