"""Kills what a sweep consists of, at random and for real, and compares what is left with an undisturbed sweep.

    python tests/sweep/running/chaos.py --kills 100 --stops 5
    python tests/sweep/running/chaos.py --kills 6 --stops 1 --short

Two sweeps, one of trials with one worker and one with two, run beside each other on a cluster of two nodes on this machine.
Kills with -9: drivers, trials' processes, their workers, controllers and cleaners, the second node, the cluster's GCS. Stops
with SIGTERM. Whatever was lost is started again: a driver by `resume`, a node, the cluster.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pyarrow.parquet as pq
from gloo import gloo_group
from processes import end_session, session_of
from sklearn.datasets import load_digits

from ambient_sweep.config import load_config
from ambient_sweep.results.export import export_tables
from ambient_sweep.storage import sha256
from ambient_sweep.training.group import SINGLE
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

FILE = """
base:
  observed.base_sigma: {base_sigma}  # above 0, no clean training
  data: {{source: array, path: {images_file}, train_size: 150}}
  model: {{kind: mlp, width: 32, blocks: 1}}
  training: {{images: 16000, batch_size: 64, checkpoints: 40, records: 5}}
  evaluation: {{lengths: [0.25, 0.5, 0.75, 1.0], samples: 64}}
  sampling.steps: 5
  resources.workers: WORKERS
space:
  consistency.weight: {{choice: {weights}}}
search: {{sampler: grid, trials: {trials}, stopping: {{rule: none}}, keep: all}}
confirm: {{samples: {confirm}}}
"""
PROCESSES = {
    "trial": "ray::ImplicitFunc", "worker": "ray::RayTrainWorker", "controller": "ray::TrainController",
    "cleaner": "ray::PlacementGroupCleaner",
}  # fmt: skip
KINDS = (*PROCESSES, "driver", "node", *PROCESSES, "driver", "gcs")
# Exit codes of a command that goes on later: a failure of Ray, in order, before anything began; and of killed ones
ENDED = (1, 75, 130, -signal.SIGTERM, -signal.SIGKILL)
KINDS_OF_TRIALS = (1, 2)  # workers
ANSWER_SECONDS, SWEEP_SECONDS, RELEASE_SECONDS = 60, 3600, 60
STARTED: list["subprocess.Popen[str]"] = []
CONNECTING = """
import json, ray
ray.init(log_to_driver=False, logging_level="error")
groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
print(json.dumps({"free": ray.available_resources().get("CPU", 0), "all": ray.cluster_resources()["CPU"], "groups": groups}))
"""


class Cluster:
    """A head and a second node, two CPUs each, as processes of this machine."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")  # a short path
        self.environment = {
            **os.environ, "RAY_worker_niceness": "0", "RAY_TMPDIR": self.folder, "TMPDIR": self.folder,
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
            self.environment.pop(name, None)
        self.head: subprocess.Popen[str]
        self.node: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        """Starts both nodes; under a new address, since nothing of an earlier head is left."""
        port = free_port()
        self.environment["RAY_ADDRESS"] = self.address = f"127.0.0.1:{port}"
        ports = ["--port", str(port), "--dashboard-port", str(free_port()), "--node-ip-address", "127.0.0.1"]
        self.head = self._ray("--head", *ports, "--dashboard-agent-listen-port", str(free_port()))
        self.start_node()

    def start_node(self) -> None:
        """Starts the second node."""
        end = time.monotonic() + ANSWER_SECONDS
        while not answers(self.address):
            assert time.monotonic() < end, "the head does not start"
            time.sleep(0.2)
        self.node = self._ray("--address", self.address, "--dashboard-agent-listen-port", str(free_port()))

    def state(self) -> dict[str, Any] | None:
        """CPUs and placement groups; None where nothing answers."""
        done = subprocess.run(
            [sys.executable, "-c", CONNECTING], env=self.environment, capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def pids(self, title: str) -> list[int]:
        """The cluster's processes whose command begins so, or names this program."""
        found = []
        for pid in (pid for leader in (self.head, self.node) for pid in session_of(leader.pid)):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                if command.startswith(title) or Path(command.split("\0")[0]).name == title:
                    found.append(pid)
        return found

    def end(self) -> None:
        end_session(self.node)
        end_session(self.head)

    def _ray(self, *options: str) -> "subprocess.Popen[str]":
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus", "2"]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        return started([*command, "--disable-usage-stats", *options], environment, Path(self.folder, "ray.log"))


class Driver:
    """The command that runs a sweep, begun anew as often as it is lost."""

    def __init__(self, cluster: Cluster, file: Path, storage: Path, name: str) -> None:
        self.cluster, self.root, self.ended = cluster, storage / name, False
        self.log = storage / f"{name}.log"
        self._start("run", str(file), "--storage", str(storage), "--name", name)

    def _start(self, *words: str) -> None:
        self.process = started([sys.executable, "-m", "ambient_sweep", *words], self.cluster.environment, self.log)
        self._words = words

    def tend(self) -> None:
        """Notes that the sweep is finished, or begins its driver again."""
        code = self.process.poll()
        if code is None or self.ended:
            return
        text = self.log.read_text()
        assert "Traceback" not in text, text[-3000:]
        if code == 0:
            self.ended = True
        else:
            expected = code in ENDED or "no Ray cluster answers there" in text.splitlines()[-1]
            assert expected, f"exit code {code}: {text[-3000:]}"
            begun = (self.root / "sweep.yaml").exists()
            self._start(*(("resume", str(self.root)) if begun else self._words))

    def stop(self) -> None:
        """Asks for an orderly stop, which must leave a sweep that `resume` continues."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        assert code in (0, *ENDED), f"exit code {code}: {self.log.read_text()[-3000:]}"


def started(command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[str]":
    """A process in a session of its own that writes to a log."""
    with log.open("a") as file:
        STARTED.append(
            subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True, start_new_session=True)
        )
    return STARTED[-1]


def answers(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def disturb(kind: str, cluster: Cluster, drivers: list[Driver], draw: random.Random) -> bool:
    """One disturbance of this kind; False where there is nothing of it."""
    running = [driver for driver in drivers if not driver.ended and driver.process.poll() is None]
    if kind in PROCESSES:
        pids = cluster.pids(PROCESSES[kind])
        if pids:
            os.kill(draw.choice(pids), signal.SIGKILL)
        return bool(pids)
    if kind == "driver":
        if running:
            end_session(draw.choice(running).process)
        return bool(running)
    if kind == "stop":
        for driver in running:
            driver.stop()
        return bool(running)
    if kind == "node":
        end_session(cluster.node)
        time.sleep(draw.uniform(0, 5))
        cluster.start_node()
        return True
    for pid in cluster.pids("gcs_server"):
        os.kill(pid, signal.SIGKILL)
    time.sleep(draw.uniform(0, 5))
    cluster.end()
    cluster.start()
    return True


def run(
    cluster: Cluster, folder: Path, name: str, text: str, left: list[str], patience: float, draw: random.Random
) -> None:
    """Both sweeps from their start to their end, disturbed now and then by what is `left`, which is taken out.

    patience: how many disturbances wait until something was trained since the one before.
    """
    drivers = []
    for workers in KINDS_OF_TRIALS:
        file = folder / f"{name}-{workers}.yaml"
        file.write_text(text.replace("WORKERS", str(workers)))
        drivers.append(Driver(cluster, file, folder, f"{name}-{workers}"))
    end, due, reached = time.monotonic() + SWEEP_SECONDS, time.monotonic(), set[Path]()
    while not all(driver.ended for driver in drivers):
        assert time.monotonic() < end, "the sweeps do not end:\n" + "\n".join(
            d.log.read_text()[-2000:] for d in drivers
        )
        for driver in drivers:
            driver.tend()
        states = {path for driver in drivers for path in driver.root.glob("trials/*/state/images-*")}
        if left and time.monotonic() >= due and not states <= reached and disturb(left[0], cluster, drivers, draw):
            print(left.pop(0), end=" ", flush=True)
            reached = states if draw.random() < patience else set()
            due = time.monotonic() + draw.uniform(-5, 5)  # half of them follow at once
        time.sleep(0.5)


def train_part(done: Path, root: Path, rank: int, workers: int) -> None:
    """Trains the configs of the sweep in `done` one after another without Ray, as one of their workers."""
    with gloo_group(root, rank, workers) if workers > 1 else contextlib.nullcontext(SINGLE) as group:
        for file in sorted(done.glob("trials/*/config.yaml")):
            config = load_config(file)
            if rank == 0:
                prepare(config, root)
            group.broadcast(None)
            run_trial(config, root, file.parent.name, group=group)


def trained_alone(sweeps: dict[int, Path]) -> dict[int, Path]:
    """The trials of these sweeps, by their numbers of workers, without Ray: each sweep by as many processes of its own."""
    roots = {workers: done.with_name(f"alone-{done.name}") for workers, done in sweeps.items()}
    parts = []
    for workers, root in roots.items():
        root.mkdir()
        for rank in range(workers):
            words = (sweeps[workers], root, rank, workers)
            parts.append(multiprocessing.get_context("spawn").Process(target=train_part, args=words))
            parts[-1].start()
    for part in parts:
        part.join()
    assert not any(part.exitcode for part in parts)
    for root in roots.values():
        export_tables(root)
    return roots


def check_released(cluster: Cluster) -> None:
    """All CPUs are free, and no placement group and no process of a trial is left."""
    end = time.monotonic() + RELEASE_SECONDS
    while True:
        state, left = cluster.state(), {title: cluster.pids(title) for title in PROCESSES.values()}
        if state and state["free"] == state["all"] and not state["groups"] and not any(left.values()):
            break
        assert time.monotonic() < end, f"leaked: {state}, {left}"
        time.sleep(1)


def check_study(root: Path) -> None:
    """No trial of the study is left running."""
    from small_sweeps import study_of

    running = [trial for trial in study_of(root, root.name).trials if trial.state.name in ("RUNNING", "WAITING")]
    assert not running, running


def numbers(root: Path, trials: int) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What was measured, of which weights, by what was asked for. Reads every table, record and checkpoint."""
    statuses = Counter(pq.read_table(root / "trials.parquet")["status"].to_pylist())
    assert statuses == {"completed": trials}, statuses
    rows = pq.read_table(root / "evaluations.parquet").to_pylist()
    asked = ("role", "consistency.weight", "observed.sigma", "images", "endpoint", "evaluation_seed", "samples")
    skipped = (
        "trial_id", "checkpoint", "seconds", "_utc", "stage", "device", "executed", "forked", "revision", "rung",
        "workers",
    )  # fmt: skip
    found = {}
    for row in rows:
        key = tuple(row[name] for name in asked)
        assert key not in found, f"measured twice: {key}"
        found[key] = {name: value for name, value in row.items() if not any(part in name for part in skipped)}
        found[key]["weights"] = sha256(root / row["checkpoint"] / "model.safetensors")
    for file in root.rglob("*.json"):
        if "ray" not in file.parts:
            json.loads(file.read_bytes())
    assert not [path for path in root.rglob(".*.tmp") if "ray" not in path.parts]
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--stops", type=int, default=5)
    options.add_argument("--short", action="store_true", help="one trial each, compared with training without Ray")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    draw = random.Random(given.seed)
    left = [KINDS[index % len(KINDS)] for index in range(given.kills)] + ["stop"] * given.stops
    draw.shuffle(left)
    count, patience = Counter(left), 0.0 if given.short else 0.8  # what is always killed at its start comes to no end
    trials = 1 if given.short else 7  # searched ones of each sweep
    cluster, folder, began = Cluster(), Path(tempfile.mkdtemp(prefix="chaos-")), time.monotonic()
    text = FILE.format(
        images_file=folder / "digits.npy", trials=trials,
        weights=[0.5 + 0.25 * index for index in range(7)], base_sigma=0.1 if given.short else 0,
        confirm=0 if given.short else "2x",
    )  # fmt: skip
    planned = trials if given.short else trials + 1  # with clean training
    try:
        np.save(folder / "digits.npy", load_digits().images / 16)
        quiet = {workers: folder / f"quiet-{workers}" for workers in KINDS_OF_TRIALS}
        if not given.short:
            run(cluster, folder, "quiet", text, [], patience, draw)
            print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        rounds = 0
        while left:
            rounds += 1
            run(cluster, folder, f"round{rounds}", text, left, patience, draw)
            check_released(cluster)
            roots = {workers: folder / f"round{rounds}-{workers}" for workers in KINDS_OF_TRIALS}
            wanted = trained_alone(roots) if given.short else quiet
            for workers, root in roots.items():
                assert numbers(root, planned) == numbers(wanted[workers], planned), root
                check_study(root)
            print(f"\nround {rounds}: equal to the bit; {len(left)} disturbances left", flush=True)
        print(
            f"{dict(count)} in {rounds} rounds of {2 * planned} trials, {time.monotonic() - began:.0f} s: nothing lost"
        )
        shutil.rmtree(folder)
    finally:
        for process in STARTED:
            end_session(process)
        shutil.rmtree(cluster.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
