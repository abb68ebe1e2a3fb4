"""What this machine has, and what would fail later."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from scantling.inference.device import mixed_precision
from scantling.training.environment import environment

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Findings:
    """All of them."""

    items: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing would fail later."""
        return all(item.verdict != "bad" for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"healthy": self.healthy, "findings": [vars(item) for item in self.items]}

    def text(self) -> str:
        """For people."""
        width = max(len(item.name) for item in self.items)
        return "\n".join(f"{item.verdict:<5} {item.name:<{width}}  {item.sentence}" for item in self.items)


def doctor() -> Findings:
    """Look at versions, devices, memory, disk, shared memory, processes, write rights and torchvision."""
    return Findings(
        (
            _versions(),
            _devices(),
            _memory(),
            _disk(),
            _shared_memory(),
            *_processes(),
            _write_rights(),
            _torchvision(),
        )
    )


def _versions() -> Finding:
    facts = environment()
    names = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    return Finding("versions", "ok", f"Python {facts['python']} on {facts['platform']}; {names}")


def _devices() -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("devices", "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}")
    if torch.backends.mps.is_available():
        return Finding("devices", "ok", "Apple GPU (mps)")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        return Finding(
            "devices", "note", "an NVIDIA driver is here, but this torch is built without CUDA; install a CUDA build"
        )
    half = "bfloat16 in hardware" if mixed_precision(torch.device("cpu")) else "float32 only"
    return Finding("devices", "note", f"no GPU; CPU with {torch.get_num_threads()} threads, {half}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    free, total = memory.available / 2**30, memory.total / 2**30
    return Finding("memory", "ok" if free >= 2 else "bad", f"{free:.1f} of {total:.1f} GiB free (2 GiB wanted)")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk", "ok" if free >= 1 else "bad", f"{free:.1f} GiB free in this folder (1 GiB wanted)")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", "note", "no /dev/shm here; use --workers 0 if reading ahead fails")
    free = shutil.disk_usage(folder).free / 2**20
    verdict: Verdict = "ok" if free >= 256 else "note"
    return Finding("shared memory", verdict, f"{free:.0f} MiB free" + ("" if free >= 256 else "; use --workers 0"))


def _processes() -> list[Finding]:
    findings = []
    for method in multiprocessing.get_all_start_methods():
        works = _runs(
            f"import multiprocessing as m; p = m.get_context({method!r}).Process(target=print, daemon=True); "
            "p.start(); p.join(30); raise SystemExit(p.exitcode is None or p.exitcode)"
        )
        findings.append(
            Finding(f"{method} workers", "ok" if works else "note", "work" if works else "fail; use --workers 0")
        )
    return findings


def _write_rights() -> Finding:
    writable = os.access(Path.cwd(), os.W_OK)
    return Finding(
        "write rights",
        "ok" if writable else "bad",
        "this folder is writable"
        if writable
        else "this folder is read-only; run where you may write, or give -o a writable place",
    )


def _torchvision() -> Finding:
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", "ok", "not installed, and not needed")
    if _runs("import torchvision"):
        return Finding("torchvision", "ok", "imports; scantling does not use it")
    return Finding(
        "torchvision",
        "note",
        "does not match the installed torch and fails at import: scantling is not "
        "affected, but lightning, torchmetrics and timm are; reinstall it or remove it",
    )


def _runs(code: str) -> bool:
    """Whether a Python process of its own carries this out in a minute; needs no temporary file."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
