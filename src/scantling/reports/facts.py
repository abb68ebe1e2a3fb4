"""Everything a report says, read once from a run folder; a file that is not there leaves its part out."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scantling.errors import IntegrityError
from scantling.evaluation.results import Evaluation
from scantling.files import read_json, sha256_file
from scantling.reports.pictures import INDEX, PICTURES, RELIABILITY
from scantling.reports.privacy import without_paths
from scantling.training.run_folder import RunFolder

HASHED: Final = (
    "config.toml",
    "plan.json",
    "splits.json",
    "data.lock.json",
    "metrics.csv",
    "model/model.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An overlay of one case: which slice of how many, why it was chosen, and the PNG itself.

    Attributes:
        role: "worst" or "median".
        slice_number: from 1; `n_slices` is 1 for a picture.
        enlarged: whether only the part around the structures is shown.
    """

    case_id: str
    role: str
    slice_number: int
    n_slices: int
    png: bytes
    enlarged: bool = False


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run.

    Attributes:
        status: the content of `run.json`.
        config, plan, split, data_sheet: as the run folder holds them; empty where the file is missing.
        epochs: the "epoch" events of the log, in order; `events`: every other event.
        evaluation: None if nothing was held out.
        without_picture: sentences on cases that could not be drawn.
        reliability: confidence, observed frequency and pixel count by bin; empty if not measured.
        hashes: SHA-256 of the files that decide the run, by their name in the run folder.
    """

    status: Mapping[str, Any]
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    split: Mapping[str, Any]
    data_sheet: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    pictures: Sequence[Picture]
    without_picture: Sequence[str]
    reliability: Mapping[str, Sequence[float]]
    hashes: Mapping[str, str]

    @property
    def of_images(self) -> bool:
        """Whether the run learnt images, and not how to segment them."""
        return self.plan.get("kind") == "image_model"

    @property
    def of_features(self) -> bool:
        """Whether the run learnt features, and not yet how to segment."""
        return self.status.get("learns") == "features"

    @property
    def classes(self) -> tuple[str, ...]:
        """Foreground classes of the plan, in the order of their colours."""
        return tuple(self.plan.get("classes", {}).get("names", ()))[1:]


def read_facts(path: Path, *, with_paths: bool = False) -> RunFacts:
    """The facts of a run folder; texts lose paths and file names unless `with_paths`.

    Raises:
        DataError: the path is not a run folder.
        IntegrityError: a file in it is damaged.
    """
    run = RunFolder.open(path)
    log = list(run.read_log())
    pictures, left_out = _pictures(path / PICTURES)
    facts = RunFacts(
        status=run.status(),
        config=_toml(run.config),
        plan=_json(run.plan),
        split=_json(run.split),
        data_sheet=_json(run.data_sheet),
        epochs=[event for event in log if event.get("event") == "epoch"],
        events=[event for event in log if event.get("event") != "epoch"],
        evaluation=Evaluation.load(run.metrics, run.evaluation) if run.evaluation.is_file() else None,
        pictures=pictures,
        without_picture=left_out,
        reliability=_json(path / PICTURES / RELIABILITY),
        hashes={name: sha256_file(path / name) for name in HASHED if (path / name).is_file()},
    )
    return facts if with_paths else _cleaned(facts, path)


def _cleaned(facts: RunFacts, path: Path) -> RunFacts:
    """The facts without any path or file name of this machine."""
    cases = facts.data_sheet.get("cases", ())
    files = [name for case in cases for name in case.get("images", ())]
    files += [label.get("file", "") for case in cases for label in case.get("labels", ())]
    roots = [str(facts.config.get("data", {}).get("path", "")), str(path.resolve()), str(path)]

    def clean(value: Any) -> Any:
        return without_paths(value, roots=roots, files=files)

    evaluation = facts.evaluation
    if evaluation is not None:
        problems = tuple(replace(p, message=clean(p.message)) for p in evaluation.problems)
        evaluation = replace(evaluation, problems=problems, notes=tuple(map(clean, evaluation.notes)))
    sheet = {key: value if key == "cases" else clean(value) for key, value in facts.data_sheet.items()}
    return replace(
        facts, status=clean(facts.status), config=clean(facts.config), plan=clean(facts.plan),
        events=clean(facts.events), without_picture=clean(facts.without_picture), data_sheet=sheet,
        evaluation=evaluation, split={**facts.split, "sentence": clean(facts.split.get("sentence", ""))},
    )  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path}: not valid TOML ({error})", code="E-CHK-02") from None


def _pictures(folder: Path) -> tuple[list[Picture], list[str]]:
    index = _json(folder / INDEX)
    pictures = []
    for entry in index.get("pictures", ()):
        file = folder / Path(str(entry["file"])).name  # nothing outside the folder, whatever the index says
        if file.is_file():
            pictures.append(
                Picture(
                    case_id=str(entry["case"]), role=str(entry["role"]), slice_number=int(entry["slice"]),
                    n_slices=int(entry["n_slices"]), png=file.read_bytes(),
                    enlarged=bool(entry.get("enlarged", False)),
                )
            )  # fmt: skip
    return pictures, [f"case {left['case']}: {left['reason']}" for left in index.get("left_out", ())]
