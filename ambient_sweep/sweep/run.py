"""Runs a sweep from its start to its report, or continues one that was interrupted.

The folder of a sweep holds its whole state: `sweep.yaml`, Optuna's journal and the trials' own records and training
states. `resume_sweep` starts from these and not from Tune's snapshots, which lag behind, are pickles, and when damaged
make Tune start the whole experiment again without a word.
"""

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ambient_sweep.config.files import lasting_path
from ambient_sweep.errors import AmbientSweepError, Resumable, UserError, errors_of
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.results.export import export_tables
from ambient_sweep.results.frontier.candidates import candidates, frontier
from ambient_sweep.results.frontier.rival import what_noise_buys
from ambient_sweep.results.frontier.select import select, untouched_line, write_best
from ambient_sweep.results.report.frontier_plot import frontier_pictures
from ambient_sweep.results.report.page import write_report
from ambient_sweep.results.tables import schema
from ambient_sweep.storage import remove, remove_leftovers, write_atomic
from ambient_sweep.sweep.board import show_frontier
from ambient_sweep.sweep.confirmation import Plan
from ambient_sweep.sweep.folder import (
    DRIVER_LOCK,
    RAY_FOLDER,
    check_unchanged,
    check_within,
    claim,
    has_trials,
    note_begun,
    sweep_folder,
)
from ambient_sweep.sweep.importance import importance
from ambient_sweep.sweep.running.signals import Stopped, stop_signals
from ambient_sweep.sweep.search.samplers import try_sampler
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import SWEEP_FILE, load_sweep, write_sweep
from ambient_sweep.sweep.space.validation import check_space
from ambient_sweep.sweep.standing import SESSION_FILE
from ambient_sweep.sweep.tracking import check_tracker
from ambient_sweep.terminal import current_screen
from ambient_sweep.text import command, counted
from ambient_sweep.trial.records import read_trials
from ambient_sweep.trial.retention import CHECKPOINTS, discard

Echo = Callable[[str], None]
BEST_FILE, REPORT_FILE = "best.yaml", "report.html"
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep came to. Rows are those of the evaluations table."""

    root: Path
    counts: dict[str, int]  # trials by status
    frontier: list[dict[str, Any]]  # by rising memorization
    best: dict[str, Any] | None  # the knee; None where nothing was measured
    best_reason: str
    noise: str  # what it buys over clean training, in a sentence
    untouched: str  # what the untouched base of LoRA measures, in a sentence; else empty
    files: dict[str, Path]  # what was written, by name


def run_sweep(sweep: Sweep, storage: Path, *, echo: Echo = print) -> SweepSummary:
    """Runs a new sweep in `<storage>/<name>`; in the block of a live `Screen`, with a display.

    The folder must be seen under the same path by every node of the cluster, since trials write there; it is made
    absolute, as the workers' working directory is another. Raises UserError, before any training, for a config that fails
    at a corner of the space, a name that is taken, storage that cannot be written, bad images and a cluster that is too
    small; AmbientSweepError if it was interrupted or every trial failed.
    """
    from ambient_sweep.sweep.running.cluster import check_address, only_driver
    from ambient_sweep.trial.setup import cached_data, check_evaluation, check_trials

    configs = check_space(sweep)
    with errors_of(sweep.where):
        try_sampler(sweep.space, sweep.search)
    check_address()
    again = command("resume", storage / sweep.name)
    root = claim(lasting_path("--storage", storage) / sweep.name, f"`{again}` continues it")
    with only_driver(root):
        try:
            fetch_folder(root)
            for left in root.iterdir():  # by one that was killed
                if left.name != DRIVER_LOCK:
                    remove(left)
            note_begun(sweep, root)  # first: what has a sweep.yaml can be resumed
            write_sweep(sweep, root / SWEEP_FILE)
            echo(f"reading the images in {configs[0].data.path or configs[0].data.source}")
            with errors_of(sweep.where):
                check_evaluation(check_trials(configs), configs[0].evaluation)
            if configs[0].resources.gpus:
                cached_data.cache_clear()  # their trials prepare and train elsewhere
            return _run(sweep, root, echo)
        except (Stopped, KeyboardInterrupt) as error:
            if has_trials(root):
                raise
            why = str(error).partition("; `")[0] or "interrupted"
            raise AmbientSweepError(f"{why}, before anything was trained") from None
        finally:
            if not has_trials(root):  # there is nothing to lose, and the name is free again
                remove(root)


def resume_sweep(root: Path, changes: Mapping[str, Any] | None = None, *, echo: Echo = print) -> SweepSummary:
    """Continues the sweep in `root`, or extends it by `changes` of its `search.*` and `confirm.*` and wider ranges.

    model.base may name another folder that holds the same base.
    Trials that ended are kept; interrupted ones and those whose worker failed continue from their last training state. A
    finished sweep only gets its tables and report again. Raises as `run_sweep`.
    """
    from ambient_sweep.sweep.running.cluster import only_driver
    from ambient_sweep.trial.setup import check_trials

    root = sweep_folder(lasting_path("FOLDER", root))
    check_within(root)
    for key in changes or {}:
        if not key.startswith(("search.", "confirm.", "space.")) and key != "model.base":
            raise UserError(
                f"{key}: a sweep that has begun takes changes of search.* (as in search.trials=40), confirm.*, wider "
                "space.* and, where the same base lies elsewhere now, model.base only"
            )
    sweep = load_sweep(root / SWEEP_FILE, changes)
    check_unchanged(sweep, root)
    if changes:
        try_sampler(sweep.space, sweep.search)
    if "model.base" in (changes or {}):
        check_trials([sweep.some_config()])
    with only_driver(root):
        return _run(sweep, root, echo)


def _run(sweep: Sweep, root: Path, echo: Echo) -> SweepSummary:
    from ambient_sweep.sweep.running.cluster import check_address, quiet_tune, ray_output_to, ray_session
    from ambient_sweep.sweep.running.faults import check_storage, outlast
    from ambient_sweep.sweep.running.preflight import preflight, this_machine
    from ambient_sweep.sweep.running.session import run_session
    from ambient_sweep.trial.setup import prepare, preparing

    begun = time.monotonic()
    with stop_signals() as stop:
        outlast(root, sweep.search, lambda: check_storage(root), echo, stop)
        if _is_finished(sweep, root):
            note_begun(sweep, root)
            write_sweep(sweep, root / SWEEP_FILE)
            echo(f"{root}: this sweep is finished; writing its tables and report again")
            return _finish(sweep, root, echo)
        check_tracker(sweep)
        check_address()
        config = sweep.some_config()
        if not config.resources.gpus:
            echo(preparing(config))
            for line in prepare(config, root):  # before Ray starts: bad images are reported immediately
                echo(line)
        quiet_tune()
        address = os.environ.get("RAY_ADDRESS")
        if address is None:
            preflight(sweep, this_machine(), root, [trial for trial in read_trials(root) if trial.ended])
        echo(f"connecting to Ray at {address}" if address else "starting Ray on this machine")
        stopped, screen = None, current_screen(echo)
        with (
            ray_output_to(root / RAY_FOLDER / "output.log"),
            ray_session(dashboard=config.resources.workers > 1),
        ):
            try:
                outlast(root, sweep.search, lambda: run_session(sweep, root, screen, stop, begun), screen.line, stop)
            except Stopped as error:
                stopped = error
        if stopped is None or (not stopped.storage and _is_finished(sweep, root)):
            return _finish(sweep, root, echo)
        if not stopped.storage:
            summarize(root)
        raise Stopped(f"{stopped}; `{command('resume', root)}` continues from here")


def _finish(sweep: Sweep, root: Path, echo: Echo) -> SweepSummary:
    """The summary of a finished sweep, whose folder keeps what `search.keep` says."""
    summary = summarize(root)
    remove(root / SESSION_FILE)
    remove_leftovers(root, "**/")
    if sweep.search.keep == "frontier":
        removed = discard(root, {row[schema.CHECKPOINT] for row in summary.frontier})
        if removed:
            count = sum(folder.parent.name == CHECKPOINTS for folder in removed)
            echo(
                f"removed stages, training states and {counted(count, 'checkpoint')} off the frontier (search.keep=frontier)"
            )
    return summary


def _is_finished(sweep: Sweep, root: Path) -> bool:
    """Whether nothing is left to search or to confirm, by the records."""
    from ambient_sweep.sweep.running.session import confirmation, open_search

    return not open_search(sweep, root).left and confirmation(sweep, root) == Plan()


def summarize(root: Path) -> SweepSummary:
    """Writes tables, picture, report and the knee's config from the trials' records, and says what there is.

    Raises AmbientSweepError, naming the first reason, if there are trials and every one failed; UserError for a file that
    cannot be written, Resumable where the disk is full.
    """
    try:
        return _summarize(root)
    except OSError as error:
        raise (Resumable if error.errno in FULL else UserError)(
            f"{error.filename or root}: cannot be written ({error.strerror or error}); "
            f"`{command('report', root)}` makes tables and report once it can"
        ) from None


def _summarize(root: Path) -> SweepSummary:
    tables = export_tables(root)
    trials = read_trials(root)
    counts = Counter(trial.status for trial in trials)
    failed = [trial for trial in trials if trial.status == "failed"]
    files = {name: root / name for name in ("trials.parquet", "evaluations.parquet")}
    space = load_sweep(root / SWEEP_FILE).space if (root / SWEEP_FILE).exists() else {}
    untouched = untouched_line(tables.evaluations)
    report = partial(
        write_report, root / REPORT_FILE, tables,
        best_file=root / BEST_FILE, untouched=untouched, searched=list(space),
        importance=importance(tables.evaluations, space),
    )  # fmt: skip
    if candidates(tables.evaluations).num_rows == 0:
        reason = "nothing was measured yet"
        if trials and len(failed) == len(trials):
            first = min(failed, key=lambda trial: trial.started)
            which = f"all {len(trials)} trials failed, the first" if len(trials) > 1 else "the only trial failed"
            reason = f"{which} ({first.trial_id}): {first.reason}"
            report(choice=None, sentence=reason)
            raise AmbientSweepError(f"{root}: {reason}")
        report(choice=None, sentence=reason)
        return SweepSummary(
            root, dict(counts), [], None, reason, "", untouched, files | {REPORT_FILE: root / REPORT_FILE}
        )
    choice = select(tables.evaluations, "knee")
    noise = what_noise_buys(tables.evaluations, choice)
    write_best(choice, "knee", root.name, root / BEST_FILE)
    pictures = {f"frontier.{suffix}": data for suffix, data in frontier_pictures(tables.evaluations).items()}
    for name, data in pictures.items():
        write_atomic(root / name, data)
    show_frontier(root, sum(trial.images_executed for trial in trials), pictures["frontier.png"])
    report(choice=choice, sentence=noise)
    files |= {name: root / name for name in (*pictures, BEST_FILE, REPORT_FILE)}
    rows = frontier(tables.evaluations).to_pylist()
    return SweepSummary(root, dict(counts), rows, choice.row, choice.reason, noise, untouched, files)
