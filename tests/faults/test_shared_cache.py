from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data.prepared_cases import plan_of, volume_set
from faults.damage import damage
from scantling.data.image_io import read_image
from scantling.data.store import Store


def share(root: Path, *, processes: int, rounds: int) -> list[dict[str, int]]:
    """What each of some processes says after sharing a cache and a run root for some rounds."""
    (root / "common").mkdir()
    (root / "common" / "number").write_text("0")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "faults.cache_users", str(root), str(number), str(rounds)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(processes)
    ]  # fmt: skip
    said = [process.communicate(timeout=600) for process in running]
    assert [(process.returncode, error) for process, (_, error) in zip(running, said, strict=True)] == [
        (0, "")
    ] * processes
    return [json.loads(output) for output, _ in said]


def require_nothing_lost(root: Path, counts: list[dict[str, int]], rounds: int) -> None:
    total = {name: sum(count[name] for count in counts) for name in counts[0]}
    assert (total["torn"], total["notes"]) == (0, 0)
    assert total["built"] + total["reused"] == 3 * rounds * len(counts)
    assert total["built"] >= 3 * rounds
    assert len(list((root / "cache" / "entries").iterdir())) == 3 * rounds
    assert sorted(path.name for path in (root / "cache").iterdir()) == ["entries"]
    assert total["locked"] == rounds * len(counts) == int((root / "common" / "number").read_text())
    assert len(list((root / "runs").iterdir())) == rounds * len(counts)
    assert not list((root / "runs").rglob(".partial*"))


def test_processes_that_share_a_cache_and_a_run_root_disturb_nobody(tmp_path: Path) -> None:
    require_nothing_lost(tmp_path, share(tmp_path, processes=4, rounds=5), 5)


@pytest.mark.slow
def test_eight_processes_share_a_cache_and_a_run_root_for_twenty_rounds(tmp_path: Path) -> None:
    require_nothing_lost(tmp_path, share(tmp_path, processes=8, rounds=20), 20)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as the interpreter can, so that they meet at unlikely moments too."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_find_one_damaged_entry_at_once_all_get_a_whole_one(tmp_path: Path) -> None:
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    folder = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan).cases[0].folder
    wanted = read_image(manifest.cases[0].images[0]).array

    def look(_: int) -> bool:
        done = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan)
        return np.array_equal(done.cases[0].image, wanted)

    for trial in range(40):
        damage(folder / "image.npy", random.Random(trial))
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(look, range(8)))
