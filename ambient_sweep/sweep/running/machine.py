"""What this machine leaves to a Ray of our own: cores, a folder, a token."""

import contextlib
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic

BATCH_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NUM_PPN", "NSLOTS", "LSB_DJOB_NUMPROC")
LONGEST_SOCKET = (
    "ray/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store"  # a socket's path has 107 bytes at most
)
PLACES = ("/tmp", "/var/tmp", "/dev/shm")
ROOM = 16 * 2**20  # bytes of Ray's logs


def cores(process: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that affinity, cgroups and the batch system leave to this process; at least one."""
    counts = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    counts += [float(os.environ[name]) for name in BATCH_CORES if os.environ.get(name, "").isdecimal()]
    for line in process.read_text().splitlines() if process.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            folder = (cgroups / "cpu" if controllers else cgroups) / path.lstrip("/")
            counts += [_quota(each) for each in (folder, *folder.parents)]
    return max(1, math.floor(min(counts)))


def _quota(cgroup: Path) -> float:
    """Cores that a cgroup, of version 2 or 1, may use; infinite without a limit."""
    with contextlib.suppress(OSError, ValueError):  # the limit may be "max"
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
        return quota / period
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((cgroup / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else math.inf
    return math.inf


@contextlib.contextmanager
def ray_files() -> Iterator[None]:
    """Gives Ray a new folder for sockets and logs, removed at the end, and a token where it cannot keep one in HOME.

    Ray's default, $TMPDIR/ray, may be too long for a socket, full, or another user's. Ray's own processes find this
    instance by the folder, even if others run on the machine. Raises UserError where there is no room for one.
    """
    names = ("RAY_TMPDIR", "RAY_AUTH_TOKEN")
    before = {name: os.environ.get(name) for name in names}
    folder = _new_folder()
    try:
        os.environ["RAY_TMPDIR"] = folder
        if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            _provide_token()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> str:
    tried = []
    given = (os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR"))
    for place in dict.fromkeys((*filter(None, given), *PLACES)):
        folder = None
        try:
            folder = tempfile.mkdtemp(prefix="ray-", dir=os.path.abspath(place))
            with socket.socket(socket.AF_UNIX) as longest, tempfile.TemporaryFile(dir=folder) as logs:
                longest.bind(f"{folder}/{LONGEST_SOCKET.replace('/', '-')}")
                logs.write(bytes(ROOM))
            return folder
        except OSError as error:
            tried.append(f"{place} ({error.strerror or error})")
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
    raise UserError(
        f"Ray has no folder for its sockets and logs: {', '.join(tried)}; set RAY_TMPDIR to a writable one with a short path"
    )


def _provide_token() -> None:
    """Ray would fail where it cannot write its token, or has left an empty one on a full disk."""
    try:
        file = Path.home() / ".ray" / "auth_token"
        if not file.is_file() or not file.read_text().strip():
            write_atomic(file, secrets.token_hex(32).encode())
    except (OSError, RuntimeError):  # no home at all
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
