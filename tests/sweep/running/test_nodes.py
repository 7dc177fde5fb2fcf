"""Nodes that are lost and nodes that join while a sweep runs: a head without CPUs, and processes of `ray start`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import end_session, wait_until
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
from small_sweeps import small_sweep

from ambient_sweep.config import ResourcesConfig
from ambient_sweep.sweep.running.cluster import nodes_for
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.records import read_trials

pytestmark = pytest.mark.xdist_group("ray")

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


def test_the_autoscaler_is_asked_for_all_trials_until_the_search_ends(ray_head: None) -> None:
    def asked() -> list[dict[str, float]]:
        return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))

    with nodes_for(ResourcesConfig(workers=2), 8):
        assert asked() == [{"CPU": 1.0}] * 16
    assert asked() == []


def test_a_sweep_goes_on_with_the_nodes_that_are_there(tmp_path: Path, machines: Machines) -> None:
    sweep = small_sweep(tmp_path, search__max_failures=0, training__images=96_000)
    write_sweep(sweep, tmp_path / "in.yaml")
    root = tmp_path / "runs" / "small"
    machines.start("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
    wait_until(lambda: machines.started() == 1)
    command = [
        sys.executable,
        "-m",
        "ambient_sweep",
        "run",
        str(tmp_path / "in.yaml"),
        "--storage",
        str(tmp_path / "runs"),
    ]
    environment = machines.environment | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}
    out = tmp_path / "out"

    def said(pattern: str) -> bool:
        return re.search(pattern, out.read_text()) is not None

    with out.open("w") as file:
        driver = subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True, start_new_session=True)
    none = "waiting for room on the cluster: a trial needs 1 of 0 CPUs, of which 0 are free"
    try:
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
    finally:
        end_session(driver)
    assert {trial.status for trial in read_trials(root)} == {"completed"}
    assert not said("FAILED")
