from __future__ import annotations

import hashlib
import subprocess
import sys

import torch

from scantling.seeding import derived_seed, global_torch_seed, numpy_generator, torch_generator


def test_the_seed_is_the_head_of_sha256_over_seed_purpose_and_key() -> None:
    digest = hashlib.sha256(b"3\x1fview\x1f4\x1fcase").digest()
    assert derived_seed(3, "view", 4, "case") == int.from_bytes(digest[:8], "little") >> 1


def test_any_change_of_seed_purpose_or_key_gives_another_stream() -> None:
    keys = [
        (0, "view", 1, 2),
        (1, "view", 1, 2),
        (0, "patch", 1, 2),
        (0, "view", 2, 2),
        (0, "view", 12),
        (0, "view", 1),
    ]
    draws = {numpy_generator(*key).integers(2**60) for key in keys}
    assert len(draws) == len(keys)


def test_a_stream_is_the_same_in_another_process() -> None:
    code = "from scantling.seeding import numpy_generator; print(numpy_generator(5, 'x', 'y').integers(2**60))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == numpy_generator(5, "x", "y").integers(2**60)


def test_the_global_seed_holds_inside_the_block_and_leaves_no_trace() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with global_torch_seed(0, "layers", 7):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with global_torch_seed(0, "layers", 7):
        assert torch.equal(torch.rand(3), first)


def test_torch_generators_with_equal_keys_draw_equally() -> None:
    assert torch.equal(
        torch.rand(4, generator=torch_generator(1, "a")), torch.rand(4, generator=torch_generator(1, "a"))
    )
