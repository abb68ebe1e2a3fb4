"""What a caller may catch, and the exit code each error gives the command line.

A message says which thing, what it is, what was wanted, and how to fix it, in one sentence. `code` is a
stable name (`E-GEO-03`) that can be searched for in the documentation.
"""

from __future__ import annotations

from typing import ClassVar


class ScantlingError(Exception):
    """Anything that is the input's or the machine's fault and can be said in one sentence."""

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "E-BUG-00"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class ConfigError(ScantlingError):
    """A setting, option or configuration file is wrong (exit 2)."""

    exit_code = 2
    default_code = "E-CFG-00"


class DataError(ScantlingError):
    """A file or folder of the user's is missing, damaged, or not what it says it is (exit 3)."""

    exit_code = 3
    default_code = "E-DAT-00"


class GeometryError(DataError):
    """An image and its label map do not share one grid (exit 3)."""

    default_code = "E-GEO-00"


class PlanMismatch(DataError):
    """Data does not fit the plan a model was trained with: channels, dimensions, classes (exit 3)."""

    default_code = "E-PLN-00"


class ResourceError(ScantlingError):
    """Memory, disk or a device does not suffice (exit 4)."""

    exit_code = 4
    default_code = "E-RES-00"


class Interrupted(ScantlingError):
    """The run was stopped and can be resumed (exit 5)."""

    exit_code = 5
    default_code = "E-INT-00"


class IntegrityError(ScantlingError):
    """A file's checksum is wrong, or training diverged: what is there cannot be trusted (exit 6)."""

    exit_code = 6
    default_code = "E-CHK-00"
