from __future__ import annotations

import pytest
import torch

from scantling.errors import ConfigError, ResourceError
from scantling.inference import device as module
from scantling.inference.device import autocast, device_memory_gb, mixed_precision, resolve_device

CPU = torch.device("cpu")


def test_names_become_devices_and_others_are_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match="wanted auto, cpu, cuda, cuda:N or mps"):
        resolve_device("gpu0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ResourceError, match=r"shows 1 CUDA device\(s\)"):
        resolve_device("cuda:3")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="'mps': not available"):
        resolve_device("mps")


@pytest.mark.parametrize(("capability", "expected"), [({}, None), ({"avx512_bf16": True}, torch.bfloat16)])
def test_a_cpu_gets_bfloat16_only_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: dict[str, bool], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(module.torch.cpu, "get_capabilities", lambda: capability, raising=False)
    assert mixed_precision(CPU) == expected


def test_a_gpu_without_bfloat16_gets_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert mixed_precision(torch.device("cuda", 0)) == expected


def test_autocast_does_what_the_dtype_says() -> None:
    x = torch.ones(2, 2)
    with autocast(CPU, None):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16


def test_only_a_cuda_device_has_memory_of_its_own() -> None:
    assert device_memory_gb(CPU) is None
