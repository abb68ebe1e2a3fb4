"""Surroundings nobody would choose: every command ends in success, or in one sentence and the right exit code.

As many hostile conditions as are independent of each other share one run of the command line, because each
costs the import of torch. What a process cannot change in itself (its locale, its rights, closed streams) is
tried in processes of their own; names and paths through the same entry point inside this one.
"""

from __future__ import annotations

import json
import ntpath
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import scantling
from scantling.cli import options
from scantling.cli.main import main
from scantling.data import inspect as inspection
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.data.layouts import cases_csv
from scantling.reports.privacy import HIDDEN, hide_paths

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells, permissions and links")

SHORT = (
    "--steps", "1", "--set", "plan.patch_size=[32,32]", "--set", "plan.batch_size=2",
    "--set", "training.steps_per_epoch=1",
)  # fmt: skip
ODD = "Röntgen [1] 'Thorax' \"links\" (医学) & $HOME; {0} %s *?"
ANOTHER_USER = 12345
SOURCE = str(Path(scantling.__file__).parents[1])


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def sentence(self, code: int) -> str:
        """The one sentence of an error."""
        assert self.code == code, self
        assert self.err.count("\n") == 1, self.err
        assert re.fullmatch(r"error: .+ \[E-[A-Z]{3}-\d\d\]\n", self.err), self.err
        return self.err


def command_line(
    *words: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    first: str = "",
    through: Sequence[str] = (),
    **streams: int,
) -> Ended:
    """Run `python -m scantling` in a process of its own, after the Python statements of `first`.

    Args:
        env: the whole environment but for PATH and PYTHONPATH.
        through: a program that starts it.
    """
    surroundings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": SOURCE,
        "OMP_NUM_THREADS": "1",
        **(os.environ if env is None else env),
    }
    surroundings["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*surroundings["PYTHONPATH"].split(os.pathsep), SOURCE]))
    start = f"import os, sys; {first or 'pass'}; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run(
        [*through, sys.executable, "-S", "-c", start, "-m", "scantling", *words],
        cwd=cwd, env=surroundings, check=False, timeout=300,
        **({"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
    )  # fmt: skip
    out, err = ((text or b"").decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    assert "Traceback" not in out + err, out + err
    assert done.returncode in (0, 2, 3, 4, 5, 6), (done.returncode, out, err)
    return Ended(done.returncode, out, err)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the console entry in this process."""

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["scantling", *map(str, words)])
        monkeypatch.setattr(options, "debug_wanted", False)
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        return Ended(int(caught.value.code or 0), printed.out, printed.err)

    return call


def phantom(folder: Path) -> Path:
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=1, n_test=3, seed=5, size=48)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom(tmp_path_factory.mktemp("environment") / "chest")


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """An empty folder that every user reaches, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="scantling-environment-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def another_user(open_folder: Path) -> tuple[str, ...]:
    """The start of a command whose rights end where permission bits say so; root's do not.

    As root: a user without a name or a home (as clusters make them up), who may read everything, because the
    interpreter may lie in root's home, but write only what is open to all.
    """
    if os.geteuid() != 0:
        return ()
    program = shutil.which("setpriv")
    prefix = (
        program or "", f"--reuid={ANOTHER_USER}", f"--regid={ANOTHER_USER}", "--clear-groups",
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search",
    )  # fmt: skip
    probe = "import os; raise SystemExit(os.access('.', os.W_OK) or not os.access(os.getcwd(), os.R_OK))"
    words = [*prefix, sys.executable, "-c", probe]
    if program is None or subprocess.run(words, cwd=open_folder, capture_output=True, check=False).returncode:
        pytest.skip("root's rights know no read-only folder, and there is no setpriv that could give them up")
    return prefix


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything in a folder."""
    entries = [folder, *sorted(folder.rglob("*"))]
    facts = {str(path): path.lstat() for path in entries}
    return {path: (fact.st_mode, fact.st_size, fact.st_ctime_ns) for path, fact in facts.items()}


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@dataclass(frozen=True)
class PoorRun:
    """A run that was trained where everything was against it."""

    ended: Ended
    folder: Path
    data: Path
    untouched: bool
    left_behind: tuple[str, ...]


@pytest.fixture(scope="module")
def poor_run(open_folder: Path, another_user: tuple[str, ...]) -> PoorRun:
    root = open_folder / "poor"
    root.mkdir()
    data = phantom(root / ODD)
    later = time.time() + 1e8  # three years from now
    for path in (data, *data.rglob("*")):
        os.utime(path, (later, later))
        path.chmod(0o555 if path.is_dir() else 0o444)
    (root / "-data").symlink_to(data)
    (root / "elsewhere").mkdir()
    (root / "läufe").symlink_to(root / "elsewhere")
    work = root / "work"
    work.mkdir()
    for folder in (root / "elsewhere", work):
        folder.chmod(0o777)
    backwards = root / "site"
    backwards.mkdir()
    (backwards / "sitecustomize.py").write_text(
        "import datetime, itertools, time\n"
        "began, calls = time.time(), itertools.count()\n"
        "time.time = lambda: began - 3600.0 * next(calls)\n"
        "time.time_ns = lambda: int(time.time()) * 10**9\n"
        "class Backwards(datetime.datetime):\n"
        "    now = classmethod(lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))\n"
        "datetime.datetime = Backwards\n"
    )
    parts = Path("..") / "läufe" / ".." / "läufe"
    room = 300 - len(str(work / parts)) - 2
    out = parts / ("l" * (room // 2)) / ("r" * (room - room // 2))
    assert len(str(work / out)) == 300
    before = state(data)
    ended = command_line(
        "train", "-o", str(out), *SHORT, "--workers", "0", "--", "../-data",
        cwd=work, through=another_user, first="os.umask(0o077); os.close(0)",
        env={
            "PYTHONPATH": str(backwards), "LC_ALL": "C", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20",
            "TMPDIR": "/proc/no-such-folder",
        },
    )  # fmt: skip
    left = sorted(path.name for path in work.iterdir())
    return PoorRun(ended, work / out, data, state(data) == before, tuple(left))


def test_a_run_trains_without_home_name_terminal_locale_or_temporary_folder_and_with_time_going_backwards(
    poor_run: PoorRun,
) -> None:
    assert poor_run.ended.code == 0, poor_run.ended
    assert "Mean foreground Dice" in poor_run.ended.out
    assert "\x1b" not in poor_run.ended.out + poor_run.ended.err
    assert "Found 6 cases" in poor_run.ended.err
    status = json.loads((poor_run.folder / "run.json").read_text(encoding="utf-8"))
    assert status["status"] == "finished"
    assert status["finished"] < status["started"]
    assert status["seconds"] > 0


def test_a_read_only_data_folder_stays_as_it_is_and_nothing_is_written_beside_the_run(poor_run: PoorRun) -> None:
    assert poor_run.untouched
    assert poor_run.left_behind == ()


def test_a_umask_of_077_keeps_every_file_of_a_run_from_other_users(poor_run: PoorRun) -> None:
    open_to_others = [path for path in poor_run.folder.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []


def test_the_report_does_not_name_a_folder_with_a_name_full_of_signs(poor_run: PoorRun) -> None:
    page = (poor_run.folder / "report.html").read_text(encoding="utf-8")
    facts = (poor_run.folder / "report.json").read_text(encoding="utf-8")
    assert not {"Röntgen", "医学", "no-such-folder"} & set(re.findall(r"[\w-]+", page + facts))
    config = tomllib.loads((poor_run.folder / "config.toml").read_text(encoding="utf-8"))
    assert Path(config["data"]["path"]) == poor_run.data


def test_every_verb_takes_a_path_full_of_signs(poor_run: PoorRun, tmp_path: Path, call: Callable[..., Ended]) -> None:
    out = tmp_path / ODD
    assert call("predict", poor_run.folder, poor_run.data / "images", "-o", out / "maps", "-q").out.count("\n") == 6
    one = poor_run.data / "images" / "chest_0000.png"
    assert call("predict", poor_run.folder, one, "-o", out / "one", "-q").code == 0
    scored = call("evaluate", out / "maps", poor_run.data, "-o", out / "scores")
    assert (scored.code, "Mean foreground Dice" in scored.out) == (0, True), scored
    assert call("report", poor_run.folder, "-o", out / "page.html").out == f"{out / 'page.html'}\n"
    assert call("inspect", poor_run.data, "-o", out).code == 0
    call("resume", poor_run.folder).sentence(3)


def test_a_run_whose_output_nobody_reads_any_more_is_finished(data: Path, tmp_path: Path) -> None:
    accents = tmp_path / "chest"
    shutil.copytree(data, accents)
    table = accents / "dataset.toml"
    table.write_text(table.read_text().replace("heart", "'Größe 心'"), encoding="utf-8")
    gone = closed_pipe()
    ended = command_line(
        "train", "chest", "-o", "run", *SHORT, cwd=tmp_path, stdout=gone, stderr=gone,
        first="os.umask(0); os.close(0)", env={"LC_ALL": "C", "PYTHONUTF8": "0", "HOME": "/proc/no-such-folder"},
    )  # fmt: skip
    os.close(gone)
    assert ended.code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
    assert "Größe 心" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o666) for path in files} == {"0o666"}


def test_letters_that_the_terminal_has_not_are_escaped_and_few_files_may_be_open(data: Path, tmp_path: Path) -> None:
    accents = tmp_path / "chest"
    shutil.copytree(data, accents)
    table = accents / "dataset.toml"
    table.write_text(table.read_text().replace("heart", "'Größe 心'"), encoding="utf-8")
    ended = command_line(
        "inspect", "chest", "-o", "elsewhere", cwd=tmp_path,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "1"},
        first="import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); os.close(2)",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert "3 -> Gr\\xf6\\xdfe \\u5fc3" in ended.out


def test_closed_streams_lend_their_numbers_to_no_file(data: Path, tmp_path: Path) -> None:
    ended = command_line("inspect", str(data), cwd=tmp_path, first="os.closerange(0, 3)")
    assert ended == Ended(0, "", "")
    assert set(json.loads((tmp_path / "data.lock.json").read_text())["files"]) >= {"cases.csv", "dataset.toml"}


def test_a_reader_that_has_seen_enough_is_no_error_and_a_full_disk_under_the_output_is_one(tmp_path: Path) -> None:
    gone = closed_pipe()
    assert command_line("--help", cwd=tmp_path, stdout=gone) == Ended(0, "", "")
    os.close(gone)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        assert "No space left" in command_line("--help", cwd=tmp_path, stdout=full.fileno()).sentence(4)


def test_a_deleted_current_folder_is_said_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ended = command_line("inspect", str(data), cwd=gone, first="os.rmdir(os.getcwd())")
    assert "was deleted" in ended.sentence(2)


def test_a_name_that_is_no_text_in_this_locale_is_refused_by_name(tmp_path: Path) -> None:
    ended = command_line("train", "Thoräx", cwd=tmp_path, env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert "Thor\\udcc3\\udca4x" in ended.sentence(2)
    assert "PYTHONUTF8=1" in ended.err


@pytest.mark.parametrize(("name", "shown"), [("two\nlines", r"'two\nlines'"), ("\x1b[31mred", r"'\x1b[31mred'")])
def test_a_name_with_a_control_character_is_refused_by_name(
    call: Callable[..., Ended], data: Path, tmp_path: Path, name: str, shown: str
) -> None:
    for words in (("inspect", tmp_path / name), ("inspect", data, "-o", name), ("predict", name, data, "-o", "x")):
        assert shown.strip("'") in call(*words).sentence(2)
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    shutil.copy(data / "images" / "chest_0000.png", images / f"{name}.png")
    assert "results are files of that name" in call("inspect", tmp_path / "data", "-o", tmp_path).sentence(3)
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes only text for a name")
def test_a_file_name_that_is_no_text_is_refused_by_name(call: Callable[..., Ended], data: Path, tmp_path: Path) -> None:
    """Latin-1 bytes on a UTF-8 system; as image, and as a label that belongs to nothing."""
    for folder in ("images", "labels"):
        shutil.copytree(data / "labels", tmp_path / "data" / folder)
    odd = os.fsdecode("läsion.png".encode("latin-1"))
    shutil.copy(data / "labels" / "chest_0000.png", tmp_path / "data" / "labels" / odd)
    ended = call("train", tmp_path / "data", "-o", tmp_path / "run", *SHORT, "-q")
    assert "l\\udce4sion" in ended.sentence(3)
    assert call("inspect", tmp_path / "data", "-o", tmp_path, "--json").code == 0
    shutil.copy(data / "labels" / "chest_0000.png", tmp_path / "data" / "images" / odd)
    assert "l\\udce4sion" in call("inspect", tmp_path / "data", "-o", tmp_path).sentence(3)


def impossible_places(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("taken")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    return {
        "a file": tmp_path / "file",
        "in a file": tmp_path / "file" / "out",
        "not writable": Path("/proc/out"),
        "too long": tmp_path / ("n" * 256),
        "far too long": tmp_path / "/".join(["n" * 200] * 30),
        "link to nothing": tmp_path / "nowhere",
        "link to itself": tmp_path / "circle" / "out",
    }


def test_an_output_that_cannot_be_written_is_one_sentence_for_every_verb(
    poor_run: PoorRun, data: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    verbs: dict[str, tuple[object, ...]] = {
        "train": ("train", data, *SHORT, "-q", "-o"),
        "predict": ("predict", poor_run.folder, data / "images", "-q", "-o"),
        "evaluate": ("evaluate", poor_run.folder / "predictions", data, "-o"),
        "inspect": ("inspect", data, "-o"),
        "demo": ("demo", "-q", "-o"),
        "report": ("report", poor_run.folder, "-o"),
    }
    for kind, place in impossible_places(tmp_path).items():
        for verb, words in verbs.items():
            if kind in ("a file", "link to nothing") and verb == "report":
                continue  # a report is a file
            ended = call(*words, place)
            taken = kind == "a file" and verb in ("train", "predict", "evaluate", "demo")
            code = 2 if taken or kind == "link to itself" else 4
            assert str(place)[:40] in ended.sentence(code), (verb, kind)
    assert (tmp_path / "file").read_text() == "taken"


def test_an_input_that_cannot_be_read_is_one_sentence_for_every_verb(
    poor_run: PoorRun, data: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for kind, place in impossible_places(tmp_path).items():
        for words in (
            ("train", place, *SHORT, "-q", "-o", out),
            ("inspect", place, "-o", out),
            ("predict", poor_run.folder, place, "-q", "-o", out),
            ("predict", place, data / "images", "-q", "-o", out),
            ("evaluate", place, data),
            ("evaluate", poor_run.folder / "predictions", place),
            ("resume", place),
            ("report", place),
        ):
            ended = call(*words)
            expected = {"link to itself": (2,), "too long": (3, 4), "far too long": (3, 4)}.get(kind, (3,))
            assert ended.code in expected, (words, kind, ended)
            ended.sentence(ended.code)
        shutil.rmtree(out, ignore_errors=True)


def test_permission_bits_bind_and_are_named(another_user: tuple[str, ...], data: Path, open_folder: Path) -> None:
    source = shutil.copytree(data, open_folder / "data")
    ended = command_line("inspect", str(source), "-o", str(open_folder), cwd=open_folder, through=another_user)
    assert "Permission denied" in ended.sentence(4)
    assert str(open_folder) in ended.err


def test_a_folder_that_may_not_be_read_is_named(data: Path, tmp_path: Path) -> None:
    closed = shutil.copytree(data, tmp_path / "closed")
    (closed / "images").chmod(0o000)
    through: tuple[str, ...] = ()
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root reads everything, and there is no setpriv that could give up this right")
        through = (setpriv, "--bounding-set=-dac_override,-dac_read_search,-fowner")
    ended = command_line("inspect", "closed", "-o", "out", cwd=tmp_path, through=through)
    (closed / "images").chmod(0o755)
    assert "images" in ended.sentence(3)
    assert "Permission denied" in ended.err


def test_data_behind_links_is_read_and_links_to_nothing_are_named(
    data: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    for layout in ("pairs", "suffix"):
        folder = tmp_path / layout
        for path in [*(data / "images").iterdir(), *(data / "labels").iterdir()]:
            if layout == "pairs":
                link = folder / path.parent.name / path.name
            else:
                link = folder / f"{path.stem}{'_seg' if path.parent.name == 'labels' else ''}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            target = tmp_path / "absent.png" if path.stem == "chest_0001" and path.parent.name == "labels" else path
            link.symlink_to(target if path.stem != "chest_0003" else tmp_path / "absent.png")
        (tmp_path / f"{layout}-link").symlink_to(folder)
        ended = call("inspect", tmp_path / f"{layout}-link", "-o", tmp_path, "--json")
        assert ended.code == 3
        found = json.loads(ended.out)
        named = {problem["case_id"]: problem["message"] for problem in found["problems"]}
        assert set(named) == {"chest_0001", "chest_0003"}, named
        assert "no such file" in named["chest_0001"]
        usable = {case["case"]: len(case["labels"]) for case in found["cases"] if case["usable"]}
        assert usable == {"chest_0000": 1, "chest_0001": 0, "chest_0002": 0, "chest_0004": 1, "chest_0005": 1}


def test_a_link_to_nothing_among_images_to_predict_fails_alone(
    poor_run: PoorRun, data: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").symlink_to(data / "images" / "chest_0000.png")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "absent.png")
    ended = call("predict", poor_run.folder, tmp_path / "images", "-o", tmp_path / "out", "-q")
    assert (ended.code, ended.out) == (3, f"{tmp_path / 'out' / 'a.png'}\n")
    assert "b.png: no such file" in ended.err


def test_a_pattern_in_a_table_means_the_table_s_own_folder_whatever_that_is_called(
    data: Path, call: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = tmp_path / "data [0-9] *"
    folder.mkdir()
    shutil.copy(data / "images" / "chest_0000.png", folder / "a1.png")
    (folder / "cases.csv").write_text("case,image\na,a?.png\nb,a[1].png\n")
    ended = call("inspect", folder, "-o", tmp_path, "--json")
    assert [case["images"] for case in json.loads(ended.out)["cases"]] == [["a1.png"], ["a1.png"]]


@pytest.mark.parametrize("relative", [inspection._relative, cases_csv._relative])
def test_a_file_on_another_windows_drive_or_share_keeps_its_whole_name(
    monkeypatch: pytest.MonkeyPatch, relative: Callable[[Path, Path], str]
) -> None:
    def on_windows(path: Path, start: Path) -> str:
        return ntpath.relpath(str(path).lstrip("./"), str(start))

    monkeypatch.setattr(os.path, "relpath", on_windows)
    share = r"\\server\share\images\a.png"
    assert relative(Path(share), Path(r"C:\data")) == share
    assert relative(Path(r"D:\images\a.png"), Path(r"C:\data")) == r"D:\images\a.png"
    assert relative(Path(r"C:\data\images\a.png"), Path(r"C:\data")) == r"images\a.png"


@pytest.mark.parametrize("path", [r"\\server\share\Thorax\a.png", r"C:\Users\Eva\a.png", "/home/eva/a.nii.gz"])
def test_paths_of_every_system_are_hidden_in_reports(path: str) -> None:
    assert hide_paths(f"case a: {path}: the file is damaged") == f"case a: {HIDDEN}: the file is damaged"


def test_a_table_written_on_windows_finds_its_files(data: Path, call: Callable[..., Ended], tmp_path: Path) -> None:
    shutil.copytree(data / "images", tmp_path / "data" / "images")
    (tmp_path / "data" / "cases.csv").write_bytes(b"case;image\r\na;images\\chest_0000.png\r\n")
    assert call("inspect", tmp_path / "data", "-o", tmp_path).code == 0


@pytest.mark.slow
def test_the_demo_and_the_doctor_work_in_poor_surroundings(another_user: tuple[str, ...], open_folder: Path) -> None:
    work = open_folder / "demo"
    work.mkdir()
    work.chmod(0o777)
    poor = {"LC_ALL": "C", "TERM": "dumb", "TMPDIR": "/proc/no-such-folder"}
    ended = command_line("demo", "--steps", "1", cwd=work, through=another_user, env=poor)
    assert (ended.code, "Mean foreground Dice" in ended.out) == (0, True), ended
    nowhere = work / "site"
    nowhere.mkdir()
    (nowhere / "sitecustomize.py").write_text("import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/proc']\n")
    ended = command_line("doctor", cwd=work, env={**poor, "PYTHONPATH": str(nowhere)})
    assert (ended.code, ended.err) == (0, ""), ended


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_workers_of_every_kind_give_the_bits_of_none_in_poor_surroundings(
    another_user: tuple[str, ...], data: Path, open_folder: Path, method: str
) -> None:
    work = open_folder / f"workers-{method}"
    work.mkdir()
    work.chmod(0o777)
    site = work / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.get_context = lambda method=None, get=multiprocessing.get_context: "
        f"get({method!r})\n"
    )
    source = shutil.copytree(data, work / "data")
    long = work / ("t" * 150)
    long.mkdir(mode=0o777)
    long.chmod(0o777)
    weights = []
    for workers in (0, 2):
        run = work / f"run{workers}"
        ended = command_line(
            "train", str(source), "-o", str(run), *SHORT, "--steps", "4", "-q", "--workers", str(workers),
            cwd=work, through=another_user, first="os.close(0)",
            env={"PYTHONPATH": str(site), "LC_ALL": "C", "TMPDIR": str(long)},
        )  # fmt: skip
        assert ended.code == 0, ended
        weights.append((run / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
