"""One of two processes that share cases: `feature_process.py RANK WORLD FOLDER`.

Writes the health it finds with the other to FOLDER, beside the one it finds alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from data.prepared_cases import picture_plan_of, picture_set
from scantling.data.plan import NetworkPlan
from scantling.data.store import Store
from scantling.networks.build import build_network
from scantling.seeding import torch_generator
from scantling.training.distributed import leave_processes
from scantling.training.feature_validation import feature_validation

SMALL = NetworkPlan(features=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)))


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    manifest = picture_set(folder / f"pictures{rank}", 5)
    plan = picture_plan_of(manifest, network=SMALL)
    cases = Store(folder / f"cache{rank}").prepare(manifest.cases, manifest, plan).cases
    network = build_network(SMALL, dimensions=2, in_channels=1, out_channels=3, generator=torch_generator(7, "weights"))

    def health() -> dict[str, dict[str, float]]:
        examine = feature_validation(cases[:2], cases[2:], plan, device=torch.device("cpu"), seed=3)
        found = examine(network.eval())
        return {"figures": dict(found.figures), "per_class": dict(found.per_class)}

    alone = health()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        found = {"alone": alone, "together": health()}
        (folder / f"{rank}.json").write_text(json.dumps(found))
    finally:
        leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
