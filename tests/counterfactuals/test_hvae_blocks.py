"""Blocks against torch's own operations put together by hand; folding against torch's pixel_unshuffle."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scantling.counterfactuals.hvae_blocks import Bottleneck, Gaussian, LatentBlock, PlainBlock, Streams, group_norm
from scantling.counterfactuals.hvae_towers import fold, initialise, unfold


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(network: nn.Module, seed: int = 1) -> None:
    """Away from the start, where half of everything is 0."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed)))


@pytest.mark.parametrize(
    ("channels", "groups"), [(512, 32), (128, 16), (96, 8), (48, 4), (16, 2), (12, 1), (9, 1), (2, 1)]
)
def test_a_group_has_at_least_eight_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_a_bottleneck_is_its_formula() -> None:
    block = Bottleneck(8, 4, 12, (3, 3), context_width=5)
    initialise(block, generator())
    randomise(block)
    x, context = torch.randn(2, 8, 6, 5, generator=generator()), torch.randn(2, 5, generator=generator())
    assert block.context is not None
    assert block.shortcut is not None
    hidden = F.conv2d(F.silu(block.norm_in(x)), block.conv_in.weight, block.conv_in.bias, padding=1)
    hidden = hidden + (context @ block.context.weight.T + block.context.bias)[:, :, None, None]
    hidden = F.conv2d(F.silu(block.norm_inner(hidden)), block.conv_out.weight, block.conv_out.bias, padding=1)
    wanted = hidden + F.conv2d(x, block.shortcut.weight)
    torch.testing.assert_close(block(x, context), wanted)


def test_a_fresh_bottleneck_passes_its_input_on_and_one_without_residual_gives_zeros() -> None:
    x = torch.randn(2, 8, 4, 4, generator=generator())
    residual, plain = Bottleneck(8, 2, 8, (3, 3)), Bottleneck(8, 2, 6, (3, 3), residual=False)
    initialise(residual, generator())
    initialise(plain, generator())
    assert torch.equal(residual(x), x)
    assert torch.equal(plain(x), torch.zeros(2, 6, 4, 4))


@pytest.mark.parametrize("down", [2, 0])
def test_averaging_before_the_projection_equals_averaging_after_it(down: int) -> None:
    block = Bottleneck(8, 4, 6, (3, 3, 3), down=down)
    initialise(block, generator())
    randomise(block)
    x = torch.randn(2, 8, 4, 6, 2, generator=generator())
    kept = Bottleneck(8, 4, 6, (3, 3, 3))
    kept.load_state_dict(block.state_dict())
    full = kept(x)
    wanted = F.avg_pool3d(full, 2) if down else full.mean(dim=(2, 3, 4), keepdim=True)
    torch.testing.assert_close(block(x), wanted)


def test_dropout_acts_in_training_only() -> None:
    block = Bottleneck(8, 4, 8, (3, 3), dropout=0.5)
    initialise(block, generator())
    randomise(block)
    x = torch.randn(2, 8, 4, 4, generator=generator())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(block(x), block(x))
        block.eval()
        assert torch.equal(block(x), block(x))


def latent_block(*, conditional_prior: bool) -> LatentBlock:
    block = LatentBlock(
        8, 3, 6, (3, 3), bottleneck=2, context_width=4, conditional_prior=conditional_prior, dropout=0.0
    )
    initialise(block, generator())
    randomise(block)
    return block


@pytest.mark.parametrize("conditional", [True, False])
def test_only_a_conditional_prior_sees_the_context(conditional: bool) -> None:
    block = latent_block(conditional_prior=conditional)
    streams = Streams(torch.randn(2, 8, 4, 4, generator=generator()), torch.randn(2, 8, 4, 4, generator=generator(1)))
    first, _ = block.prior(streams, torch.zeros(2, 4))
    second, _ = block.prior(streams, torch.ones(2, 4))
    assert torch.equal(first.loc, second.loc) is not conditional
    assert torch.equal(first.scale, second.scale) is not conditional


def test_the_prior_never_sees_the_image_stream_and_remembers_the_latent() -> None:
    block = latent_block(conditional_prior=True)
    context, prior_stream = torch.zeros(2, 4), torch.randn(2, 8, 4, 4, generator=generator(1))
    one = Streams(torch.zeros(2, 8, 4, 4), prior_stream)
    other = Streams(torch.ones(2, 8, 4, 4), prior_stream)
    (first, features), (second, _) = block.prior(one, context), block.prior(other, context)
    assert torch.equal(first.loc, second.loc)
    latent = torch.randn(2, 3, 4, 4, generator=generator(2))
    merged = block.merge(one, features, latent, context)
    assert torch.equal(block.merge(other, features, latent, context).prior, merged.prior)
    assert not torch.equal(block.merge(one, features, 2 * latent, context).prior, merged.prior)
    assert not torch.equal(block.merge(one, features, 2 * latent, context).image, merged.image)
    assert merged.image.shape == merged.prior.shape == (2, 6, 4, 4)


def test_a_raw_scale_of_zero_is_a_scale_of_one_and_half_precision_becomes_float32() -> None:
    drawn = Gaussian.of(torch.cat((torch.full((1, 2, 3, 3), 0.5), torch.zeros(1, 2, 3, 3)), dim=1).bfloat16())
    assert drawn.loc.dtype == drawn.scale.dtype == torch.float32
    assert torch.equal(drawn.loc, torch.full((1, 2, 3, 3), 0.5))
    torch.testing.assert_close(drawn.scale, torch.ones(1, 2, 3, 3))


def test_a_plain_block_is_two_bottlenecks_that_both_see_the_context() -> None:
    block = PlainBlock(8, 6, (3, 3), bottleneck=2, context_width=4, dropout=0.0)
    initialise(block, generator())
    randomise(block)
    x, context = torch.randn(2, 8, 4, 4, generator=generator()), torch.ones(2, 4)
    torch.testing.assert_close(block(x, context), block.second(block.first(x, context), context))
    assert not torch.equal(block(x, context), block.second(block.first(x, torch.zeros(2, 4)), context))


def test_folding_in_two_dimensions_is_the_pixel_unshuffle_of_torch() -> None:
    x = torch.randn(2, 3, 6, 4, generator=generator())
    assert torch.equal(fold(x, 2), F.pixel_unshuffle(x, 2))
    assert torch.equal(unfold(fold(x, 2), 2), x)
    assert fold(x, 1) is x
    assert unfold(x, 1) is x


def test_folding_in_three_dimensions_gathers_each_patch_and_is_undone() -> None:
    x = torch.randn(2, 3, 4, 6, 2, generator=generator())
    folded = fold(x, 2)
    assert folded.shape == (2, 24, 2, 3, 1)
    assert sorted(folded[1, 8:16, 1, 2, 0].tolist()) == sorted(x[1, 1, 2:4, 4:6, 0:2].flatten().tolist())
    assert torch.equal(unfold(folded, 2), x)


def test_a_module_no_rule_covers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"\(BatchNorm2d\): no rule says how"):
        initialise(nn.Sequential(nn.BatchNorm2d(2)), generator())
