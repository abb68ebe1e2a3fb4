"""The demo: phantom radiographs, two of them labelled; what dense contrast adds, one report, one CHRO-map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scantling.data.catalog.phantom import write_chest_phantom
from scantling.files import new_folder
from scantling.workflows.figure import figure
from scantling.workflows.result import RunResult
from scantling.workflows.train import train

LABELLED, UNLABELLED, HELD_OUT = 2, 60, 40
SECONDS: Final = 48.0
"""Budget of features and fine-tuning together, and once more of labels alone, so that the demo ends in time on any
machine."""
FEATURE_SECONDS: Final = 16.0
"""Of these for features: less than half of them, because on a busy machine fine-tuning would have too few steps."""
_SETTINGS: Final = (
    "training.steps_per_epoch=20", "training.optimisation.head_rate=5", "plan.batch_size=8", "plan.patch_size=[96, 96]",
    "pretraining.settings.points=100", "pretraining.settings.views.n_views=2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The fine-tuned run, and where its pictures are."""

    run: RunResult
    chromap: Path

    def to_json(self) -> dict[str, Any]:
        """The same facts as `text`, for scripts."""
        return {**self.run.to_json(), "chromap": str(self.chromap)}

    def text(self) -> str:
        """The verdicts, and the paths."""
        return f"{self.run.text()}\nmap:    {self.chromap}"


def demo(
    out: Path | str = "demo-run",
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = True,
) -> DemoResult:
    """Write 2 labelled, 60 unlabelled and 40 held-out phantom radiographs; train with all of them and with the labelled
    ones alone, score both and report; colour a held-out image by what the features tell apart.

    The phantom stands for a real task only as far as the road goes: reading, planning, training, scoring. Its
    scores say nothing about patients.
    """
    folder = new_folder(Path(out), overwrite=overwrite)
    data = write_chest_phantom(
        folder / "data", n_labelled=LABELLED, n_unlabelled=UNLABELLED, n_test=HELD_OUT, seed=seed
    )
    run = train(
        data,
        folder / "run",
        pretrain="dvd-cl",
        compare=True,
        steps=steps,
        time=None if steps else SECONDS,
        seed=seed,
        device=device,
        quiet=quiet,
        settings=_SETTINGS if steps else (*_SETTINGS, f"pretraining.time_seconds={FEATURE_SECONDS}"),
    )
    shown = None if run.evaluation is None else min(run.evaluation.patients)
    drawn = figure("chromap", run.path / "features", data, folder / "chromap", cases=shown, device=device, seed=seed)
    return DemoResult(run=run, chromap=drawn.pages[0])
