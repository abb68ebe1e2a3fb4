"""A step of S-MVD-CL as published: which share of it do 1,000 places a view cost?

    python benchmarks/speed/pretraining_step.py

8 phantom radiographs in 4 views of 224 x 224 (ResNet-50 U-Net), or of 96 x 96 (the default U-Net), contrasted at the
finest level as published; one step, reading, views, forward and backward pass, in float32 on one core, as the forecast
of a run measures it, with 1,000 places a view, with the default's, and with one, which leaves everything but the loss.
Rows go to docs/results/pretraining_step.csv.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

import scantling
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.training.run_folder import RunFolder

RESULTS: Final = Path(__file__).parents[2] / "docs" / "results" / "pretraining_step.csv"
NETWORKS: Final = {224: "resnet50_unet", 96: "plain_unet"}
DEFAULT: Final = {224: 1000, 96: 184}


def seconds(data: Path, run: Path, side: int, points: int) -> float:
    """Of one step."""
    settings = [
        f"plan.patch_size=[{side}, {side}]", "plan.batch_size=8", f"plan.network={NETWORKS[side]}",
        "training.precision=float32", f"settings.points={points}", "settings.tap=''",
    ]  # fmt: skip
    scantling.pretrain(data, run, method="s-mvd-cl", steps=100, settings=settings, device="cpu", dry_run=True)
    found = RunFolder.open(run).status()["forecast"]
    return float(found["seconds"]) / found["steps"]


def rows(work: Path) -> list[dict[str, Any]]:
    """A row for each size and number of places."""
    torch.set_num_threads(1)
    lines = []
    for side, default in DEFAULT.items():
        data = write_chest_phantom(
            work / f"data-{side}", n_labelled=0, n_unlabelled=12, n_test=0, seed=0, size=side, silver=True
        )
        bare = seconds(data, work / f"bare-{side}", side, 1)
        for points in sorted({default, 1000}):
            whole = seconds(data, work / f"run-{side}-{points}", side, points)
            lines.append(
                {
                    "network": NETWORKS[side], "side": side, "images": 8, "views": 4, "points_a_view": points,
                    "step_seconds": f"{whole:.2f}", "without_loss_seconds": f"{bare:.2f}",
                    "loss_share": f"{1 - bare / whole:.3f}", "machine": "one core, cpu, float32",
                    "torch": torch.__version__, "version": scantling.__version__,
                }
            )  # fmt: skip
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write down."""
    with tempfile.TemporaryDirectory() as work:
        lines = rows(Path(work))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
