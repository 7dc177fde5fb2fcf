"""The driver itself is ended: by SIGTERM, as `ray job stop` does, and by SIGKILL. Nothing that was finished is lost.

Meanwhile the clock jumps, files are cut, and others want the same run.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from processes import end_session, wait_until
from small_sweeps import searched_trials, small_sweep, study_of

from ambient_sweep.errors import UserError
from ambient_sweep.results import read_table
from ambient_sweep.sweep.run import resume_sweep
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.recorder import LOG
from ambient_sweep.trial.records import TrialRecord, read_evaluations, read_trials

pytestmark = pytest.mark.xdist_group("ray")

DRIVER = """
import sys
from pathlib import Path
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.run import resume_sweep, run_sweep
from ambient_sweep.sweep.space.file import load_sweep

verb, path, storage = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
try:
    if verb == "run":
        run_sweep(load_sweep(path), storage)
    else:
        resume_sweep(storage / "small")
except AmbientSweepError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

# In each Python process of a driver and its Ray. File systems keep the right time, as those of other machines do.
CLOCK = """
import time
from pathlib import Path
real, off = time.time, Path(__file__).with_name("seconds")
time.time = lambda: real() + float(off.read_text())
"""
DAY = 86_400

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a driver in a session of its own; whatever is left of those sessions at the end is ended."""
    started: list[subprocess.Popen[str]] = []
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK)
    (clock / "seconds").write_text("0")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(clock), *filter(None, sys.path)])}

    def popen(verb: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", DRIVER, verb, str(tmp_path / "in.yaml"), str(tmp_path / "runs")]
        with (tmp_path / f"{len(started)}.out").open("w") as out, (tmp_path / f"{len(started)}.err").open("w") as err:
            process = subprocess.Popen(
                command, stdout=out, stderr=err, text=True, start_new_session=True, env=environment
            )
        started.append(process)
        return process

    yield popen
    for process in started:
        end_session(process)


def completed(root: Path) -> list[TrialRecord]:
    return [trial for trial in read_trials(root) if trial.status == "completed"]


def half_way(root: Path) -> bool:
    """One trial has ended and another has two states to go on from."""
    ended = {trial.trial_id for trial in completed(root)}
    return bool(ended) and any(len(states) > 1 for trial, states in states_of(root).items() if trial not in ended)


def states_of(root: Path) -> dict[str, list[Path]]:
    """By trial, the oldest first."""
    trials = root.glob("trials/*")
    return {trial.name: sorted(trial.glob("state/images-*/state.safetensors")) for trial in trials}


def test_a_sweep_outlives_its_driver(tmp_path: Path, start: Start) -> None:
    sweep = small_sweep(tmp_path, search__trials=4, search__keep="all", training__images=96_000)
    write_sweep(sweep, tmp_path / "in.yaml")
    root = tmp_path / "runs" / "small"

    def refused(number: int) -> str:
        return (tmp_path / f"{number}.err").read_text()

    first, other = start("run"), start("run")  # at once: one of them has the name
    wait_until(lambda: first.poll() is not None or other.poll() is not None)
    first, number = (other, 1) if first.poll() is not None else (first, 0)
    assert refused(1 - number) == f"{root}: another process runs this sweep now; wait for it, or end it first\n"
    wait_until(lambda: list(root.glob("trials/*/trial.json")))
    (tmp_path / "clock" / "seconds").write_text(f"{DAY}")
    wait_until(lambda: half_way(root))
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 75
    error = refused(number).strip().splitlines()
    assert error[-1] == f"interrupted; `ambient-sweep resume {root}` continues from here"
    kept = {trial.trial_id: (root / "trials" / trial.trial_id / "trial.json").read_bytes() for trial in completed(root)}
    assert kept
    stopped = [trial for trial in read_trials(root) if trial.status == "stopped"]
    assert all("interrupted" in str(trial.reason) for trial in stopped)
    assert {trial.status for trial in read_trials(root)} == {"completed", "stopped"}
    assert set(read_table(root / "trials.parquet")["status"].to_pylist()) == {"completed", "stopped"}

    # As a disk or a copy that breaks off leaves them: the newest state of a trial, and the study.
    _, cut = max((states_of(root)[trial.trial_id] for trial in stopped), key=len)
    os.truncate(cut, cut.stat().st_size // 2)
    journal = root / "study.journal"
    whole = journal.read_bytes()
    os.truncate(journal, len(whole) // 2)
    with pytest.raises(UserError, match=r"^study.journal lacks \d of the \d trials of this sweep, .*; restore"):
        resume_sweep(root, echo=lambda line: None)
    journal.write_bytes(whole + whole.splitlines()[-1][:20])

    second, other = start("resume"), start("resume")
    wait_until(lambda: second.poll() is not None or other.poll() is not None)
    second, number = (other, 3) if second.poll() is not None else (second, 2)
    assert refused(5 - number) == f"{root}: another process runs this sweep now; wait for it, or end it first\n"
    known = len(completed(root))
    running = lambda: any(trial.status == "running" for trial in read_trials(root))  # noqa: E731
    (tmp_path / "clock" / "seconds").write_text(f"{-DAY}")
    wait_until(lambda: len(completed(root)) > known and running())
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    assert {trial.status for trial in read_trials(root)} >= {"completed", "running"}
    kept |= {
        trial.trial_id: (root / "trials" / trial.trial_id / "trial.json").read_bytes() for trial in completed(root)
    }

    assert start("resume").wait(120) == 0
    assert f"state {cut.parent.name}: damaged (" in (cut.parents[2] / LOG).read_text()
    trials = {trial.trial_id: trial for trial in read_trials(root)}
    assert sorted(t.role for t in trials.values()) == ["baseline"] + ["search"] * 4
    assert {t.status for t in trials.values()} == {"completed"}
    for trial_id, content in kept.items():
        assert (root / "trials" / trial_id / "trial.json").read_bytes() == content
    study = study_of(root)
    assert [t.state for t in searched_trials(study)] == [TrialState.COMPLETE] * 4
    assert len({tuple(t.params.values()) for t in searched_trials(study)}) == 4
    assert {t.user_attrs["trial_id"] for t in searched_trials(study)} == {
        i for i, t in trials.items() if t.role == "search"
    }
    assert len(read_evaluations(root)) == 4 * 2 * 2 + 4  # clean training at twice as many lengths


@pytest.mark.slow
def test_trials_that_pause_outlive_their_driver(tmp_path: Path, start: Start) -> None:
    changes = {"search__trials": 6, "training__images": 48_000, "search__stopping__rule": "rungs"}
    sweep = small_sweep(tmp_path, evaluation__lengths=[0.25, 0.5, 1.0], **changes)
    write_sweep(sweep, tmp_path / "in.yaml")
    root = tmp_path / "runs" / "small"

    def paused() -> bool:
        return sum(t.status == "running" for t in read_trials(root)) > 2  # more than train at once

    first = start("run")
    wait_until(paused)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 75
    assert all("interrupted" in str(t.reason) for t in read_trials(root) if t.status == "stopped")
    waiting = {t.trial_id for t in read_trials(root) if t.status == "stopped" and t.role == "search"}
    assert waiting
    done = {t.trial_id: t.images_done for t in read_trials(root)}

    second = start("resume")
    wait_until(lambda: len(list(root.glob("trials/*/trial.json"))) > len(done))
    os.kill(second.pid, signal.SIGKILL)
    second.wait()

    assert start("resume").wait(120) == 0
    trials = {trial.trial_id: trial for trial in read_trials(root)}
    assert sorted(t.role for t in trials.values()) == ["baseline"] + ["search"] * 6
    assert {t.status for t in trials.values()} == {"completed", "stopped"}
    assert waiting <= set(trials)
    for trial in trials.values():
        assert trial.images_done >= done.get(trial.trial_id, 0)
        if trial.status == "stopped":
            assert str(trial.reason).startswith("stopped by search.stopping after")
            assert trial.images_done < trial.images_asked
    study = study_of(root)
    ended = {t.user_attrs["trial_id"]: t.state for t in searched_trials(study)}
    assert ended == {
        t.trial_id: TrialState.PRUNED if t.status == "stopped" else TrialState.COMPLETE
        for t in trials.values()
        if t.role == "search"
    }
