"""Ray and the operating system around a sweep: connecting, quiet settings, signals, one driver per folder."""

import contextlib
import itertools
import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray import PlacementGroupID
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from ambient_sweep import trust
from ambient_sweep.config import ResourcesConfig
from ambient_sweep.errors import AmbientSweepError, Resumable, UserError
from ambient_sweep.storage import keep_private, locked
from ambient_sweep.sweep.folder import DRIVER_LOCK
from ambient_sweep.sweep.running.faults import describe, expect_all_deaths
from ambient_sweep.sweep.running.machine import check_token, cores, ray_files
from ambient_sweep.sweep.running.signals import CHECK_SECONDS, WARNINGS, Stopped, StopRequest, say
from ambient_sweep.text import duration

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no console output of Tune's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write TensorBoard events themselves
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # one line each, by the callback, and a record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see signals.py
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # the driver starts such a trial again, not Tune
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing reads Tune's snapshots
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of tasks that nobody waits for any more, whose trial has failed and said so
}
SETTINGS_FRAME = b"\0\0\0\x04\0\0\0\0\0"  # an empty one of HTTP/2, by which both sides begin
ANSWER_SECONDS, SILENT_SECONDS = 5.0, 50.0
HEAD = "node:__internal_head__"  # the resource by which Ray marks a cluster's head
TRAINER_LOCK = ".trainer.lock"
FIRST_WAITING_SECONDS, WAITING_SECONDS = 5, 60  # until the first line about a busy cluster, and between two


def on_cluster(
    need: ResourcesConfig, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], stop: StopRequest,
    ended: Callable[[int], object] = lambda count: None,
) -> list[Any]:  # fmt: skip
    """What `function` returns for each of these arguments, in processes with the resources of a worker.

    `ended` hears now and then how many calls have ended. Raises what one of them raised, or Stopped, also where Ray's own
    attempts were lost with their processes; those that have not ended are cancelled.
    """

    def in_private(*arguments: Any) -> Any:
        keep_private()
        return function(*arguments)

    task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(in_private)
    tasks = [task.remote(*arguments) for arguments in calls]
    waiting = tasks
    try:
        while waiting:
            stop.check()
            done, waiting = ray.wait(waiting, timeout=CHECK_SECONDS)
            ray.get(done)
            ended(len(tasks) - len(waiting))
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise Stopped(describe(error)) from None
    finally:
        for left in waiting:
            ray.cancel(left)
    return list(ray.get(tasks))


def worker_bundle(need: ResourcesConfig) -> dict[str, float]:
    """The resources of one worker, in Ray's terms."""
    return {"CPU": need.cpus} | ({"GPU": need.gpus} if need.gpus else {})


def room(need: ResourcesConfig) -> str:
    """What a trial needs, and what of it is free."""
    free, total = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = {each: need.workers * amount for each, amount in worker_bundle(need).items()}
    lines = [
        f"a trial needs {amount:g} of {total.get(each, 0):g} {each}s, of which {free.get(each, 0):g} are free"
        for each, amount in wanted.items()
    ]
    if all(free.get(each, 0) >= amount for each, amount in wanted.items()):
        lines.append("its processes are starting")
    ours, held = ray.get_runtime_context().get_job_id(), Counter[str]()
    for group_id, group in placement_group_table().items():
        if group["state"] == "CREATED":
            job = group_id[-len(ours) :]  # it ends in that
            who = "trials of this sweep hold" if job == ours else f"job {job} holds"
            held[who] += sum(bundle.get("CPU", 0) for bundle in group["bundles"].values())
    return "; ".join([*lines, *(f"{who} {cpus:g} CPUs" for who, cpus in held.items() if cpus)])


def this_job() -> str:
    """This process's job of Ray's; ids of jobs begin anew with each head."""
    (head,) = {node["NodeID"] for node in ray.nodes() if HEAD in node["Resources"]}  # type: ignore[no-untyped-call]
    return f"{head}/{ray.get_runtime_context().get_job_id()}"


def release_jobs(jobs: Collection[str]) -> None:
    """Gives back what dead drivers hold of this cluster: where one is killed while Ray Train starts the workers of a trial,
    Ray reserves their slots for ever."""
    head, _, ours = this_job().partition("/")
    dead = tuple(job.partition("/")[2] for job in jobs if job.startswith(f"{head}/") and not job.endswith(f"/{ours}"))
    for group_id, group in placement_group_table().items():
        if dead and group_id.endswith(dead) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))


def wait_for_room(
    need: ResourcesConfig, echo: Callable[[str], None], stop: StopRequest, minutes: float = math.inf
) -> None:
    """Returns once a trial fits beside what else runs on the cluster; says now and then what for. Raises Stopped, also
    after so many minutes."""
    group = placement_group([worker_bundle(need)] * need.workers)
    try:
        for second in itertools.count():
            stop.check()
            if group.wait(timeout_seconds=1):
                return
            if second % WAITING_SECONDS == FIRST_WAITING_SECONDS:
                echo(f"waiting for room on the cluster: {room(need)}")
            if second > 60 * minutes:
                raise Stopped(f"no room on the cluster for {duration(60 * minutes)}: {room(need)}")
    finally:
        remove_placement_group(group)


@contextlib.contextmanager
def nodes_for(need: ResourcesConfig, trials: int) -> Iterator[None]:
    """Asks the cluster's autoscaler, if it has one, for nodes for so many trials at once, until the block ends."""
    request_resources(bundles=[worker_bundle(need)] * need.workers * trials)
    try:
        yield
    finally:
        request_resources(bundles=[])


@contextlib.contextmanager
def ray_session(*, dashboard: bool) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names (as `ray job submit` sets it), or starts Ray on this machine; ends
    what it began. A Ray that runs in this process already is used and left alone.

    The dashboard frees the workers of a trial that is stopped, so sweeps with several workers per trial need it. Raises
    AmbientSweepError where Ray cannot be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    check_address()
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.nullcontext() if address else ray_files():
        _connect(address, dashboard)
        over = threading.Event()
        head = ray.get_runtime_context().gcs_address
        threading.Thread(target=watch_head, args=(head, over), name="watch", daemon=True).start()
        try:
            yield
        finally:
            over.set()
            ray.shutdown()


def watch_head(
    address: str, over: threading.Event, every: float = ANSWER_SECONDS, most: float = SILENT_SECONDS
) -> None:
    """Ends this process where the head of the cluster has not answered for `most` seconds.

    Ray itself would after 60, without a word on what then; until then, its calls do not return.
    """
    host, _, port = address.rpartition(":")
    last = time.monotonic()
    while not over.wait(every) and time.monotonic() - last < most:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=every).close()
            last = time.monotonic()
    if not over.is_set():
        say(f"error: the Ray cluster at {address} answers no more; once it does, `resume` goes on, or the same `train`")
        os._exit(Resumable.exit_code)


def check_address() -> None:
    """Raises UserError, within seconds, where RAY_ADDRESS names no cluster that answers: Ray itself tries for minutes, and
    prints. It is asked by the first bytes of HTTP/2, which Ray's servers speak. Without the token it is not asked."""
    check_token()
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        target = urlsplit(address if "//" in address else f"//{address}")
        if address in ("", "auto", "local"):
            return
        if target.port is None:
            raise ValueError("no HOST:PORT")
        with socket.create_connection((target.hostname or "", target.port), timeout=ANSWER_SECONDS) as server:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME)
                if server.recv(len(SETTINGS_FRAME))[3:4] != SETTINGS_FRAME[3:4]:
                    raise OSError("another service")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({why}); start one, set RAY_ADDRESS (--address of "
            "`doctor`) to the HOST:PORT of a Ray head, not of its dashboard, or unset it to run on this machine"
        ) from None


def _connect(address: str | None, dashboard: bool) -> None:
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray replaces it
    held = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)  # Ray's processes never get those sent to the whole group
    warnings = bytearray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:  # without which Ray Train's cleaner of what a trial held finds no cluster beside another on its machine
        quiet["runtime_env"] = {"env_vars": {"RAY_ADDRESS": address, **trust.environment()}}
    try:
        if address:
            with _reading(warnings):
                ray.init(address, **quiet)
        else:
            # "local": without it, Ray joins any cluster that was once started on this machine, or waits for a dead one
            ray.init("local", include_dashboard=dashboard, num_cpus=cores(), **quiet)
    except Exception as error:  # noqa: BLE001 (Ray raises plain ones, as for a start that took too long)
        where = f"at RAY_ADDRESS={address}" if address else "on this machine"
        text = f"{' '.join(str(error).split()).partition('. ')[0]}; run the command again, or `resume`"
        if isinstance(error, AuthenticationError) or b"InvalidAuthToken" in warnings:
            text = "it refuses the token; set RAY_AUTH_TOKEN_PATH to the file with the token of its head"
        raise AmbientSweepError(f"Ray cannot be used {where}: {text}") from None
    except SystemExit:  # by Ray's handler of SIGTERM
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def _reading(written: bytearray) -> Iterator[None]:
    """Takes what Ray's own code, which is not Python's, writes to standard error in the block."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            written += file.read()


@contextlib.contextmanager
def ray_output_to(path: Path) -> Iterator[None]:
    """Keeps out of standard output what Ray prints there unasked (a page when a worker dies), and appends it to `path`.

    Only Python's own stdout is turned aside, not the file descriptor; a `Screen` made before prints as it did.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def quiet_tune() -> None:
    """Settings of Tune for this process; its log stays silent, since it advises to use Tune's own commands."""
    expect_all_deaths()
    os.environ.update(SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def only_driver(root: Path) -> Iterator[None]:
    """Holds the sweep's folder for this process. Raises UserError if another one has it, or it cannot be written."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(root / DRIVER_LOCK, wait=False))
        except BlockingIOError:
            raise UserError(f"{root}: another process runs this sweep now; wait for it, or end it first") from None
        except OSError as error:
            raise UserError(
                f"{root}: cannot be written or locked ({error.strerror}); make it writable, then run the command again"
            ) from None
        yield


def only_trainer(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds a trial's folder for this process, once any other has let it go: a trial's process outlives a killed driver
    by some seconds, and would write beside its successor."""
    return locked(folder / TRAINER_LOCK, wait=True)
