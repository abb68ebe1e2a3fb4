"""What a rerun would need to know: machine, software and command; no host name, user name or folder."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

_PACKAGES: Final = (
    "scantling",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "pillow",
    "tifffile",
    "safetensors",
    "pydantic",
)


def environment() -> dict[str, Any]:
    """What a rerun would need to know of this machine and its software; no host or user names."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": versions,
    }


def command_line() -> str:
    """The command as typed, with the program's name alone in front and no folder of this machine."""
    program = "scantling" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    return shlex.join([program, *(Path(a).name if os.path.isabs(a) else a for a in sys.argv[1:])])
