"""The road from a folder to a validated model: gather, train, score what was held out."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from scantling.errors import ConfigError, DataError, Interrupted, ScantlingError
from scantling.files import disk_errors, read_json, write_json
from scantling.inference.device import resolve_device
from scantling.processes import launched, process_count, process_rank
from scantling.recipes import parse_settings
from scantling.training.checkpoint import has_checkpoint
from scantling.training.config import RunConfig
from scantling.training.distributed import agree, joined_processes, lost_process_named, wait_for_all
from scantling.training.environment import command_line, environment
from scantling.training.forecast import forecast
from scantling.training.interruption import BrokenOff, StopSignals, stop_signals
from scantling.training.loop import Loop
from scantling.training.loop_state import LoopConfig
from scantling.training.memory_budget import fit_budget
from scantling.training.progress import Display, Silent
from scantling.training.road import Road, loop_config
from scantling.training.roads import road_of
from scantling.training.run_folder import TOO_SHORT, RunFolder, now
from scantling.training.run_lock import run_lock


def start(
    config: RunConfig,
    out: Path,
    *,
    plan: Path | None = None,
    overwrite: bool = False,
    around: Collection[str] = (),
    display: Display | None = None,
    dry_run: bool = False,
) -> RunFolder:
    """Begin a run in a new folder and carry it to the end.

    Args:
        around: names in the folder that are none of this run's, and stay whatever happens.
        plan: `plan.json` of another run, edited or not, to be obeyed instead of deriving one.

    Raises:
        ConfigError: the folder is in use, there is no such recipe, or a setting does not fit the data.
        DataError: nothing to train on.
        Interrupted: stopped by a signal, or another process of the run ended; `resume` goes on.
    """
    parse_settings(config.recipe, config.settings)
    given = None if plan is None else road_of(config.recipe).plan_type.parse(read_json(plan), where=str(plan))
    with joined_processes(resolve_device(config.device)) as device:
        if process_rank() == 0:
            RunFolder.create(out, overwrite=overwrite, around=around)
        wait_for_all()
        run = RunFolder(out, writable=process_rank() == 0)
        display = display or Silent()
        with _alone_in(run, display), _removed_if_refused(run, around):
            if run.writable:
                config.save(run.config)
                if given is not None:
                    write_json(run.plan, given.model_dump(mode="json"))
                run.update(
                    status="preparing",
                    command=command_line(),
                    started=now(),
                    environment=environment(),
                    recipe=config.recipe,
                    seed=config.seed,
                )
            return _carry(run, config, device, display, dry_run=dry_run)


def resume(
    path: Path, *, steps: int | None = None, seconds: float | None = None, display: Display | None = None
) -> RunFolder:
    """Go on with an interrupted run, with the settings it was started with, or make any run longer.

    Args:
        steps: new length of a run that is measured in steps.
        seconds: what a run that is measured in time gets on top of it.

    Raises:
        DataError: the path is not a run folder, or the run is finished and is not to become longer.
        ConfigError: `steps` for a run by the clock, or `seconds` for one by steps.
        PlanMismatch: the data changed since the run was started.
    """
    run = replace(RunFolder.open(path), writable=launched()[0] == 0)
    display = display or Silent()
    with _alone_in(run, display):
        for sentence in run.verify() if run.writable else ():
            display.say(sentence)
        config = RunConfig.load(run.config)
        longer = _longer(run, config, steps, seconds)
        if run.status()["status"] == "finished" and longer is None:
            raise DataError(
                f"{path.name}: the run is finished; make it longer with --steps or --time, start a new one with "
                "'train', or use its model with 'predict'",
                code="E-RUN-02",
            )
        with joined_processes(resolve_device(config.device)) as device, _threads(run.status().get("threads")):
            return _carry(run, config, device, display, longer=longer)


@contextlib.contextmanager
def _alone_in(run: RunFolder, display: Display) -> Iterator[None]:
    """Within the block no other run is in the folder."""
    with run_lock(run.path) if run.writable else contextlib.nullcontext("") as caution:
        if caution:
            display.say(caution)
        yield


@contextlib.contextmanager
def _removed_if_refused(run: RunFolder, around: Collection[str]) -> Iterator[None]:
    """A new run that is refused before its first step leaves nothing behind, so its name is free again.

    To be entered with the lock held: the folder is then nobody else's.
    """
    try:
        yield
    except (ConfigError, DataError):
        if run.writable and not has_checkpoint(run.checkpoints):
            _remove_all_but(around, run.path)
        raise


def _remove_all_but(around: Collection[str], folder: Path) -> None:
    if not around:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.name in around:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Within the block torch computes with so many threads: a convolution's weight gradient is summed per thread,
    so its last bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _longer(run: RunFolder, config: RunConfig, steps: int | None, seconds: float | None) -> LoopConfig | None:
    if steps is None and seconds is None:
        return None
    now_ = loop_config(run, config)
    if (now_.steps is None) != (steps is None) or (seconds is not None and steps is not None):
        kind, option = ("time", "--time") if now_.steps is None else ("steps", "--steps")
        raise ConfigError(f"{run.path.name}: its length is measured in {kind}; give {option} alone", code="E-CFG-31")
    if steps is not None:
        return now_.model_copy(update={"steps": steps})
    return now_.model_copy(update={"seconds": (now_.seconds or 0.0) + (seconds or 0.0)})


def _carry(
    run: RunFolder,
    config: RunConfig,
    device: torch.device,
    display: Display,
    *,
    longer: LoopConfig | None = None,
    dry_run: bool = False,
) -> RunFolder:
    began = time.monotonic()
    display = display if run.writable else Silent()
    try:
        with stop_signals() as stop, lost_process_named(), disk_errors(run.path):
            _carry_on(run, config, device, display, stop, began, longer=longer, dry_run=dry_run)
    except BrokenOff:
        sentence = f"stopped while {run.status()['status']}; {run.how_to_resume}"
        run.update(status="interrupted", reason=sentence)
        raise Interrupted(sentence, code="E-INT-01") from None
    except Interrupted as error:
        run.update(status="interrupted", reason=error.message)
        raise
    except (ScantlingError, OSError) as error:
        with contextlib.suppress(ScantlingError, OSError):  # the disk may be what failed
            run.update(status="failed", reason=str(error))
        raise
    finally:
        display.close()
    return run


def _carry_on(
    run: RunFolder,
    config: RunConfig,
    device: torch.device,
    display: Display,
    stop: StopSignals,
    began: float,
    *,
    longer: LoopConfig | None,
    dry_run: bool,
) -> None:
    road = road_of(config.recipe)(run, config, device=device, display=display)
    with stop.breakable():
        _gather_in_turn(road)
    loop = road.loop(stop)
    resumed = has_checkpoint(run.checkpoints)
    if resumed:
        for complaint in loop.restore():
            display.say(complaint)
        display.say(f"Going on from step {loop.state.step}.")
    if config.budget_ram_gib is not None:
        budget = int(config.budget_ram_gib * 2**30)
        fitted = fit_budget(loop, road.later, budget=budget, resumed=resumed)
        display.say(fitted.sentence)
        run.append_log("fitted", parts=2**fitted.splits, workers=fitted.workers, sentence=fitted.sentence)
    if not resumed and config.time_seconds is not None:
        reserve = road.reserve_seconds(loop)
        left = config.time_seconds - (time.monotonic() - began) - reserve - 3 * loop.trial()
        _, seconds = agree(False, max(left, 0.2 * config.time_seconds))
        loop.config = loop.config.model_copy(update={"seconds": seconds})
    if longer is not None:
        _make_longer(run, config, loop, longer, display, resumed=resumed)
    needs = forecast(loop, road.later, folder=run.path)
    display.say(needs.sentence())
    needs.require(ram_gib=config.budget_ram_gib, disk_gib=config.budget_disk_gib)
    display.say(f"Validation: {road.sentence}")
    display.say(f"Stop any time with Ctrl-C; {run.how_to_resume}")
    run.update(
        status="training",
        device=str(device),
        processes=process_count(),
        precision=str(loop.precision or torch.float32),
        threads=torch.get_num_threads(),
        forecast={
            "seconds": round(needs.seconds, 1),
            "steps": needs.steps,
            "held_out_seconds": round(needs.held_out_seconds, 1),
            "memory_bytes": needs.memory,
            "memory_stage": needs.stage,
            "device_memory_bytes": needs.device_memory,
            "disk_bytes": needs.disk,
        },
        budget_seconds=loop.config.seconds,
    )
    if dry_run:
        run.update(status="dry run")
        return
    fewest = 0 if loop.config.steps is not None or resumed else loop.config.fewest_steps
    too_short, _ = agree(needs.steps < fewest, 0.0)
    if too_short:
        display.say(f"The time is too short: {needs.steps} steps are foreseen, training.fewest_steps is {fewest}.")
        seconds = round(time.monotonic() - began, 1)
        run.update(status=TOO_SHORT, reason=f"{needs.steps} steps foreseen, {fewest} wanted", seconds=seconds)
        return
    network = loop.run()
    if run.writable:
        road.finish(loop, network.eval(), stop=stop)
        run.update(status="finished", finished=now(), seconds=round(time.monotonic() - began, 1))


def _gather_in_turn(road: Road) -> None:
    """The first process prepares; the others find everything on disk."""
    if not road.run.writable:
        wait_for_all()
    road.gather()
    if road.run.writable:
        wait_for_all()
    if road.batch_size < process_count():
        raise ConfigError(
            f"plan.batch_size {road.batch_size}: smaller than the {process_count()} processes that share it; start "
            "fewer processes, or --set plan.batch_size to a multiple of their number",
            code="E-CFG-32",
        )


def _make_longer(
    run: RunFolder, config: RunConfig, loop: Loop, longer: LoopConfig, display: Display, *, resumed: bool
) -> None:
    if not resumed:
        loop.config = longer
    else:
        sentence = loop.extend(longer)
        display.say(sentence)
        run.append_log("extended", step=loop.state.step, sentence=sentence)
        loop.save()
    if run.writable:
        kept = {"steps": longer.steps} if longer.steps is not None else {"seconds": longer.seconds}
        changed = config.model_copy(update={"training": config.training.model_copy(update=kept)})
        run.rewrite(run.config.name, changed.to_toml().encode())
