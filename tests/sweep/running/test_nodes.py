"""Nodes that are lost and nodes that join while a sweep runs: a head without CPUs, and processes of `ray start`."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import bad
from processes import end_session, session_of, wait_until
from small_sweeps import small_sweep

from ambient_sweep.config import build_config
from ambient_sweep.evaluation.encoders.torchscript import without_torchscript_warning
from ambient_sweep.storage import sha256
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.records import read_evaluations, read_trials
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

pytestmark = pytest.mark.xdist_group("cluster")

PORT = "26479"
RAY = Path(sys.executable).with_name("ray")


class Machines:
    """Processes of `ray start`, each in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self._log = (folder / "ray.log").open("w")
        self.environment = {
            **os.environ,
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": "/tmp/ray-nodes",
        }

    def start(self, *words: str) -> "subprocess.Popen[str]":
        command = [str(RAY), "start", "--block", "--disable-usage-stats", *words]
        process = subprocess.Popen(
            command, env=self.environment, stdout=self._log, stderr=self._log, text=True, start_new_session=True
        )
        self._started.append(process)
        return process

    def started(self) -> int:
        """How many of them run."""
        return Path(self._log.name).read_text().count("Ray runtime started")

    def node(self) -> "subprocess.Popen[str]":
        return self.start(f"--address=127.0.0.1:{PORT}", "--num-cpus=1")

    def end(self) -> None:
        for process in reversed(self._started):
            end_session(process)
        self._log.close()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(tmp_path)
    yield found
    found.end()


Sweep = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ambient_sweep(tmp_path: Path, machines: Machines) -> Iterator[Sweep]:
    """Starts a command on the cluster; its output is appended to `out`."""
    started: list[subprocess.Popen[str]] = []
    environment = machines.environment | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}

    def popen(*words: str | Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "ambient_sweep", *map(str, words)]
        with (tmp_path / "out").open("a") as out:
            process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, text=True, start_new_session=True
            )
        started.append(process)
        return process

    yield popen
    for process in started:
        end_session(process)


def own_encoder(folder: Path) -> dict[str, Any]:
    """Settings with an encoder of the user's own, the mean of each channel."""
    path = folder / "encoder.pt"
    with without_torchscript_warning():
        torch.jit.trace(lambda x: x.mean((2, 3)), torch.rand(2, 3, 16, 16)).save(str(path))
    keys = {"encoder_file": str(path), "encoder_sha256": sha256(path), "encoder_size": 16}
    return {f"evaluation__{key}": value for key, value in keys.items()} | {
        "evaluation__distances": ["fd_pixels", "fd_file"]
    }


def test_a_sweep_goes_on_with_the_nodes_that_are_there(
    tmp_path: Path, machines: Machines, ambient_sweep: Sweep
) -> None:
    """And what its command may run, its workers may run there, and no later command may by itself."""
    sweep = small_sweep(tmp_path, search__max_failures=0, training__images=96_000, **own_encoder(tmp_path))
    write_sweep(sweep, tmp_path / "in.yaml")
    root, out = tmp_path / "runs" / "small", tmp_path / "out"
    machines.start("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
    wait_until(lambda: machines.started() == 1)

    def said(pattern: str) -> bool:
        return re.search(pattern, out.read_text()) is not None

    driver = ambient_sweep("run", tmp_path / "in.yaml", "--storage", tmp_path / "runs", "--trust")
    none = "waiting for room on the cluster: a trial needs 1 of 0 CPUs, of which 0 are free"
    wait_until(lambda: said(none), 60)
    node = machines.node()
    wait_until(lambda: list(root.glob("trials/*/state/images-*")))
    end_session(node)
    wait_until(lambda: said("it goes on from its last state"), 60)
    wait_until(lambda: said(f"1 trial {none}"), 40)
    machines.node()
    machines.node()
    wait_until(lambda: sum(trial.status == "running" for trial in read_trials(root)) > 1, 60)
    assert driver.wait(120) == 0, out.read_text()
    assert {trial.status for trial in read_trials(root)} == {"completed"}
    assert not said("FAILED")
    assert all("fd_file" in evaluation.measures for evaluation in read_evaluations(root))
    refused = bad("resume", root, "search.trials=3")
    assert refused.startswith(
        f"error: evaluation.encoder_file: {tmp_path}/encoder.pt is a TorchScript program, which runs"
    )
    assert refused.endswith("; if you trust where it comes from, give --trust")


@pytest.mark.slow
def test_a_sweep_whose_head_is_lost_ends_in_order_and_goes_on_with_another_to_the_same_numbers(
    tmp_path: Path, machines: Machines, ambient_sweep: Sweep
) -> None:
    write_sweep(small_sweep(tmp_path, search__keep="all", training__images=96_000), tmp_path / "in.yaml")
    root, head = tmp_path / "runs" / "small", ("--head", f"--port={PORT}", "--num-cpus=2", "--include-dashboard=false")
    first = machines.start(*head)
    wait_until(lambda: machines.started() == 1)
    driver = ambient_sweep("run", tmp_path / "in.yaml", "--storage", tmp_path / "runs")
    wait_until(lambda: list(root.glob("trials/*/state/images-*")))
    (gcs,) = [pid for pid in session_of(first.pid) if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(gcs, signal.SIGKILL)
    assert driver.wait(75) == 75
    said = (
        rf"error: the Ray cluster at [\d.]+:{PORT} answers no more; once it does, `resume` goes on, or the same `train`"
    )
    assert re.fullmatch(said, (tmp_path / "out").read_text().splitlines()[-1])
    end_session(first)

    machines.start(*head)
    wait_until(lambda: machines.started() == 2)
    assert ambient_sweep("resume", root).wait(120) == 0, (tmp_path / "out").read_text()
    trials = read_trials(root)
    assert [trial.status for trial in trials] == ["completed"] * 3
    for trial in trials:
        config = build_config(trial.config)
        prepare(config, tmp_path / "alone")
        run_trial(config, tmp_path / "alone", trial.trial_id, role=trial.role)
    alone, found = (
        {(e.trial_id, e.images, e.endpoint): e.measures for e in read_evaluations(each)}
        for each in (tmp_path / "alone", root)
    )
    assert found == alone
