"""Examines a cluster for a sweep: what every node runs, sees and can write. A line per finding, with its cure."""

import contextlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http.client import OK, HTTPConnection, HTTPException
from pathlib import Path

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ambient_sweep.config import Config
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.object_store import fetch
from ambient_sweep.provenance import versions
from ambient_sweep.storage import locked, remove, write_atomic
from ambient_sweep.sweep.running.preflight import preflight, ray_nodes, size_text
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.validation import check_space
from ambient_sweep.text import counted
from ambient_sweep.trial.setup import check_evaluation, check_trials

ANSWER_SECONDS = 120  # that a node has to answer, images and weights included
CLOCK_SECONDS = 5.0  # that a node's clock may differ
FREE_BYTES = 2**30  # fewer are a problem


@dataclass(frozen=True)
class Finding:
    """One thing that was examined; `text` holds the cure where it is not well."""

    well: bool
    text: str


@dataclass(frozen=True)
class Answer:
    """What a node says of itself. Problems are empty where there are none."""

    versions: dict[str, str]
    clock: float  # seconds since the epoch
    storage: str  # problem with the folder of all runs
    free: int  # bytes there
    images: str  # problem with the images or the encoders' weights
    cuda: str | None  # torch's
    instances: int  # of Ray


def examine(sweep: Sweep | None, storage: Path) -> list[Finding]:
    """Findings on the cluster that this process is connected to, for a sweep that writes to `storage`."""
    findings = [_token(ray.init(ignore_reinit_error=True, configure_logging=False).dashboard_url)]
    made = [folder for folder in (storage, *storage.parents) if not folder.exists()]
    marker = storage / f".doctor-{secrets.token_hex(4)}"
    try:
        write_atomic(marker, b"")
        configs = check_space(sweep) if sweep else []
        findings += _room(sweep, storage) if sweep else []
        own = answer(marker, [])
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        task = ray.remote(num_cpus=0, max_retries=0)(answer)
        asked = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                marker, configs
            ): node
            for node in nodes
        }
        began = time.time()
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        for reference, node in asked.items():
            name = f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            if reference not in answered:
                findings.append(Finding(False, f"{name}: no answer within {ANSWER_SECONDS} s; see Ray's log there"))
                continue
            try:
                found = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                why = str(error).strip().splitlines()[-1]
                findings.append(Finding(False, f"{name}: cannot run the package: {why}; install it there"))
                continue
            except ray.exceptions.RayError:
                findings.append(Finding(False, f"{name}: lost while it was examined; see Ray's log there"))
                continue
            gpus = node["Resources"].get("GPU", 0)
            findings += _node(name, found, own, (began, time.time()), gpus)
    except OSError as error:
        why = f"{storage}: cannot be written here, on {platform.node()} ({error.strerror or error})"
        findings.append(Finding(False, f"--storage: {why}; give another folder"))
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written is a finding
            remove(marker)
            for folder in made:
                folder.rmdir()
    return findings


def answer(marker: Path, configs: Sequence[Config]) -> Answer:
    """What the node of this process says: whether it sees `marker` in the folder of all runs, and what `configs` need."""
    storage, free, images = "", 0, ""
    try:
        fetch(marker)
        if not marker.exists():
            raise OSError(0, "another folder than the driver's, or not mounted")
        with locked(marker.with_name(f"{marker.name}-{secrets.token_hex(4)}"), wait=False):
            free = shutil.disk_usage(marker.parent).free
    except OSError as error:
        storage = f"{error.strerror or error}"
    finally:
        for own in marker.parent.glob(f"{marker.name}-*"):
            own.unlink(missing_ok=True)
    try:
        if configs:
            check_evaluation(check_trials(configs), configs[0].evaluation)
    except AmbientSweepError as error:
        images = str(error)
    return Answer(versions(), time.time(), storage, free, images, torch.version.cuda, _instances())


def _instances() -> int:
    """This user's Ray instances with a node on this machine: every raylet names the head that it belongs to."""
    heads = set[bytes]()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended
            if file.stat().st_uid != os.getuid():
                continue
            program, *words = file.read_bytes().split(b"\0")
            heads |= {word for word in words if program.endswith(b"/raylet") and word.startswith(b"--gcs-address=")}
    return len(heads)


def _token(dashboard: str | None) -> Finding:
    """Whether the cluster takes requests without a token: its dashboard is sent such a one, if it answers here."""
    needed = "RAY_ADDRESS" not in os.environ or os.environ.get("RAY_AUTH_MODE") == "token"
    with contextlib.suppress(OSError, HTTPException):
        if dashboard and needed:
            connection = HTTPConnection(dashboard, timeout=5.0)
            connection.request("GET", "/api/version")
            needed = connection.getresponse().status != OK
    if needed:
        return Finding(True, "token: sent with every request")
    return Finding(
        False,
        "token: this cluster takes requests without one, so whoever reaches its ports can run code; start it with "
        "cluster/head.sh, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH",
    )


def _room(sweep: Sweep, storage: Path) -> Iterable[Finding]:
    """Whether the sweep fits on the cluster and the disk."""
    try:
        return [Finding(True, line) for line in preflight(sweep, ray_nodes(), storage).lines()]
    except UserError as error:
        return [Finding(False, str(error))]


def _node(name: str, found: Answer, own: Answer, asked: tuple[float, float], gpus: float) -> Iterable[Finding]:
    """Findings on one node, compared with this process, which asked and had all answers at these times."""
    other = [
        f"{package} {found.versions.get(package, 'missing')} instead of {version}"
        for package, version in own.versions.items()
        if found.versions.get(package) != version
    ]
    off = max(asked[0] - found.clock, found.clock - asked[1], 0.0)
    problems = [
        f"{', '.join(other)}; install the same versions" if other else "",
        f"its clock is {off:.0f} s off; synchronize it (ntp, chrony)" if off > CLOCK_SECONDS else "",
        f"--storage: {found.storage}; mount it under the same path, writable and with locks" if found.storage else "",
        f"--storage: {size_text(found.free)} free; make room" if not found.storage and found.free < FREE_BYTES else "",
        found.images,
        f"Ray offers {gpus:g} GPUs, but its torch is without CUDA; install a build with it"
        if gpus and not found.cuda
        else "",
        f"{found.instances} Ray instances; end all but one, since they disturb each other"
        if found.instances > 1
        else "",
    ]
    well = f"Python {found.versions['python']}, {size_text(found.free)} free in --storage, {counted(int(gpus), 'GPU')}"
    return [Finding(False, f"{name}: {text}") for text in problems if text] or [Finding(True, f"{name}: {well}")]
