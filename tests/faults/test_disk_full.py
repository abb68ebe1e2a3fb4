from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.prepared_cases import plan_of, volume_set
from faults.full_disk import KINDS, ROOM_FOR_BYTES, Kind, full_disk, limit_file_size
from faults.tiny_run import begin, go_on, require_whole, results, tiny_data
from scantling.data.store import Store
from scantling.errors import ResourceError
from scantling.files import lack_of_space, write_atomic
from scantling.training.forecast import Forecast
from scantling.training.run_folder import RunFolder

FEWEST_SITES = {"names": 90, "bytes": 60, "sync": 50}
"""An undisturbed run writes at least so often; far fewer would mean that the counting is broken."""
LAST_SITES = {"names": 0, "bytes": 1, "sync": 1}
"""Sites at the very end behind which no byte is written: a file opened to be flushed, the folder flushed."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("full") / "chest")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, int]]:
    """What a run gives that has room enough, and how often it writes in each way."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with full_disk(run, "names", None) as disk:
        begin(run, data)
    require_whole(run)
    return results(run), {kind: len(sites) for kind, sites in disk.sites.items()}


def fill_up_and_go_on(run: Path, data: Path, kind: Kind, site: int, wanted: dict[str, bytes]) -> bool:
    """Whether the run noticed; where nothing is written any more behind the site, it may end as if undisturbed."""
    noticed = None
    with full_disk(run, kind, site) as disk:
        try:
            begin(run, data)
        except ResourceError as error:
            noticed = error
    assert disk.is_full
    require_whole(run)
    if noticed is not None:
        assert noticed.exit_code == 4
        assert any(said in noticed.message for said in ("disk is full", "quota is used up", "file is larger"))
        assert "free some space" in noticed.message
        assert go_on(run, data).status()["status"] == "finished"
    assert results(run) == wanted
    require_whole(run)
    assert not [path for path in run.iterdir() if path.name.startswith((".partial-", ".old-"))]
    return noticed is not None


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_full_disk_ends_in_a_sentence_and_goes_on_to_the_same_bytes(
    tmp_path: Path, data: Path, undisturbed: tuple[dict[str, bytes], dict[str, int]], kind: Kind, part: int
) -> None:
    wanted, counts = undisturbed
    assert counts[kind] >= FEWEST_SITES[kind]
    site = (2 * part + 1) * counts[kind] // 6
    assert fill_up_and_go_on(tmp_path / "run", data, kind, site, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_at_every_single_write_a_full_disk_costs_nothing(
    tmp_path: Path, data: Path, undisturbed: tuple[dict[str, bytes], dict[str, int]], kind: Kind
) -> None:
    wanted, counts = undisturbed
    unnoticed = []
    for site in range(counts[kind]):
        if not fill_up_and_go_on(tmp_path / str(site), data, kind, site, wanted):
            unnoticed.append(site)
        shutil.rmtree(tmp_path / str(site))
    assert unnoticed == list(range(counts[kind] - len(unnoticed), counts[kind]))
    assert len(unnoticed) <= LAST_SITES[kind]


def test_a_cache_on_a_full_disk_holds_no_half_entry_wherever_it_stopped(tmp_path: Path) -> None:
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    with full_disk(tmp_path, "names", None) as disk:
        Store(tmp_path / "whole").prepare(manifest.cases, manifest, plan)
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert len(disk.sites["bytes"]) >= 4
    for kind, sites in disk.sites.items():
        for site in range(len(sites)):
            cache = tmp_path / f"{kind}{site}"
            with full_disk(cache.parent, kind, site), pytest.raises(ResourceError, match="free some space"):
                Store(cache).prepare(manifest.cases, manifest, plan)
            assert [path for path in cache.rglob("*") if path.is_file()] == []
            assert Store(cache).prepare(manifest.cases, manifest, plan).built == 1
            assert {path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == wanted


def fill(path: Path, left: int) -> None:
    """Write a file that leaves so many bytes free."""
    space = shutil.disk_usage(path.parent)
    path.write_bytes(bytes(max(space.free - left, 0)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "scantling-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this process may not mount a small file system ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_real_file_system_without_room_loses_nothing(
    small_disk: Path,
    data: Path,
    undisturbed: tuple[dict[str, bytes], dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, _ = undisturbed
    monkeypatch.setattr(Forecast, "require", lambda *_, **__: None)  # it would refuse before anything is written
    begin(small_disk / "run", data)
    size = sum(path.stat().st_blocks * 512 for path in (small_disk / "run").rglob("*") if path.is_file())
    shutil.rmtree(small_disk / "run")
    for share in (0.0, 0.2, 0.7):
        fill(small_disk / "ballast", int(share * size))
        with pytest.raises(ResourceError, match="free some space") as caught:
            begin(small_disk / "run", data)
        assert caught.value.exit_code == 4
        require_whole(small_disk / "run")
        (small_disk / "ballast").unlink()
        assert go_on(small_disk / "run", data).status()["status"] == "finished"
        assert results(small_disk / "run") == wanted
        for folder in small_disk.iterdir():
            shutil.rmtree(folder)


def test_what_writers_in_other_languages_say_of_a_full_disk_is_understood(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("this system has no limit on file size")
    writers = {
        "rust": lambda: save_file({"a": torch.zeros(5000)}, tmp_path / "a.safetensors"),
        "c": lambda: np.save(tmp_path / "a.npy", np.zeros(5000)),
        "python": lambda: (tmp_path / "a.bin").write_bytes(bytes(5000)),
    }
    for name, write in writers.items():
        limit_file_size(ROOM_FOR_BYTES)
        try:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - each language has its own
                write()
        finally:
            limit_file_size(None)
        assert lack_of_space(caught.value), name
    assert lack_of_space(OSError(errno.EACCES, os.strerror(errno.EACCES))) == ""
    assert lack_of_space(ValueError("3 requested and 2 written")) == ""


def test_a_log_line_cut_by_a_full_disk_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_log("epoch", step=1)
    with full_disk(tmp_path, "bytes", 0), pytest.raises(ResourceError, match=r"log\.jsonl"):
        run.append_log("epoch", step=2)
    assert [json.loads(line)["step"] for line in run.log.read_text().splitlines()] == [1]
    with run.log.open("a") as stream:
        stream.write('{"event": "epo')
    run.append_log("epoch", step=3)
    assert [event["step"] for event in run.read_log()] == [1, 3]


def test_a_place_where_nothing_may_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot be written \(.*; choose another place") as caught:
        write_atomic(tmp_path / "file" / "below", b"x")
    assert caught.value.exit_code == 4
