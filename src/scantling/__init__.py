"""Scantling: from medical images and whatever labels there are to a validated segmentation model.

`scantling.train`, `pretrain`, `predict`, `evaluate`, `protocol`, `generate`, `figure`, `report`, `inspect`, `demo`,
`resume` are the command line's verbs as functions; `Segmenter` is the same with the manners of scikit-learn; `chromap`
colours any features. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scantling.data.layouts import open_dataset as open_dataset
    from scantling.figures.chromap import chromap as chromap
    from scantling.workflows.demo import demo as demo
    from scantling.workflows.doctor import doctor as doctor
    from scantling.workflows.figure import figure as figure
    from scantling.workflows.generate import generate as generate
    from scantling.workflows.pretrain import pretrain as pretrain
    from scantling.workflows.protocol import protocol as protocol
    from scantling.workflows.segmenter import Segmenter as Segmenter
    from scantling.workflows.train import resume as resume
    from scantling.workflows.train import train as train
    from scantling.workflows.verbs import (
        evaluate as evaluate,
    )
    from scantling.workflows.verbs import (
        inspect as inspect,
    )
    from scantling.workflows.verbs import (
        predict as predict,
    )
    from scantling.workflows.verbs import (
        report as report,
    )

__version__ = "0.1.0"

_PUBLIC = {
    "Segmenter": "scantling.workflows.segmenter",
    "chromap": "scantling.figures.chromap",
    "demo": "scantling.workflows.demo",
    "doctor": "scantling.workflows.doctor",
    "evaluate": "scantling.workflows.verbs",
    "figure": "scantling.workflows.figure",
    "generate": "scantling.workflows.generate",
    "inspect": "scantling.workflows.verbs",
    "open_dataset": "scantling.data.layouts",
    "predict": "scantling.workflows.verbs",
    "pretrain": "scantling.workflows.pretrain",
    "protocol": "scantling.workflows.protocol",
    "report": "scantling.workflows.verbs",
    "resume": "scantling.workflows.train",
    "train": "scantling.workflows.train",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'scantling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
