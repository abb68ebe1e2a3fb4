from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from faults.damage import damage
from faults.full_disk import full_disk
from faults.tiny_run import begin, go_on, results, tiny_data
from scantling.data.layouts import open_dataset
from scantling.data.plan import Plan
from scantling.data.store import PreparedSet, Store
from scantling.errors import DataError, IntegrityError, ResourceError, ScantlingError
from scantling.files import read_json, sha256_file, write_atomic, write_json
from scantling.inference.model_folder import load_model
from scantling.inference.predictor import Predictor
from scantling.training.checkpoint import load_checkpoint
from scantling.training.run_folder import DECIDING, RunFolder
from scantling.training.train import resume

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Runs:
    """A finished run, one that stopped for want of disk after its third step, and the data of both."""

    data: Path
    finished: Path
    stopped: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("corruption")
    data = tiny_data(folder / "chest")
    with full_disk(folder / "finished", "names", None) as disk:
        begin(folder / "finished", data)
    sites = disk.sites["names"]
    fourth = [n for n, site in enumerate(sites) if "checkpoints" in site and "safetensors" in site and "rename" in site]
    with full_disk(folder / "stopped", "names", fourth[3]), pytest.raises(ResourceError):
        begin(folder / "stopped", data)
    assert load_checkpoint(folder / "stopped" / "checkpoints")[0].step == 3
    return Runs(data, folder / "finished", folder / "stopped")


def prepared(runs: Runs, run: Path) -> PreparedSet:
    manifest = open_dataset(runs.data)
    plan = Plan.parse(read_json(run / "plan.json"), where="plan")
    cases = [manifest.case(case) for case in read_json(run / "splits.json")["train"]]
    return Store(run / "cache").prepare(cases, manifest, plan)


def arrays(cases: PreparedSet) -> list[np.ndarray]:
    return [np.array(array) for case in cases.cases for array in (case.image, case.labels)]


# Each check damages one file of one sort and demands that it is noticed and what it must not touch is the same.


def damaged_checkpoint(runs: Runs, run: Path, rng: random.Random) -> str:
    checkpoints = sorted((run / "checkpoints").glob("*.safetensors"))
    done = damage(rng.choice(checkpoints), rng)
    loaded, complaints = load_checkpoint(run / "checkpoints")
    if done.startswith(checkpoints[-1].name):
        assert (loaded.step, len(complaints)) == (2, 1), done
        assert "going back to the checkpoint before it" in complaints[0]
    else:  # the older one, which nobody needs as long as the newer one is whole
        assert (loaded.step, complaints) == (3, []), done
        checkpoints[-1].unlink()
        with pytest.raises(IntegrityError, match="no usable checkpoint"):
            load_checkpoint(run / "checkpoints")
    return done


def damaged_index(runs: Runs, run: Path, rng: random.Random) -> str:
    done = damage(run / "checkpoints" / "index.json", rng)
    loaded, complaints = load_checkpoint(run / "checkpoints")
    assert loaded.step == 3, done
    assert any("index.json" in complaint for complaint in complaints), done
    return done


def damaged_cache(runs: Runs, run: Path, rng: random.Random) -> str:
    whole = arrays(prepared(runs, runs.stopped))
    done = damage(rng.choice(sorted(p for p in (run / "cache" / "entries").rglob("*") if p.is_file())), rng)
    again = prepared(runs, run)
    assert (again.built, len(again.notes)) == (1, 1), done
    assert "its cached preparation was made again" in again.notes[0]
    for first, second in zip(whole, arrays(again), strict=True):
        np.testing.assert_array_equal(first, second)
    return done


def damaged_decision(runs: Runs, run: Path, rng: random.Random) -> str:
    name = rng.choice(DECIDING)
    done = damage(run / name, rng)
    with pytest.raises(IntegrityError, match=f"{name}: is not what this run was started with") as caught:
        RunFolder.open(run).verify()
    assert f"copy {run / 'copies' / name} to its place" in caught.value.message
    return done


def damaged_status(runs: Runs, run: Path, rng: random.Random) -> str:
    wanted = RunFolder.open(run).status()
    done = damage(run / "run.json", rng)
    opened = RunFolder.open(run)
    assert opened.status() == wanted, done
    assert [sentence.partition(":")[0] for sentence in opened.verify()] == ["run.json"], done
    assert (opened.status(), opened.verify()) == (wanted, [])
    assert sha256_file(run / "run.json") == sha256_file(run / "copies" / "run.json")
    return done


def damaged_copy(runs: Runs, run: Path, rng: random.Random) -> str:
    wanted = {path.name: path.read_bytes() for path in (run / "copies").iterdir()}
    path = rng.choice(sorted((run / "copies").iterdir()))
    done = damage(path, rng)
    opened = RunFolder.open(run)
    assert opened.verify() == [f"copies/{path.name}: damaged or missing; it is written again."], done
    assert opened.verify() == []
    assert {path.name: path.read_bytes() for path in (run / "copies").iterdir()} == wanted
    return done


def damaged_model(runs: Runs, run: Path, rng: random.Random) -> str:
    model = run / "model"
    shutil.copytree(runs.finished / "model", model)
    done = damage(rng.choice(sorted(model.iterdir())), rng)
    with pytest.raises(IntegrityError, match="damaged"):
        load_model(model, CPU)
    with pytest.raises(IntegrityError):
        Predictor.load(run)
    return done


Check = Callable[[Runs, Path, random.Random], str]
CHECKS: tuple[Check, ...] = (
    damaged_checkpoint, damaged_index, damaged_cache, damaged_decision, damaged_status, damaged_copy, damaged_model,
)  # fmt: skip


def damage_many(runs: Runs, folder: Path, trials: range) -> set[str]:
    """One damage a trial, each to a fresh copy of the stopped run; the names of the files that were hit."""
    hit = set()
    for trial in trials:
        run = Path(shutil.copytree(runs.stopped, folder / str(trial)))
        done = CHECKS[trial % len(CHECKS)](runs, run, random.Random(trial))
        hit.add(done.partition(":")[0])
        shutil.rmtree(run)
    return hit


def test_every_one_of_50_damages_is_noticed_and_nothing_whole_is_lost(runs: Runs, tmp_path: Path) -> None:
    assert len(damage_many(runs, tmp_path, range(50))) >= 15


@pytest.mark.slow
def test_every_one_of_1000_damages_is_noticed_and_nothing_whole_is_lost(runs: Runs, tmp_path: Path) -> None:
    hit = damage_many(runs, tmp_path, range(1000, 2000))
    assert hit >= {*DECIDING, "run.json", "index.json", "meta.json", "model.safetensors", "model.json", "SHA256SUMS"}


MENDED = ("checkpoints/step-00000003-*.safetensors", "checkpoints/index.json", "run.json", "cache/entries/*/image.npy")


@pytest.mark.parametrize("pattern", MENDED)
def test_a_stopped_run_with_one_damaged_file_goes_on_to_the_same_bytes(
    runs: Runs, tmp_path: Path, pattern: str
) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    damage(min(run.glob(pattern)), random.Random(1))
    assert go_on(run, runs.data).status()["status"] == "finished"
    assert results(run) == results(runs.finished)


@pytest.mark.slow
def test_whatever_one_file_of_a_stopped_run_is_damaged_it_goes_on_or_says_why_not(runs: Runs, tmp_path: Path) -> None:
    wanted, refused = results(runs.finished), []
    files = sorted(str(path.relative_to(runs.stopped)) for path in runs.stopped.rglob("*") if path.is_file())
    for trial, name in enumerate(files * 3):
        run = Path(shutil.copytree(runs.stopped, tmp_path / str(trial)))
        damage(run / name, random.Random(trial))
        try:
            go_on(run, runs.data)
            assert results(run) == wanted, name
        except ScantlingError:
            refused.append(name)
        shutil.rmtree(run)
    assert sorted(refused) == sorted(DECIDING * 3)


def test_an_edit_by_hand_is_refused_and_the_copy_lets_the_run_go_on(runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    plan = read_json(run / "plan.json")
    write_json(run / "plan.json", {**plan, "batch_size": 2})
    with pytest.raises(IntegrityError, match=r"edited by hand.*to go on, copy .*'train --plan FILE'") as caught:
        RunFolder.open(run).verify()
    assert caught.value.exit_code == 6
    (run / "plan.json").unlink()
    with pytest.raises(IntegrityError, match=r"plan\.json: is missing; to go on, copy"):
        RunFolder.open(run).verify()
    shutil.copy(run / "copies" / "plan.json", run / "plan.json")
    assert go_on(run, runs.data).status()["status"] == "finished"
    assert results(run) == results(runs.finished)


def test_facts_edited_into_run_json_do_not_count(runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    (run / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), "status": "finished"}))
    opened = RunFolder.open(run)
    assert opened.status()["status"] == RunFolder.open(runs.stopped).status()["status"] == "training"
    assert "edited by hand" in opened.verify()[0]


def longer_config(run: RunFolder) -> bytes:
    return run.config.read_bytes().replace(b"steps = 4", b"steps = 6")


def test_a_file_that_the_run_itself_changes_is_sealed_again(runs: Runs, tmp_path: Path) -> None:
    run = RunFolder.open(Path(shutil.copytree(runs.stopped, tmp_path / "run")))
    run.rewrite("config.toml", longer_config(run))
    assert run.verify() == []
    assert (run.copies / "config.toml").read_bytes() == run.config.read_bytes()
    assert resume(run.path).status()["steps"] == 6


def test_a_change_that_is_broken_off_leaves_the_old_file_or_the_new_one_and_never_a_damaged_run(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for writes in range(6):  # of run.json and its copy, the file, its copy, run.json and its copy again
        run = RunFolder.open(Path(shutil.copytree(runs.stopped, tmp_path / str(writes))))
        before, after = run.config.read_bytes(), longer_config(run)
        with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
            patched.setattr("scantling.training.run_folder.write_atomic", full_after(writes))
            run.rewrite("config.toml", after)
        assert run.verify() == []
        assert "rewriting" not in run.status()
        outcomes.append({before: "old", after: "new"}[run.config.read_bytes()])
        assert (run.copies / "config.toml").read_bytes() == run.config.read_bytes()
    assert outcomes == ["old"] * 3 + ["new"] * 3
    run.config.write_bytes(before)
    with pytest.raises(IntegrityError, match="edited by hand"):
        run.verify()


def full_after(writes: int) -> Callable[[Path, bytes], None]:
    """A disk that takes so many files."""
    left = iter(range(writes))

    def write(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise OSError(28, "disk is full")
        write_atomic(path, content)

    return write


def test_with_run_json_and_its_copy_damaged_the_run_is_refused_in_a_sentence(runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    for path in (run / "run.json", run / "copies" / "run.json"):
        damage(path, random.Random(0))
    with pytest.raises(IntegrityError, match=r"run\.json: the file is damaged, and there is no whole copy"):
        RunFolder.open(run)


@pytest.mark.parametrize("gone", [("run.json",), ("copies",)])
def test_a_lost_status_file_or_lost_copies_are_written_again(runs: Runs, tmp_path: Path, gone: tuple[str]) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    path = run / gone[0]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    opened = RunFolder.open(run)
    assert len(opened.verify()) == (1 if gone == ("run.json",) else 1 + len(DECIDING))
    assert opened.verify() == []
    assert sorted(path.name for path in (run / "copies").iterdir()) == sorted([*DECIDING, "run.json"])
    assert opened.status() == RunFolder.open(runs.stopped).status()


def test_a_run_of_the_first_release_without_any_seal_goes_on(runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    facts = RunFolder.open(run).status()
    shutil.rmtree(run / "copies")
    write_json(run / "run.json", {name: value for name, value in facts.items() if name != "files"})
    table = []
    for path in sorted((run / "checkpoints").glob("*.safetensors"), reverse=True):
        old = path.rename(path.with_name(path.name[:13] + ".safetensors"))
        table.append({"file": old.name, "tag": "step", "step": int(old.name[5:13]), "sha256": sha256_file(old)})
    write_json(run / "checkpoints" / "index.json", table)
    assert RunFolder.open(run).verify() == []
    assert go_on(run, runs.data).status()["status"] == "finished"
    assert results(run) == results(runs.finished)
    assert RunFolder.open(run).verify() == []


def test_one_that_may_not_write_looks_and_mends_nothing(runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    damage(run / "run.json", random.Random(3))
    (run / ".partial-left").touch()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert len(RunFolder(run, writable=False).verify()) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_a_killed_process_left_half_written_is_swept_away(runs: Runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs.stopped, tmp_path / "run"))
    leftovers = [run / ".partial-a.json", run / "checkpoints" / ".partial-b", run / "predictions" / ".partial-c.png"]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    for name in (".partial-model-1", ".old-model-2", "cache/.partial-of-another-run"):
        (run / name).mkdir()
        (run / name / "file").touch()
    RunFolder.open(run).verify()
    assert not any(path.exists() for path in leftovers)
    assert {path.name for path in run.rglob(".*")} - {".lock"} == {".partial-of-another-run"}


def test_a_log_with_damaged_lines_gives_the_others(runs: Runs, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(runs.finished, tmp_path / "run")))
    whole = list(run.read_log())
    lines = run.log.read_bytes().splitlines(keepends=True)
    run.log.write_bytes(lines[0] + b"\xff\xfe\n[1]\n" + b"[" * 99_999 + b"\n" + b"".join(lines[1:]) + b'{"event": "ep')
    assert list(run.read_log()) == whole


def test_a_run_whose_model_folder_cannot_be_read_is_refused(runs: Runs, tmp_path: Path) -> None:
    model = Path(shutil.copytree(runs.finished / "model", tmp_path / "model"))
    (model / "SHA256SUMS").unlink()
    (model / "SHA256SUMS").mkdir()
    with pytest.raises((IntegrityError, DataError)):
        load_model(model, CPU)
