"""Sweeps as jobs of a Ray cluster: submit, logs, stop. A job is named by its id or by the folder of its run."""

import asyncio
import json
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import click

import ambient_sweep
from ambient_sweep import trust
from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import (
    PATH,
    as_json,
    located,
    name_option,
    overrides_argument,
    storage_option,
    tell,
    trust_option,
)
from ambient_sweep.config import parse_overrides, read_yaml
from ambient_sweep.config.files import PATH_KEYS, flatten, lasting_path
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.object_client import is_url, refuse_keys
from ambient_sweep.provenance import REVISION, code_revision
from ambient_sweep.sweep.running.machine import check_token
from ambient_sweep.sweep.space.file import SWEEP_FILE, load_sweep, write_sweep
from ambient_sweep.sweep.space.validation import check_space
from ambient_sweep.text import command, counted

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ADDRESS = "http://127.0.0.1:8265"
TOKEN_FILE = Path("~/.ambient-sweep/ray-token")  # as cluster/head.sh makes it
RUN = "ambient-sweep.run"  # in a job's metadata: the folder of its run
STOP_SECONDS = 60  # that a stopped sweep has to save its trials
ANSWER_SECONDS, ANSWER_BYTES = 10, 2**16  # of a dashboard, at most

JOB = re.compile(r"[^/]+-[0-9a-f]{6}")

address_option = click.option(
    "--address", envvar="RAY_API_SERVER_ADDRESS", default=ADDRESS, help="URL of the cluster's dashboard."
)


@commands.command()
@click.argument("what", metavar="FILE|RUN")
@overrides_argument
@click.option("--storage", help="Folder of all runs: an absolute path that every node reads and writes. FILE needs it.")
@name_option
@address_option
@trust_option
@click.option("--detach", is_flag=True, help="Return at once instead of following the log.")
def submit(
    what: str, overrides: tuple[str, ...], storage: str | None, name: str | None, address: str, detach: bool
) -> None:
    """Run the sweep in FILE, or resume RUN, as a job on a Ray cluster, and follow its log.

    Sends the sweep file and this version of the package; the cluster's Python needs the packages that it depends on.
    Takes the token from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ambient-sweep/ray-token.
    """
    with tempfile.TemporaryDirectory() as folder:
        if what.endswith((".yaml", ".yml")):
            words, root = _new(Path(what), overrides, storage, name, Path(folder))
        else:
            root = _on_cluster("RUN", what)
            words = ["resume", root, *overrides]
        with _client(address) as client:
            if any((each.metadata or {})[RUN] == root and not each.status.is_terminal() for each in _jobs(client)):
                raise UserError(f"{root}: a job writes it now; `{command('stop', root)}` stops it")
            if words[0] == "run" and Path(root).exists():  # on this machine, which need not see it
                raise UserError(
                    f"{root}: exists already; `{command('submit', root)}` resumes it, or give another --name"
                )
            job = f"{Path(urlsplit(root).path).name}-{secrets.token_hex(3)}"
            runtime = {
                "working_dir": folder,
                "py_modules": [str(Path(ambient_sweep.__file__).parent)],
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), REVISION: code_revision() or ""},
            }
            start = shlex.join(["python", "-m", "ambient_sweep", *words, *["--trust"] * trust.given()])
            client.submit_job(entrypoint=start, submission_id=job, runtime_env=runtime, metadata={RUN: root})
    click.echo(f"job {job} writes {root}\n`{command('logs', job)}` follows it, `{command('stop', job)}` stops it")
    if not detach:
        _follow(address, job)


@commands.command()
@click.argument("which", metavar="JOB|RUN")
@address_option
def logs(which: str, address: str) -> None:
    """Follow the log of a submitted job, given by its id or the folder of its run, until the job ends."""
    with _client(address) as client:
        job = _find(client, which).submission_id
    _follow(address, str(job))


@commands.command()
@click.argument("which", metavar="JOB|RUN")
@address_option
def stop(which: str, address: str) -> None:
    """Stop a submitted job, given by its id or the folder of its run. Its trials save; `submit RUN` resumes it."""
    with _client(address) as client:
        job = _find(client, which)
        identifier, run = str(job.submission_id), (job.metadata or {})[RUN]
        if not client.stop_job(identifier):
            raise UserError(f"{identifier}: has ended already ({job.status.lower()})")
        deadline = time.monotonic() + 2 * STOP_SECONDS
        while not client.get_job_status(identifier).is_terminal():
            if time.monotonic() > deadline:
                raise AmbientSweepError(f"{identifier}: still stopping; `{command('logs', identifier)}` shows its log")
            time.sleep(0.5)
    click.echo(f"job {identifier}: stopped; `{command('submit', run)}` resumes it")


def _new(
    file: Path, overrides: tuple[str, ...], storage: str | None, name: str | None, folder: Path
) -> tuple[list[str], str]:
    """Writes the sweep to `folder`, checked; the command for it, and the folder of its run."""
    changes = parse_overrides(overrides)
    base = read_yaml(file).get("base")
    for key, value in ((flatten(base) if isinstance(base, dict) else {}) | changes).items():
        if key in PATH_KEYS and value:
            _on_cluster(key, str(value))
    if storage is None:
        raise UserError("--storage: missing; give the folder of all runs, an absolute path that every node sees")
    storage = _on_cluster("--storage", storage)
    sweep = load_sweep(file, changes | ({"name": name} if name else {}))
    check_space(sweep)
    write_sweep(sweep, folder / SWEEP_FILE)
    folder_of_runs, query, options = storage.partition("?") if is_url(storage) else (storage, "", "")
    return ["run", SWEEP_FILE, "--storage", storage], f"{folder_of_runs}/{sweep.name}{query}{options}"


def _on_cluster(key: str, place: str) -> str:
    """`place` as it is recorded, without a slash at its end. Raises UserError, naming `key`, for what no job can use: a
    relative path, since a job runs in a folder of its own; a URL of no object store, or with keys in it, which would stand
    in the job's record; a URL for what is read from files."""
    if key not in PATH_KEYS and is_url(place):
        refuse_keys(place)
        parts = urlsplit(place)
        return parts._replace(path=parts.path.rstrip("/")).geturl()
    if "://" in place or not Path(place).is_absolute():
        what = "a URL that cannot be used here" if "://" in place else "relative, but a job runs elsewhere"
        raise UserError(f"{key}: {place} is {what}; give an absolute path that every node sees")
    return os.path.normpath(place)


@commands.command()
@click.argument("file", type=PATH, required=False)
@overrides_argument
@storage_option
@click.option(
    "--address", envvar="RAY_ADDRESS", help="HOST:PORT of a Ray head; without it, Ray starts on this machine."
)
@trust_option
@as_json
def doctor(file: Path | None, overrides: tuple[str, ...], storage: Path, address: str | None, as_json: bool) -> None:
    """Examine a Ray cluster, for the sweep in FILE if given: a line per finding, with its cure; exit code 1 for problems.

    Looks at the token; at every node's versions, clock, disk, GPUs and second Ray instances; whether each node sees and
    locks files in --storage; and, with FILE, at images, encoder weights and room for its trials.
    """
    if address:
        os.environ["RAY_ADDRESS"] = address
        _use_token()
    from ambient_sweep.sweep.checks.doctor import examine
    from ambient_sweep.sweep.running.cluster import ray_session

    sweep = load_sweep(file, parse_overrides(overrides)) if file else None
    with ray_session(dashboard=False):
        findings = examine(sweep, lasting_path("--storage", storage))
    problems = [finding.text for finding in findings if not finding.well]
    lines = [f"{'ok      ' if finding.well else 'problem '}{finding.text}" for finding in findings]
    tell({"findings": [asdict(finding) for finding in findings]}, lines, as_json)
    if problems:
        raise AmbientSweepError(f"{counted(len(problems), 'problem')}; see above")


def _use_token() -> None:
    """Sets the environment from which Ray, when it is imported, takes the token of a cluster. Raises UserError for a file
    without one."""
    if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} and TOKEN_FILE.expanduser().exists():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(TOKEN_FILE.expanduser())
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    check_token()


@contextmanager
def _client(address: str) -> "Iterator[JobSubmissionClient]":
    """A client of the cluster's job server. Its errors become one line each."""
    _use_token()
    from ray.exceptions import AuthenticationError  # Ray reads the environment when it is imported
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)
    if not address.startswith(("http://", "https://")):  # Ray imports what other schemes name
        raise UserError(f"--address: {address}: expected the URL of a Ray dashboard, such as {ADDRESS}")
    _check_dashboard(address)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray heeds it, and RAY_ADDRESS, more than what it is given
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(
            f"--address: {address}: {why}; set RAY_AUTH_TOKEN_PATH to the file of the token that the head was started with"
        ) from None
    except ConnectionError:
        raise UserError(_silent(address)) from None
    except (RuntimeError, ValueError) as error:
        raise AmbientSweepError(f"--address: {address}: {str(error).strip().splitlines()[-1]}") from None


def _check_dashboard(address: str) -> None:
    """Raises UserError, within seconds, where no Ray dashboard answers: Ray waits, or takes any answer for its own."""
    try:
        with urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS) as answer:
            known = "ray_version" in dict(json.loads(answer.read(ANSWER_BYTES)))
    except HTTPError as error:
        known = error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)  # the token is wrong, as Ray will say
    except (OSError, HTTPException, ValueError, TypeError):
        known = False
    if not known:
        raise UserError(_silent(address))


def _silent(address: str) -> str:
    return f"--address: no Ray dashboard answers at {address}; start a head (cluster/head.sh) or open a tunnel to it"


def run_of_job(job: str, address: str) -> Path:
    """The folder that a submitted job writes; `job` itself where it is not an id. Raises UserError for an unknown one."""
    if not JOB.fullmatch(job):
        return Path(job)
    with _client(address) as client:
        return located((_find(client, job).metadata or {})[RUN])


def _jobs(client: "JobSubmissionClient") -> "list[JobDetails]":
    """The submitted sweeps of this cluster, ended ones too."""
    return [job for job in client.list_jobs() if RUN in (job.metadata or {})]


def _find(client: "JobSubmissionClient", which: str) -> "JobDetails":
    """The job of this id, or the one that writes this folder: what runs, else the latest. Raises UserError without one."""
    jobs, run = _jobs(client), _on_cluster("RUN", which if is_url(which) else os.path.abspath(which))
    found = [job for job in jobs if which == job.submission_id or (job.metadata or {})[RUN] == run]
    if not found:
        known = ", ".join(str(job.submission_id) for job in jobs) or "none"
        raise UserError(f"{which}: not a submitted sweep on this cluster; its sweeps: {known}")
    return max(found, key=lambda job: (not job.status.is_terminal(), job.start_time or 0))


def _follow(address: str, job: str) -> None:
    """Prints the job's log until it ends. Raises AmbientSweepError, with the job's exit code, where it did not succeed."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            click.echo(text, nl=False)

    with _client(address) as client:
        run = (client.get_job_info(job).metadata or {})[RUN]
        try:
            asyncio.run(tail())
        except KeyboardInterrupt:
            raise AmbientSweepError(f"job {job} goes on; `{command('stop', job)}` stops it") from None
        except (RuntimeError, ConnectionError):
            raise AmbientSweepError(
                f"job {job}: the cluster at {address} answers no more; once it does, `{command('logs', job)}` follows the "
                f"job, and if its head was lost, `{command('submit', run)}` resumes it"
            ) from None
        ended, log = client.get_job_info(job), client.get_job_logs(job)
    if ended.status != "SUCCEEDED":
        own = log.rstrip().rpartition("\n")[2].removeprefix("error: ") if ended.driver_exit_code else ended.message
        error = AmbientSweepError(f"job {job}: {ended.status.lower()}: {own}")
        error.exit_code = max(1, ended.driver_exit_code or 1)  # below 0: ended by a signal
        raise error
