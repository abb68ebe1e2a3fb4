"""`dataset.toml`: what no file name can say about a data set; every key is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, StrictInt

from scantling.config import Config
from scantling.data.case import ClassTable
from scantling.errors import ConfigError

FILE_NAME = "dataset.toml"


class DatasetToml(Config):
    """The settings of a data set.

    Attributes:
        modality: "MR", "CT", "CR", "fundus", ...
        channels: names of the channels where one file holds several (a 4D volume, a colour picture).
        classes: stored value, or the values whose union the class is. A value no class names is unknown.
        ignore: stored values that mean "unknown" in every label file that does not say it itself.
        label_kind: of every label file that does not say it itself.
        subject_pattern: regular expression with one group that finds the patient in a case's name.
    """

    name: str = ""
    modality: str = ""
    channels: tuple[str, ...] = ()
    classes: dict[str, StrictInt | tuple[StrictInt, ...]] = Field(default_factory=dict)
    ignore: tuple[StrictInt, ...] = ()
    label_kind: Literal["", "full", "slices", "scribble", "silver", "pseudo", "none"] = ""
    subject_pattern: str = ""

    @classmethod
    def beside(cls, folder: Path) -> DatasetToml:
        """The settings in a folder's `dataset.toml`; all defaults where there is none.

        Raises:
            ConfigError: the file is not TOML, has an unknown key or a wrong value.
        """
        path = folder / FILE_NAME
        return cls.load(path) if path.is_file() else cls()

    def class_table(self, path: Path) -> ClassTable | None:
        """The classes as a table; None where the file names none.

        Raises:
            ConfigError: a stored value belongs to two classes, or 0 is a class and background has no value.
        """
        if not self.classes:
            return None
        try:
            return ClassTable.of(self.classes)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", code="E-CFG-05") from None
