"""A process in a cache and a run root that others use too: `python -m faults.cache_users ROOT NUMBER ROUNDS`.

In every round it prepares the cases under a plan that is new in that round to all processes, so that they meet, and
compares what it reads with the files; keeps a run folder of its own in the common root; and counts up, with the lock
of a common run folder held, a number that no two may touch at once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from data.prepared_cases import plan_of, volume_set
from scantling.data.image_io import read_image, read_label
from scantling.data.store import Store
from scantling.errors import ConfigError
from scantling.training.run_folder import RunFolder
from scantling.training.run_lock import run_lock


def main(root: Path, number: int, rounds: int) -> dict[str, int]:
    manifest = volume_set(root / f"data-{number}", 3)  # the same content for every process
    images = [read_image(case.images[0]).array for case in manifest.cases]
    labels = [read_label(case.annotations[0].path)[0] for case in manifest.cases]
    counts = {"built": 0, "reused": 0, "torn": 0, "locked": 0, "refused": 0, "notes": 0}
    for turn in range(rounds):
        plan = plan_of(manifest, channels=(f"channel of round {turn}",))
        done = Store(root / "cache").prepare(manifest.cases, manifest, plan, workers=1 + number % 2)
        for case, image, label in zip(done.cases, images, labels, strict=True):
            same = np.array_equal(case.image, image) and np.array_equal(case.labels, label)
            counts["torn"] += not same
        counts["built"] += done.built
        counts["reused"] += done.reused
        counts["notes"] += len(done.notes)
        run = RunFolder.create(root / "runs" / f"run-{number}-{turn}")
        run.update(status="preparing", number=number)
        run.append_log("epoch", step=turn)
        run.update(status="finished")
        assert (run.status()["number"], run.verify(), len(list(run.read_log()))) == (number, [], 1)
        count_up(root / "common", counts)
    return counts


def count_up(common: Path, counts: dict[str, int]) -> None:
    """Once; trying until the lock is free, or for a while."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with run_lock(common):
                total = int((common / "number").read_text())
                time.sleep(0.002)
                (common / "number").write_text(str(total + 1))
                counts["locked"] += 1
                return
        except ConfigError:
            counts["refused"] += 1
            time.sleep(0.001)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
