"""A trial's processes: what signals, and the stop file of several workers, do to them."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from gloo import gloo_group

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.sweep.running import workers
from ambient_sweep.sweep.running.cluster import only_trainer
from ambient_sweep.sweep.running.faults import Kind, worst
from ambient_sweep.sweep.running.workers import Job, stop_file, train_worker
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.training.state import read_state
from ambient_sweep.trial import evaluations
from ambient_sweep.trial.records import EvaluationRecord, read_trial, trial_folder, write_evaluation
from ambient_sweep.trial.run import Interrupted
from ambient_sweep.trial.setup import prepare

TRIAL = SweepTrial("control", {}, label="c", trial_id="t")
SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 640, "batch_size": 32, "records": 10, "checkpoints": 10},
    "evaluation": {"samples": 16, "lengths": [1.0], "extras": ["kid"]},
    "sampling.steps": 3,
}


def started(tmp_path):
    """`ambient-sweep train` in a process of its own, which has saved a state and has much left to train."""
    file = tmp_path / "c.yaml"
    training = SMALL["training"] | {"images": 32 * 50_000, "checkpoints": 1000}
    file.write_text(json.dumps(SMALL | {"training": training}))
    command = [sys.executable, "-m", "ambient_sweep", "train", str(file), "--storage", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "c" / "trials" / "train" / "state").exists() and process.poll() is None:
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_leaves(tmp_path, number):
    process = started(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    record = read_trial(tmp_path / "c", "train")
    first, line = errors.strip().splitlines()
    assert first == "ending in order; a second signal ends at once"
    assert line == f"error: interrupted at {record.images_done:,} images; state saved; run the same command to go on"
    assert record.status == "stopped"
    newest = tmp_path / "c" / "trials" / "train" / "state" / f"images-{record.images_done:09d}"
    assert read_state(newest)[1]["images"] == record.images_done


def test_a_second_signal_ends_at_once_and_says_so():
    code = "import os, signal; from ambient_sweep.sweep.running.signals import stop_signals\n"
    code += "with stop_signals() as stop:\n os.kill(os.getpid(), 2); assert stop.asked(); os.kill(os.getpid(), 15); print(1)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")
    assert ended.stderr.splitlines() == [
        "ending in order; a second signal ends at once",
        "ended at once; what was not saved yet is trained again by `resume`, or the same `train`",
    ]


# -- workers of a trial with several, without Ray -----------------------------------------------------------------------


def test_a_worker_heeds_the_stop_file(tmp_path):
    config = build_config(SMALL)
    prepare(config, tmp_path)
    stop_file(tmp_path, "t").parent.mkdir(parents=True)
    stop_file(tmp_path, "t").touch()
    task = {"job": Job(config, tmp_path, TRIAL)}
    with gloo_group(tmp_path, 0, size=1):
        with pytest.raises(Interrupted, match="interrupted at 32 images; state saved"):
            train_worker(task)
        stop_file(tmp_path, "t").unlink()
        train_worker(task)
    assert read_trial(tmp_path, "t").status == "completed"


@pytest.mark.parametrize("where", ["training", "evaluation", "before"])
def test_nothing_is_written_where_the_storage_was_mounted(tmp_path, where, monkeypatch):
    disk, config = tmp_path / "disk", build_config(SMALL)
    root, gone = disk / "run", tmp_path / "gone"
    prepare(config, root)

    def unmount(*_):
        if not gone.exists():
            disk.rename(gone)
            disk.mkdir()

    if where == "evaluation":
        measured = evaluations.measured
        monkeypatch.setattr(evaluations, "measured", lambda *args, **more: unmount() or measured(*args, **more))
    if where == "before":
        unmount()
    with (
        pytest.raises((OSError, UserError)) as caught,
        only_trainer(trial_folder(root, "t")),
    ):
        Job(config, root, TRIAL).run(on_report=unmount if where == "training" else lambda *_: None)
    assert worst(caught.value)[0] == Kind.MACHINE
    assert not list(disk.iterdir())
    if where == "training":
        disk.rmdir()
        gone.rename(disk)
        with only_trainer(trial_folder(root, "t")):
            Job(config, root, TRIAL).run()
        assert read_trial(root, "t").status == "completed"


def test_the_watch_yields_each_new_evaluation_once_and_raises_what_the_workers_raise(tmp_path, monkeypatch):
    measure, root = Measure(1.0, None, None, 8), tmp_path

    def write(images, endpoint):
        measures = {"a": measure, "b": measure}
        record = EvaluationRecord("t", images, 0.5, endpoint, True, 8, 0, 1.0, measures, "a", "b", "c")
        write_evaluation(root, record)

    def fit(job):
        write(20, "observed")
        read.wait(60)
        write(20, "zero")  # read before the other
        write(30, "zero")
        raise Interrupted("told to")

    read = threading.Event()
    monkeypatch.setattr(workers, "fit_with_workers", fit)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    write(10, "zero")  # by an earlier attempt
    seen = []

    def watch():
        for new in workers.fit_watched(Job(build_config(SMALL), root, TRIAL)):
            seen.extend((each.images, each.endpoint) for each in new)
            if seen:
                read.set()

    with pytest.raises(Interrupted, match="told to"):
        watch()
    assert seen == [(20, "observed"), (20, "zero"), (30, "zero")]
