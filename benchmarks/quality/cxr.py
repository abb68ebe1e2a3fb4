"""Pretraining of chest radiographs with and without labels, fine-tuned on few cases, scored on unseen scanners.

    python benchmarks/quality/cxr.py [WORK] [--gpu] [--seeds 0,1,2] [--arms dvd,s-mvd] [--table]

Data: `cxr` in the folder named by SCANTLING_DATA (default ../shared/data). Pretraining reads images of Shenzhen (four
of five folds) and of the COVID-19 collection, with silver masks; fine-tuning 1, 4 or 16 expert cases of the same
Shenzhen patients, another draw for each seed; test: Wingspan, whose scanners nobody learnt from, the fifth fold of
Shenzhen, and COVID-19 patients with expert masks. No patient is on both sides. Nothing is chosen on test cases: plan,
budgets and settings are the same for all arms, and the weights are the last ones, or those of the best inner validation
where there are labelled cases for one (16 cases, and full supervision).

Every run is a folder in WORK, so a broken-off table goes on where it was; each finished run adds its cases to
docs/results/cxr_cpu_cases.csv (or cxr_gpu_...) at once, and the tables of docs/cxr.md are made of these files alone.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import scantling
from scantling.data.layouts import open_dataset
from scantling.evaluation.evaluate import Evaluation
from scantling.evaluation.statistics import RESAMPLES
from scantling.recipes import RECIPES
from scantling.training.run_folder import RunFolder
from scantling.workflows.result import RunResult

ROOT: Final = Path(__file__).parents[2]
DATA: Final = Path(os.environ.get("SCANTLING_DATA", ROOT.parent / "shared" / "data")) / "cxr"
RESULTS: Final = ROOT / "docs" / "results"
PAGE: Final = ROOT / "docs" / "cxr.md"
README: Final = ROOT / "README.md"
METRICS: Final = ("dice", "hd95_mm", "assd_mm")
TEST_FOLD: Final = "0"
BUDGETS: Final = (4, 1, 16)
SITES: Final = ("shenzhen", "covid19-collection")
GROUPS: Final = {
    "unseen scanners": "Wingspan",
    "shenzhen": "Shenzhen fold",
    "normal": "its normal",
    "TB": "its TB",
    "COVID-19": "COVID-19",
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What all arms share on a kind of machine.

    Attributes:
        name: of the files of results.
        size: of an image side, in pixels.
        pretraining, tuning, full: steps of a run; `full` of full supervision.
        points: pixels of each view, or pair of views, of the dense methods.
        network: settings of the plan.
    """

    name: str
    size: int
    pretraining: int
    tuning: int
    full: int
    points: int
    network: tuple[str, ...] = ()

    @property
    def cases(self) -> Path:
        """A line for each test case of each run."""
        return RESULTS / f"cxr_{self.name}_cases.csv"

    @property
    def runs(self) -> Path:
        """A line for each run."""
        return RESULTS / f"cxr_{self.name}_runs.csv"

    def plan(self) -> list[str]:
        """Settings of the plan: whole images, at most 512 pixels a side, made smaller."""
        spacing = 512 / self.size
        patch = f"plan.patch_size=[{self.size}, {self.size}]"
        return [patch, f"plan.spacing_mm=[{spacing}, {spacing}]", "plan.batch_size=8", *self.network]


CPU: Final = Preset(name="cpu", size=96, pretraining=500, tuning=200, full=700, points=100)
GPU: Final = Preset(
    name="gpu", size=224, pretraining=5000, tuning=2000, full=7000, points=1000, network=("plan.network=resnet50_unet",)
)


TUNING: Final = ("training.optimisation.head_rate=5",)
"""Of full supervision and of every arm but one; chosen on training patients, where all arms gained."""
FASTER_SCRATCH: Final = "scratch, five times the rate"
FASTER: Final = ("training.optimisation.learning_rate=1e-2",)
"""The heads' rate for all of the network: on training patients better for scratch alone, with 4 cases."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a network comes to its weights before fine-tuning.

    Attributes:
        method: of `scantling pretrain`; "" is none.
        dense: whether it draws `points` pixels.
        settings: of the method.
        once: with the first seed only, to show what other settings do.
        tuning: settings of fine-tuning.
    """

    method: str = ""
    dense: bool = True
    settings: tuple[str, ...] = ()
    once: bool = False
    tuning: tuple[str, ...] = TUNING


REAL: Final = ("settings.views.image_of_view=own",)
TAP: Final = ("settings.tap=1/4",)
BOXES: Final = ("settings.views.crop_area=[0.5, 1.0]",)
PUBLISHED: Final = (
    "settings.tap=''", "settings.views.crop_area=[0.08, 1.0]", "settings.temperature=0.7"
)  # fmt: skip
"""Of the run at 224 pixels."""
ARMS: Final[Mapping[str, Arm]] = {
    "scratch": Arm(),
    FASTER_SCRATCH: Arm(tuning=FASTER),
    "segmentation": Arm(method="segmentation", dense=False),
    "dvd": Arm(method="dvd-cl"),
    "s-mvd": Arm(method="s-mvd-cl"),
    "s-dvd": Arm(method="s-dvd-cl"),
    "mvd": Arm(method="mvd-cl"),
    "dvd, real views": Arm(method="dvd-cl", settings=REAL),
    "s-mvd, real views": Arm(method="s-mvd-cl", settings=REAL),
    "ssdcl": Arm(method="ssdcl", settings=TAP),
    "vader": Arm(method="vader", settings=(*TAP, *BOXES)),
    "simclr": Arm(method="simclr", dense=False),
    "segmentation, published settings": Arm(
        method="segmentation", dense=False, settings=RECIPES["segmentation"].published, once=True
    ),
    "dvd, published settings": Arm(method="dvd-cl", settings=(*PUBLISHED, "settings.exclusion=0.0"), once=True),
    **{
        f"{name}, published settings": Arm(method=f"{name}-cl", settings=PUBLISHED, once=True)
        for name in ("mvd", "s-dvd", "s-mvd")
    },
}
FEWEST: Final = 1
"""So many cases leave a pretrained encoder as it is: much better on training patients with one, no different with 4."""
FULL: Final = "full supervision"
DIRECT: Final = "segmentation, not fine-tuned"


def write_table(folder: Path, *, test_only: bool = False) -> Path:
    """The data as this benchmark divides them; the files stay where they are."""
    with (DATA / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    tested = {row["subject"] for row in rows if _is_test(row)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(
        f'name = "{folder.name}"\nmodality = "CR"\n\n[classes]\nright_lung = 1\nleft_lung = 2\n'
        "background = [0, 3, 4, 5, 6]  # the visible lung fields, which all sources mean\n",
        encoding="utf-8",
    )
    columns = ("case", "image", "label", "label_kind", "subject", "site", "finding", "split")
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            test = _is_test(row)
            if test != (row["subject"] in tested) or (test and row["label_kind"] != "full") or (test_only and not test):
                continue
            files = {
                name: os.path.relpath(DATA / row[name], folder) if row[name] else "" for name in ("image", "label")
            }
            kept = {name: row[name] for name in columns if name in row}
            writer.writerow({**kept, **files, "split": "test" if test else "train"})
    return folder


def _is_test(row: Mapping[str, str]) -> bool:
    """Wingspan, one fold of Shenzhen, and whoever of the COVID-19 collection has an expert mask."""
    return row["fold"] == TEST_FOLD if row["site"] == "shenzhen" else row["label_kind"] == "full"


def groups_of(site: str, finding: str) -> Iterator[str]:
    """The groups that a test case counts in."""
    if site == "shenzhen":
        yield from (site, finding)
    else:
        yield {"wingspan": "unseen scanners"}.get(site, "COVID-19")


def with_counterfactuals(work: Path, data: Path) -> Path:
    """The data with each training image as it would look from the other site: the sound ones of an image model.

    The model is learnt from the training images alone. On training patients it was better than a map of grey values
    (docs/lab-notes.md).
    """
    out, model = work / "with-counterfactuals", work / "image-model"
    if not (out / "report.html").exists():
        if not (model / "report.html").exists():
            scantling.train(
                data, model, recipe="counterfactual_vae", time="26m", fold="none", quiet=False, overwrite=True,
                settings=[
                    'settings.attributes=["site"]', "settings.size=[96, 96]", "data.train_on={split='train'}"
                ],
            )  # fmt: skip
        train = [case.case_id for case in open_dataset(data).real if case.split != "test"]
        scantling.generate(model, data, out, do=[f"site={site}" for site in SITES], cases=train, overwrite=True)
    return out


class Bench:
    """Runs in a work folder, each made once."""

    def __init__(self, work: Path, preset: Preset) -> None:
        self.work, self.preset = work, preset
        self.data = write_table(work / "cxr")
        self.test = write_table(work / "cxr-test", test_only=True)
        self.views = with_counterfactuals(work, self.data)
        self.sites = {case.case_id: (case.site, case.attribute("finding")) for case in open_dataset(self.test).real}
        self.plan = work / "plan" / "plan.json"
        if not self.plan.exists():
            scantling.train(
                self.data,
                work / "plan",
                recipe="supervised",
                steps=1,
                settings=preset.plan(),
                dry_run=True,
                overwrite=True,
            )

    def pretrained(self, name: str, seed: int) -> Path | None:
        """The run that an arm starts from."""
        arm, run = ARMS[name], self.work / "pretraining" / f"{slug(name)}-{seed}"
        if not arm.method:
            return None
        if not (run / "report.html").exists():
            settings = [*arm.settings, *([f"settings.points={self.preset.points}"] if arm.dense else ())]
            scantling.pretrain(
                self.views, run, method=arm.method, seed=seed, steps=self.preset.pretraining, plan=self.plan,
                settings=settings, quiet=False, overwrite=True,
            )  # fmt: skip
        return run

    def tuned(self, name: str, k: int | None, seed: int) -> RunResult:
        """A network fine-tuned on `k` expert cases, or trained on all."""
        tune = "frozen" if k == FEWEST and ARMS[name].method else "full"
        run = self.work / "tuned" / f"{slug(name)}-{k or 'all'}-{seed}{'' if tune == 'full' else f'-{tune}'}"
        if not (run / "report.html").exists():
            start = None if name == FULL else self.pretrained(name, seed)
            scantling.train(
                self.data, run, recipe="supervised", init=start, tune=tune, labels=k, seed=seed, plan=self.plan,
                steps=self.preset.full if name == FULL else self.preset.tuning,
                settings=TUNING if name == FULL else ARMS[name].tuning, quiet=False,
                overwrite=True,
            )  # fmt: skip
        return RunResult.read(RunFolder.open(run))

    def fill(self, arms: Sequence[str], seeds: Sequence[int]) -> None:
        """Every run that is not in the files yet."""
        done = {(row["arm"], row["k"], row["seed"]) for row in read(self.preset.runs)}
        wanted = [(FULL, None), *((name, k) for name in arms for k in BUDGETS)]
        for seed in seeds:
            for name, k in wanted:
                again = name in ARMS and ARMS[name].once and seed != seeds[0]
                if not again and (name, str(k or "all"), str(seed)) not in done:
                    result = self.tuned(name, k, seed)
                    self.record(name, k or "all", seed, result.status, result.evaluation)
            start = self.pretrained("segmentation", seed) if "segmentation" in arms else None
            if start is not None and (DIRECT, "0", str(seed)) not in done:
                scored = self.direct(start)
                self.record(DIRECT, 0, seed, RunFolder.open(start).status(), scored)

    def direct(self, run: Path) -> Evaluation:
        """What a network that learnt from silver masks scores as it is."""
        out = run / "predictions-of-test"
        scantling.predict(run, self.test, out, overwrite=True)
        scored = scantling.evaluate(out, self.test)
        if not isinstance(scored, Evaluation):
            raise TypeError("an evaluation without another one beside it")
        return scored

    def record(
        self, name: str, k: int | str, seed: int, status: Mapping[str, Any], evaluation: Evaluation | None
    ) -> None:
        """Add the test cases of a run, one line each, and the run itself."""
        if evaluation is None or evaluation.missing:
            raise SystemExit(f"{name}: not every test case was scored, so nothing is written down")
        scores = {metric: evaluation.values(metric=metric) for metric in METRICS}
        of_run = {"arm": name, "k": k, "seed": seed}
        append(
            self.preset.cases,
            [
                {
                    **of_run, "case": case, "patient": evaluation.patients[case], "site": site, "finding": finding,
                    **{metric: f"{rows[case].value:.4f}" for metric, rows in scores.items()},
                }
                for case, (site, finding) in self.sites.items()
            ],
        )  # fmt: skip
        machine = status["environment"]
        line = {
            **of_run,
            "steps": status["steps"],
            "training_seconds": status["training_seconds"],
            "size": self.preset.size,
            "version": scantling.__version__,
            "machine": f"{machine['cores']} cores, {machine['memory_gib']} GiB, {status['device']}, "
            f"torch {machine['versions']['torch']}",
        }
        append(self.preset.runs, [line])


def slug(name: str) -> str:
    """A folder's name."""
    return name.replace(", ", "-").replace(" ", "-")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none if there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add rows; the header is that of the first."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, lines[0].keys())
        if new:
            writer.writeheader()
        writer.writerows(lines)


class Scores:
    """Means of groups of test cases, and what whole patients drawn anew make of them.

    A case's score is its mean over seeds; all arms see the same draws, so that differences are paired.
    """

    def __init__(self, rows: Iterable[Mapping[str, str]]) -> None:
        self.values: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
        self.group: dict[str, set[str]] = {}
        self.patient: dict[str, str] = {}
        self.seeds: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            self.patient[row["case"]] = row["patient"]
            for group in groups_of(row["site"], row["finding"]):
                self.group.setdefault(group, set()).add(row["case"])
            self.seeds.setdefault((row["arm"], row["k"]), set()).add(row["seed"])
            for metric in METRICS:
                of = self.values.setdefault((row["arm"], row["k"], metric), {})
                of.setdefault(row["case"], {})[row["seed"]] = float(row[metric])

    def draws(
        self, arm: str, k: str, group: str, metric: str = "dice", seeds: Collection[str] | None = None
    ) -> np.ndarray:
        """The mean of a group, then of each of the draws of its patients (NaN values take no part).

        Args:
            seeds: None is all there are.
        """
        kept = self.seeds[arm, k] if seeds is None else seeds
        of = {case: _mean(found[seed] for seed in kept) for case, found in self.values[arm, k, metric].items()}
        cases = sorted(self.group[group])
        names, owner = np.unique([self.patient[case] for case in cases], return_inverse=True)
        rng = np.random.default_rng(0)
        times = np.stack(
            [np.ones(len(names)), *rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)]
        )[:, owner]
        values = np.array([of[case] for case in cases])
        known = np.isfinite(values)
        return np.asarray((times[:, known] @ values[known]) / times[:, known].sum(axis=1))

    def closed(self, arm: str, k: str, group: str, base: str = "scratch") -> np.ndarray:
        """The share of the gap from scratch to full supervision that an arm closes; over the seeds all three have."""
        shared = self.seeds[arm, k] & self.seeds[base, k] & self.seeds[FULL, "all"]
        own, below, above = (
            self.draws(name, of, group, seeds=shared) for name, of in ((arm, k), (base, k), (FULL, "all"))
        )
        return np.asarray((own - below) / (above - below))


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _interval(draws: np.ndarray, digits: int = 3, scale: float = 1.0) -> str:
    low, high = np.percentile(draws[1:], (2.5, 97.5)) * scale
    return f"{draws[0] * scale:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(scores: Scores) -> list[str]:
    """The tables as lines of Markdown."""
    names = [name for name in (*ARMS, DIRECT, FULL) if any(arm == name for arm, _ in scores.seeds)]
    lines = []
    for k in ("1", "4", "16"):
        head = ["arm", "seeds", "Wingspan", "gap closed, %", "from faster scratch, %", "Shenzhen fold"]
        head += ["its normal", "its TB", "COVID-19", "HD95", "ASSD"]
        lines += [f"**{k} expert case{'s' * (k != '1')}.** Dice; distances in pixels of 512, Wingspan.", ""]
        lines += [row_of(head), row_of(["---"] * len(head))]
        for name in names:
            own = "all" if name == FULL else "0" if name == DIRECT else k
            if (name, own) not in scores.seeds:
                continue
            cells = [name, str(len(scores.seeds[name, own])), _interval(scores.draws(name, own, "unseen scanners"))]
            for base in ("scratch", FASTER_SCRATCH):
                known = {(base, k), (FULL, "all")} <= scores.seeds.keys()
                if known and name not in (base, "scratch", DIRECT, FULL):
                    cells.append(_interval(scores.closed(name, k, "unseen scanners", base), 0, 100))
                else:
                    cells.append("")
            cells += [f"{scores.draws(name, own, group)[0]:.3f}" for group in list(GROUPS)[1:]]
            cells += [f"{scores.draws(name, own, 'unseen scanners', metric)[0]:.1f}" for metric in METRICS[1:]]
            lines.append(row_of(cells))
        lines.append("")
    return lines


def row_of(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def summary(scores: Scores) -> list[str]:
    """A table in short: the share of the gap on unseen scanners that each arm closes, with each number of cases."""
    counts = sorted(BUDGETS)
    lines = [row_of(["features by", "labels read", *(f"{k} case{'s' * (k != 1)}" for k in counts)])]
    lines.append(row_of(["---"] * (2 + len(counts))))
    for name, arm in ARMS.items():
        if arm.method and not arm.once and all((name, str(k)) in scores.seeds for k in counts):
            labels = "silver masks" if RECIPES[arm.method.replace("-", "_")].from_labels else "none"
            shares = [_interval(scores.closed(name, str(k), "unseen scanners"), 0, 100) for k in counts]
            _, comma, views = name.partition(",")
            lines.append(row_of([f"{arm.method}{comma}{views}", labels, *shares]))
    return [*lines, ""]


def write_page() -> None:
    """Put the tables between their marks in the pages."""
    for preset in (CPU, GPU):
        if preset.cases.exists():
            scores = Scores(read(preset.cases))
            write_between(PAGE, f"cxr-{preset.name}", table(scores))
            write_between(README, f"cxr-{preset.name}", summary(scores))


def write_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put lines between the marks of that name in a page, if it has them."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    before, found, rest = text.partition(begin)
    if found:
        made = "\n".join(lines)
        page.write_text(f"{before}{begin}\n\n{made}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Fill what is missing, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="?", type=Path, default=Path("runs") / "cxr-benchmark")
    parser.add_argument("--gpu", action="store_true", help="the preset for a GPU")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=";".join(ARMS), help="names, with ; between them")
    parser.add_argument("--table", action="store_true", help="only write the table")
    asked = parser.parse_args()
    if not asked.table:
        bench = Bench(asked.work.resolve(), GPU if asked.gpu else CPU)
        bench.fill(asked.arms.split(";"), [int(seed) for seed in asked.seeds.split(",")])
    write_page()


if __name__ == "__main__":
    main()
