"""The demo: phantom radiographs, two of them labelled, one run, one report."""

from __future__ import annotations

from pathlib import Path

from scantling.data.catalog.phantom import write_chest_phantom
from scantling.files import new_folder
from scantling.workflows.result import RunResult
from scantling.workflows.train import train

LABELLED, UNLABELLED, HELD_OUT = 2, 60, 40
SECONDS = 60.0
"""Budget of the whole run, so that the demo ends in time on any machine."""


def demo(
    out: Path | str = "demo-run",
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = True,
) -> RunResult:
    """Write 2 labelled, 60 unlabelled and 40 held-out phantom radiographs, train, score and report.

    The phantom stands for a real task only as far as the road goes: reading, planning, training, scoring. Its
    score says nothing about patients.
    """
    folder = new_folder(Path(out), overwrite=overwrite)
    write_chest_phantom(folder / "data", n_labelled=LABELLED, n_unlabelled=UNLABELLED, n_test=HELD_OUT, seed=seed)
    return train(
        folder / "data",
        folder / "run",
        steps=steps,
        time=None if steps else SECONDS,
        seed=seed,
        device=device,
        quiet=quiet,
        settings=("training.steps_per_epoch=20", "plan.batch_size=8"),
    )
