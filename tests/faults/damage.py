"""Damage as disks, cables and crashes do it: a flipped bit, a cut, a block of zeros, something appended."""

from __future__ import annotations

import random
from pathlib import Path


def damage(path: Path, rng: random.Random) -> str:
    """Change a file so that it differs from before; what was done, in words."""
    whole = path.read_bytes()
    content = bytearray(whole)
    while bytes(content) == whole:
        content = bytearray(whole)
        position = rng.randrange(len(content)) if content else 0
        match rng.choice(("flip", "flip", "cut", "cut", "zeros", "grow") if content else ("grow",)):
            case "flip":
                content[position] ^= 1 << rng.randrange(8)
                done = f"bit flipped in byte {position}"
            case "cut":
                del content[position:]
                done = f"cut at byte {position}"
            case "zeros":
                content[position : position + 64] = bytes(len(content[position : position + 64]))
                done = f"zeros from byte {position}"
            case _:
                content += rng.randbytes(rng.randrange(1, 100))
                done = "bytes appended"
    path.write_bytes(content)
    return f"{path.name}: {done}"
