"""1,000 counterfactuals of 128-pixel radiographs: time and memory of `scantling generate`, bare and with soundness.

    python benchmarks/speed/counterfactuals.py

The network has drawn weights: what it takes does not depend on them. Every run is a process of its own, so that its
peak is its own. Rows go to docs/results/counterfactuals_speed.csv.
"""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

import scantling
from scantling.counterfactuals.attribute_predictor import AttributePredictor, PredictorConfig
from scantling.counterfactuals.causal_graph import CausalGraph
from scantling.counterfactuals.hvae import HVAE
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.counterfactuals.image_plan import derive_image_plan
from scantling.counterfactuals.model_files import load_image_model, save_image_model
from scantling.counterfactuals.table import table_of
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.layouts import open_dataset
from scantling.inference.generate import generate_folder
from scantling.inference.memory import PeakGauge, resident_bytes
from scantling.sealed_folder import find_model_folder
from scantling.seeding import torch_generator

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "counterfactuals_speed.csv"
SIZE, INTERVENTIONS = 128, ("scanner=other", "finding=other")


def prepare(work: Path) -> None:
    """500 radiographs, and an image model of the tiny preset at their size."""
    data = write_chest_phantom(work / "data", n_labelled=0, n_unlabelled=500, n_test=0, seed=1, size=SIZE)
    manifest = open_dataset(data)
    generator = torch_generator(0, "weights")
    graph = CausalGraph.of_manifest(manifest, ["scanner", "sex", "finding"]).fit(table_of(manifest), generator)
    config = HVAEConfig.model_validate({"preset": "tiny"})
    plan = derive_image_plan(manifest, manifest.cases[:40], graph, config, size=(SIZE, SIZE))
    network = HVAE(config, size=plan.size, in_channels=1, context_dim=len(plan.context), generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    judge = AttributePredictor(PredictorConfig(), plan.attributes, in_channels=1, dimensions=2, generator=generator)
    save_image_model(work / "model", network, plan, graph, {"judge": {}}, judge=judge)


def measure(work: Path, kind: str, n_cases: int) -> None:
    """One run in this process; prints seconds, and bytes beyond what the process had before."""
    manifest = open_dataset(work / "data")
    names = [case.case_id for case in manifest.cases[:n_cases]]
    out = work / f"{kind}-{n_cases}"
    before, began = resident_bytes(), time.perf_counter()
    with PeakGauge() as gauge:
        if kind == "bare":
            model = load_image_model(find_model_folder(work / "model"), torch.device("cpu"))
            generate_folder(model.generator(), manifest, out, INTERVENTIONS, cases=names)
        else:
            scantling.generate(work / "model", work / "data", out, do=INTERVENTIONS, cases=names)
    print(time.perf_counter() - began, gauge.bytes - before, sum(1 for _ in (out / "images").iterdir()))


def main() -> None:
    """All runs, a row each."""
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        prepare(work)
        for kind in ("bare", "with soundness"):
            for n_cases in (125, 500):
                done = subprocess.run(
                    [sys.executable, __file__, str(work), kind, str(n_cases)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                seconds, peak, images = map(float, done.stdout.split())
                lines.append(
                    {
                        "what": f"generate, {kind}",
                        "images": int(images),
                        "size": SIZE,
                        "seconds": f"{seconds:.1f}",
                        "peak_mib_beyond_start": f"{peak / 2**20:.0f}",
                        "network": "tiny preset, 1.4 M parameters",
                        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
                        "torch": torch.__version__,
                        "version": scantling.__version__,
                        "date": date.today().isoformat(),
                    }
                )
                print(lines[-1], flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        main()
