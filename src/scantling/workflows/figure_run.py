"""What drawing figures returns and prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FigureRun:
    """What was drawn, and one sentence for each case that failed."""

    folder: Path
    pictures: tuple[Path, ...]
    pages: tuple[Path, ...]
    failures: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same facts as `text`, for scripts."""
        return {
            "folder": str(self.folder),
            "pictures": [str(path) for path in self.pictures],
            "pages": [str(path) for path in self.pages],
            "notes": list(self.notes),
            "failures": dict(self.failures),
        }

    def text(self) -> str:
        """The files, a line each."""
        return "\n".join(str(path) for pair in zip(self.pictures, self.pages, strict=True) for path in pair)
