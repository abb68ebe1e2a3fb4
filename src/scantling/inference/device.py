"""Where the computation runs, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from scantling.errors import ConfigError, ResourceError


def resolve_device(name: str = "auto") -> torch.device:
    """The device of a name: "auto" (the first GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ConfigError: the name is not a device.
        ResourceError: the device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}: wanted auto, cpu, cuda, cuda:N or mps", code="E-CFG-10") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ResourceError(
            f"device {name!r}: this machine shows {found} CUDA device(s); use --device cpu or auto",
            code="E-RES-10",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("device 'mps': not available here; use --device cpu or auto", code="E-RES-10")
    return device


def device_memory_gb(device: torch.device) -> float | None:
    """All memory of a CUDA device in 10^9 bytes; None for others, which share the machine's."""
    return torch.cuda.get_device_properties(device).total_memory / 1e9 if device.type == "cuda" else None


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """The half precision in which this device is faster, None where it has none.

    bfloat16 on GPUs that have it, else float16 on CUDA; on a CPU bfloat16 only where it has instructions for
    it (AVX512-BF16 or AMX): without them bfloat16 is many times slower than float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and _cpu_has_bf16():
        return torch.bfloat16
    return None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """`torch.autocast` in this precision; does nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _cpu_has_bf16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older releases
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
