"""What this machine leaves to a Ray of our own: cores and a folder; and its token."""

import contextlib
import math
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ambient_sweep.errors import UserError

BATCH_CORES = (
    "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE", "PBS_NUM_PPN", "NCPUS", "NSLOTS",
    "LSB_DJOB_NUMPROC", "LSB_MAX_NUM_PROCESSORS",
)  # fmt: skip
LONGEST_SOCKET = "ray/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store"  # paths have a limit: 107 bytes
PLACES = ("/tmp", "/var/tmp", "/dev/shm")
ROOM = 16 * 2**20  # bytes of Ray's logs
# Metrics for Prometheus ask for no token and would listen on all addresses; -1 is no port, so Ray opens none.
NO_METRICS = {"RAY_enable_metrics_collection": "0", "DASHBOARD_METRIC_PORT": "-1", "AUTOSCALER_METRIC_PORT": "-1"}
TOKEN = secrets.token_hex(32)  # one for all Rays of this process: the first is the one that Ray remembers


def check_token() -> None:
    """Raises UserError where RAY_AUTH_TOKEN_PATH, which Ray reads without RAY_AUTH_TOKEN, names no file with a token."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if file is None or "RAY_AUTH_TOKEN" in os.environ or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    try:
        found = Path(file).read_bytes().strip()
    except OSError:
        found = b""
    if not found:
        raise UserError(
            f"Ray's token cannot be opened or is empty: {file}; set RAY_AUTH_TOKEN_PATH to the file of the token that "
            "the head was started with, or unset it where none is needed"
        )


def cores(process: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that affinity, cgroups and the batch system leave to this process; at least one."""
    counts = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    given = (re.match(r"\d+", os.environ.get(name, "")) for name in BATCH_CORES)  # SLURM's 4(x2): 4 on this node
    counts += [float(number[0]) for number in given if number]
    for line in process.read_text().splitlines() if process.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            folder = (cgroups / "cpu" if controllers else cgroups) / path.lstrip("/")
            counts += [_quota(each) for each in (folder, *folder.parents)]
    return max(1, math.floor(min(counts)))


def _quota(cgroup: Path) -> float:
    """Cores that a cgroup, of version 2 or 1, may use; infinite without a limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # the limit may be "max"
            quota, period = map(int, " ".join((cgroup / name).read_text() for name in names).split())
            return quota / period if quota > 0 else math.inf
    return math.inf


@contextlib.contextmanager
def ray_files() -> Iterator[None]:
    """Gives Ray a private folder, removed at the end, since $TMPDIR/ray or /tmp/ray may not be usable; where none is set, a
    token, which Ray would write to the home folder; and no ports for metrics.

    Ray's processes put their sockets into TMPDIR too, and find this instance by RAY_TMPDIR, even if others run on the
    machine. Raises UserError without room.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", dir=_roomy_place(), ignore_cleanup_errors=True) as folder:
        ours = NO_METRICS | dict.fromkeys(("RAY_TMPDIR", "TMPDIR"), folder)
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            ours["RAY_AUTH_TOKEN"] = TOKEN
        given = {name: os.environ[name] for name in ours.keys() & os.environ.keys()}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]
            os.environ.update(given)
            tempfile.tempdir = None  # may name the folder


def _roomy_place() -> str:
    given, tried = (os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")), []
    for place in dict.fromkeys((*filter(None, given), *PLACES)):
        try:
            with tempfile.TemporaryDirectory(prefix="ray-", dir=place) as folder:
                with socket.socket(socket.AF_UNIX) as longest:
                    longest.bind(f"{os.path.abspath(folder)}/{LONGEST_SOCKET.replace('/', '-')}")
                Path(folder, "logs").write_bytes(bytes(ROOM))
            return os.path.abspath(place)
        except OSError as error:
            tried.append(f"{place} ({error.strerror or error})")
    raise UserError(
        f"Ray has no folder for its sockets and logs: {', '.join(tried)}; set RAY_TMPDIR to a writable one with a short path"
    )
