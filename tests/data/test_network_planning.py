from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scantling.data.network_planning import CPU_PATCH_VOXELS, features_for, patch_and_stages, stages
from scantling.errors import ConfigError


def layouts(draw):
    dimensions = draw(st.sampled_from([2, 3]))
    sides = draw(st.lists(st.integers(1, 700), min_size=dimensions, max_size=dimensions))
    spacing = draw(st.lists(st.floats(0.3, 12.0), min_size=dimensions, max_size=dimensions))
    device = draw(st.sampled_from(["cpu", "cuda"]))
    memory = draw(st.sampled_from([None, 2.0, 24.0]))
    return sides, spacing, device, memory


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_layout_fits_its_strides_its_image_and_its_budget(data):
    sides, spacing, device, memory = layouts(data.draw)
    layout = patch_and_stages(sides, spacing, None, device_kind=device, memory_gb=memory)
    totals = [math.prod(stride[axis] for stride in layout.strides) for axis in range(len(sides))]
    assert layout.strides[0] == (1,) * len(sides)
    assert len(layout.kernels) == len(layout.strides)
    assert all(max(stride) == 2 for stride in layout.strides[1:])
    for n, total, side in zip(layout.patch_size, totals, sides, strict=True):
        assert n % total == 0
        assert n // total >= 4
        assert n < max(side, 4) + total
    assert layout.batch_size >= 2
    if device == "cpu":
        rounding = math.prod(n / max(n - t + 1, 1) for n, t in zip(layout.patch_size, totals, strict=True))
        assert math.prod(layout.patch_size) <= CPU_PATCH_VOXELS[len(sides)] * rounding


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_coarse_axis_is_neither_halved_nor_convolved_along_until_the_others_caught_up(data):
    sides, spacing, _, _ = layouts(data.draw)
    strides, kernels = stages(sides, spacing, 6)
    for stage, (stride, kernel) in enumerate(zip(strides, kernels, strict=True)):
        before = [mm * math.prod(s[axis] for s in strides[:stage]) for axis, mm in enumerate(spacing)]
        after = [mm * step for mm, step in zip(before, stride, strict=True)]
        for axis in range(len(sides)):
            if before[axis] > 2 * min(before):
                assert stride[axis] == 1
            if after[axis] > 2 * min(after):
                assert kernel[axis] == 1


def test_known_shapes_give_known_networks():
    strides, kernels = stages((40, 56, 40), (1.0, 1.0, 1.0), 4)
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(kernels) == {(3, 3, 3)}
    # thick slices: in-plane twice before the slice axis joins (5 mm against 0.8, 1.6, 3.2 mm)
    strides, kernels = stages((16, 320, 320), (5.0, 0.8, 0.8), 6)
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert [kernel[0] for kernel in kernels] == [1, 1, 3, 3, 3, 3]
    assert stages((7, 7), (1.0, 1.0), 6) == (((1, 1), (2, 2)), ((3, 3), (3, 3)))
    assert stages((1, 64, 64), (1.0, 1.0, 1.0), 3)[1][0] == (1, 3, 3)


def test_widths_double_up_to_the_devices_limit():
    assert features_for(5, 2, "cpu") == (16, 32, 64, 128, 256)
    assert features_for(4, 3, "cpu") == (12, 24, 48, 96)
    assert features_for(6, 3, "cuda") == (32, 64, 128, 256, 320, 320)
    assert features_for(7, 2, "cuda") == (32, 64, 128, 256, 512, 512, 512)


def test_a_small_structure_in_a_large_picture_needs_only_its_surroundings_on_a_cpu():
    layout = patch_and_stages((512, 512), (1.0, 1.0), (60.0, 110.0), device_kind="cpu", memory_gb=None)
    assert layout.patch_size == (160, 224)
    assert "extent of the structures" in layout.reasons["patch_size"]
    on_gpu = patch_and_stages((512, 512), (1.0, 1.0), (60.0, 110.0), device_kind="cuda", memory_gb=24.0)
    assert on_gpu.patch_size == (512, 512)


def test_a_large_volume_is_cut_to_a_cube_in_mm():
    layout = patch_and_stages((200, 512, 512), (2.0, 1.0, 1.0), None, device_kind="cpu", memory_gb=None)
    mm = [n * spacing for n, spacing in zip(layout.patch_size, (2.0, 1.0, 1.0), strict=True)]
    assert max(mm) / min(mm) < 1.35
    assert math.prod(layout.patch_size) > 0.6 * CPU_PATCH_VOXELS[3]


def test_more_memory_gives_larger_batches_on_a_gpu():
    small = patch_and_stages((96, 96, 96), (1.0, 1.0, 1.0), None, device_kind="cuda", memory_gb=8.0)
    large = patch_and_stages((96, 96, 96), (1.0, 1.0, 1.0), None, device_kind="cuda", memory_gb=40.0)
    assert small.patch_size == large.patch_size == (96, 96, 96)
    assert small.batch_size < large.batch_size


def test_a_forced_patch_is_rounded_up_to_the_strides_and_nonsense_is_refused():
    layout = patch_and_stages((300, 300), (1.0, 1.0), None, device_kind="cpu", memory_gb=None, forced=(100, 130))
    assert layout.patch_size == (112, 144)
    for wrong in [(100,), (0, 100)]:
        with pytest.raises(ConfigError, match="wanted 2 whole numbers"):
            patch_and_stages((300, 300), (1.0, 1.0), None, device_kind="cpu", memory_gb=None, forced=wrong)
