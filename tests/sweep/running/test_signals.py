"""Signals to a sweep outside of Tune's loop: after the first, no new piece of work begins."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import good
from processes import end_session, session_of, wait_until
from small_sweeps import small_sweep

from ambient_sweep.results import read_table
from ambient_sweep.sweep.folder import note_begun
from ambient_sweep.sweep.running.session import confirmation, open_search
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.records import read_remeasurements, read_trials
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

pytestmark = pytest.mark.xdist_group("ray")

COMMAND = "from ambient_sweep.cli import main\nmain()\n"
LATE = """
import signal
from ambient_sweep.sweep.running import session
confirm = session.confirm
def late(*arguments):
    signal.raise_signal(signal.SIGINT)
    return confirm(*arguments)
session.confirm = late
"""
SMALL_MACHINE = """
import os
os.environ["SLURM_CPUS_PER_TASK"] = "1"
os.environ["HOME"], os.environ["TMPDIR"] = "/dev/null/home", os.path.abspath("x" * 100)
os.mkdir(os.environ["TMPDIR"])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command in a session of its own, after a script; whatever is left of those sessions at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def popen(*words: str | Path, before: str = "") -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", before + COMMAND, *map(str, words)]
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, text=True, start_new_session=True, cwd=tmp_path)
        started.append(process)
        return process

    yield popen
    for process in started:
        end_session(process)


def search_here(sweep: Sweep, root: Path, trials: int) -> None:
    """The whole search of a sweep of `trials`, in this process."""
    write_sweep(sweep, root / "sweep.yaml")
    note_begun(sweep, root)
    prepare(sweep.some_config(), root)
    search = open_search(sweep, root)
    for number in range(trials):
        trial = search.next(f"trial-{number}")
        assert trial is not None
        run_trial(sweep.config_for(trial.values), root, trial.trial_id, role=trial.role)


def test_no_measurement_and_no_training_begins_after_a_signal(tmp_path: Path, start: Start) -> None:
    sweep = small_sweep(tmp_path, "confirm: {samples: 50x, seeds: 1, top: 2}", search__trials=1)
    root = tmp_path / "runs" / "small"
    search_here(sweep, root, 2)
    planned = confirmation(sweep, root).remeasurements
    assert len(planned) > 2
    driver = start("resume", root)
    wait_until(lambda: bool(list(root.glob("trials/*/remeasured/*.json"))))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 75
    first, last = (tmp_path / "err").read_text().splitlines()
    assert first == "ending in order; a second signal ends at once"
    assert last == f"error: interrupted; `ambient-sweep resume {root}` continues from here"
    assert "starting workers" not in (tmp_path / "out").read_text(), "nothing is left to train"
    said = good("status", root).splitlines()
    assert said[0] == f"{root}: not running; `ambient-sweep resume {root}` continues it"
    again = f"confirm   measuring what could be on the frontier again, {len(planned)} checkpoints on 3,200"
    assert said[2].startswith(again)

    left = confirmation(sweep, root).remeasurements
    assert set(left) <= set(planned)
    assert left
    assert {trial.role for trial in read_trials(root)} == {"search", "baseline"}
    measured = {(each.trial_id, each.images) for each in read_remeasurements(root)}  # whole records
    assert {(each.trial_id, each.images) for each in planned} == measured | {(e.trial_id, e.images) for e in left}
    rows = read_table(root / "evaluations.parquet").to_pylist()
    assert measured == {(row["trial_id"], row["images"]) for row in rows if row["samples"] == 50 * 64}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_while_ray_starts_leaves_nothing(tmp_path: Path, start: Start, number: signal.Signals) -> None:
    write_sweep(small_sweep(tmp_path), tmp_path / "in.yaml")
    driver = start("run", tmp_path / "in.yaml")
    wait_until(lambda: len(session_of(driver.pid)) > 1)  # its first process
    driver.send_signal(number)
    assert driver.wait(60) == 1
    assert (tmp_path / "err").read_text().splitlines()[-1] == "error: interrupted, before anything was trained"
    assert not (tmp_path / "runs" / "small").exists()
    wait_until(lambda: not session_of(driver.pid), 30)


EVALUATING = {"evaluation__lengths": [0.01, 1.0], "evaluation__samples": 20_000, "sampling__steps": 100}


@pytest.mark.parametrize(
    ("number", "costly"), [(signal.SIGUSR1, EVALUATING), pytest.param(signal.SIGHUP, {}, marks=pytest.mark.slow)]
)
def test_warnings_to_all_processes_end_a_sweep_in_order_on_a_small_machine(
    tmp_path: Path, start: Start, number: signal.Signals, costly: dict[str, Any]
) -> None:
    """In an evaluation, or in training. One core, no home and a long TMPDIR; a closing terminal and some batch systems
    signal Ray's processes as well."""
    write_sweep(small_sweep(tmp_path, training__images=640_000, **costly), tmp_path / "in.yaml")
    root = tmp_path / "runs" / "small"
    driver = start("run", tmp_path / "in.yaml", before=SMALL_MACHINE)
    wait_until(lambda: list(root.glob("trials/*/state/images-*")), 180)
    os.killpg(driver.pid, number)
    assert driver.wait(60) == 75
    lines = (tmp_path / "err").read_text().splitlines()  # Matplotlib complains about HOME
    assert lines[-1] == f"error: interrupted; `ambient-sweep resume {root}` continues from here"
    assert (tmp_path / "out").read_text().splitlines().count("trials: 3 (2 searched, 1 fixed), 1 at once") == 1
    (trial,) = read_trials(root)
    assert trial.status == "stopped"
    assert trial.images_done < trial.images_asked
    assert not costly or not list(root.glob("trials/*/evaluations/*.json"))


def test_a_signal_after_the_last_piece_of_work_ends_a_finished_sweep(tmp_path: Path, start: Start) -> None:
    write_sweep(small_sweep(tmp_path, search__trials=1), tmp_path / "in.yaml")
    driver = start("run", tmp_path / "in.yaml", "--json", before=LATE)
    assert driver.wait(120) == 0
    assert json.loads((tmp_path / "out").read_text())["trials"] == {"completed": 2}
    assert (tmp_path / "runs" / "small" / "report.html").exists()
