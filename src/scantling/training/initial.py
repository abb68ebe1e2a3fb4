"""What a run starts from: the weights of another run, the plan they were learnt under, and whom they have seen."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from scantling.data.plan import Plan
from scantling.data.splits import Split
from scantling.errors import ConfigError
from scantling.files import sha256_file, write_atomic
from scantling.inference.model_folder import FEATURES, SEGMENTATION, WEIGHTS, read_model_facts
from scantling.networks import TransferReport, UNet, fix_parts, load_initial, untrained
from scantling.sealed_folder import DESCRIPTION, MODEL, find_model_folder
from scantling.training.config import RunConfig
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder
from scantling.training.seen import Learnt, image_checksums, learnt_by, require_unseen

TABLE: Final = "transfer.txt"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights to start from, and what is known of them.

    Attributes:
        name: as it was given, for messages.
        weights: the file.
        sha256: of it.
        plan: the one to obey; None where a file was given, which is taken for what fits.
        classes: what its heads tell apart, if they are to be taken: those of pretraining never are. None where nobody
            says.
        recipe: the method; "" where nobody says.
        learnt: None where nobody says.
    """

    name: str
    weights: Path
    sha256: str = ""
    plan: Plan | None = None
    classes: tuple[str, ...] | None = None
    recipe: str = ""
    learnt: Learnt | None = None

    @classmethod
    def read(cls, path: Path) -> Start:
        """From a run folder, its model folder, or a file of weights.

        Raises:
            DataError: there are no weights, or they are of a model that makes images.
            IntegrityError: the folder is damaged.
        """
        if not path.is_dir():
            beside = path.name == WEIGHTS and (path.parent / DESCRIPTION).is_file()
            known = cls.read(path.parent) if beside else None
            return cls(
                name=path.name,
                weights=path,
                sha256=sha256_file(path) if path.is_file() else "",
                classes=known.classes if known else None,
                recipe=known.recipe if known else "",
                learnt=known.learnt if known else None,
            )
        folder = find_model_folder(path)
        facts = read_model_facts(folder, kinds=(SEGMENTATION, FEATURES))
        pretrained = FEATURES in (facts.kind, facts.meta.get("learns"))
        run = folder.parent if folder.name == MODEL and (folder.parent / "splits.json").is_file() else None
        return cls(
            name=path.name if path.name != MODEL else f"{path.parent.name}/{MODEL}",
            weights=folder / WEIGHTS,
            sha256=facts.weights_sha256,
            plan=facts.plan,
            classes=() if pretrained else facts.plan.classes.names,
            recipe=str(facts.meta.get("recipe", "")),
            learnt=None if run is None else learnt_by(run, chosen=bool(facts.meta.get("selected_on"))),
        )

    def fill(self, network: nn.Module, plan: Plan) -> TransferReport:
        """Copy what fits into a network of the plan; heads only if they tell the same classes apart."""
        heads = self.classes is None or self.classes == plan.classes.names
        return load_initial(network, self.weights, plan.network, heads=heads)

    def sentence(self, config: RunConfig) -> str:
        """For the card: name, method, checksum, and what of it was trained."""
        facts = [self.recipe, f"SHA-256 {self.sha256[:12]}" if self.sha256 else ""]
        of = ", ".join(fact for fact in facts if fact)
        kept = {"full": "", "frozen": "; its encoder stayed as it was", "linear-probe": "; all of it stayed as it was"}
        return f"{self.name}{f' ({of})' if of else ''}{kept[config.tune]}"


def start_of(config: RunConfig) -> Start | None:
    """What a run is to start from; None for weights drawn by chance.

    Raises:
        ConfigError: something is to be kept as it was, and there is nothing to keep.
    """
    if config.init is None:
        if config.tune != "full":
            raise ConfigError(
                f"tune {config.tune!r}: keeps parts of what the run starts from, and it starts from nothing; give "
                "--init RUN",
                code="E-CFG-70",
            )
        return None
    return Start.read(Path(config.init))


def check_start(start: Start, config: RunConfig, split: Split, run: RunFolder, display: Display) -> None:
    """Refuse weights that have seen whom they are to be scored on; record what the run starts from.

    Raises:
        DataError: they have, and leaks are not allowed.
    """
    require_unseen(
        start.learnt, split, image_checksums(run.data_sheet),
        name=start.name, allow_leak=config.data.allow_leak, say=display.say,
    )  # fmt: skip
    run.update(started_from=start.sentence(config))
    if run.writable:
        (start.learnt or Learnt()).save(run.path, name=start.name, sha256=start.sha256, recipe=start.recipe)


def begin(
    network: nn.Module, plan: Plan, config: RunConfig, start: Start | None, *, run: RunFolder, display: Display
) -> None:
    """Fill a network with what the run starts from, and keep from training what `tune` says.

    What became of each tensor is said in short, and in full in `transfer.txt`.

    Args:
        start: None for weights drawn by chance, and for a run that goes on from a checkpoint.

    Raises:
        ConfigError: the method's network has no encoder to be kept.
    """
    report = None if start is None else start.fill(network, plan)
    if report is not None:
        display.say(report.brief())
        if run.writable:
            write_atomic(run.path / TABLE, str(report).encode())
    if config.tune == "full":
        return
    if not isinstance(network, UNet):
        raise ConfigError(
            f"tune {config.tune!r}: the network of {config.recipe} has no encoder and decoder; leave it out",
            code="E-CFG-71",
        )
    unlearnt = run.status().get("unlearnt", [])
    if report is not None:
        unlearnt = [level for level in network.taps if not _has_learnt(level, report)]
        run.update(unlearnt=unlearnt)
        if unlearnt:
            display.say(f"Note: {', '.join(unlearnt)} had not been learnt there, and are trained as well.")
    fix_parts(network, config.tune, unlearnt=unlearnt)
    kept = untrained(network) - {name for name in network.state_dict() if name.startswith("heads.")}
    by_chance = [] if report is None else [row.name for row in report.rows if row.name in kept and not row.is_taken]
    if by_chance:
        display.say(
            f"Note: {len(by_chance)} tensors that --tune {config.tune} keeps as they are were not in the file, such as "
            f"{by_chance[0]}; they stay as chance drew them."
        )


def _has_learnt(level: str, report: TransferReport) -> bool:
    return any(row.is_taken and row.name.startswith(f"{level}.") for row in report.rows)


def how_to_use(run: Path) -> str:
    """The command that goes on from a pretrained run."""
    return f"scantling train DATA --init {shlex.quote(str(run))}"
