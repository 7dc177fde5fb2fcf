"""A sweep as a job of a head node with token auth, by `ray job submit` and by `ambient-sweep submit`."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from command_line import bad
from listening import listening, metrics

pytestmark = pytest.mark.xdist_group("cluster")

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def status(url: str, token: str | None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def head(tmp_path):
    """A head node of our own; ended with all its processes, and nobody else's."""
    port, address, folder = free_port(), free_port(), tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path
    environment = {
        **os.environ,
        "RAY_TMPDIR": folder,  # Ray notes the newest head in it
        "TMPDIR": folder,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "own" / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):  # of the Ray of other tests
        environment.pop(name, None)
    options = ["--port", str(address), "--dashboard-port", str(port), "--num-cpus", "2"]
    options += ["--dashboard-agent-listen-port", str(free_port())]  # the default may be another Ray's
    log = (tmp_path / "head.log").open("w")
    command = [ROOT / "cluster" / "head.sh", *options]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, umask=0)
    url = f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        token = (tmp_path / "own" / "token").read_text() if (tmp_path / "own" / "token").exists() else None
        if token and status(url, token) == 200:
            break
        time.sleep(0.5)
    else:
        process.terminate()
        pytest.fail((tmp_path / "head.log").read_text())
    yield environment, url, token, process.pid
    process.terminate()  # `ray start --block` ends its node's processes
    process.wait(timeout=60)
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


HOLD = """
import ray, time
ray.init()
ray.get(ray.util.placement_group([{"CPU": 2}]).ready())
print("held", ray.get_runtime_context().get_job_id(), flush=True)
time.sleep(600)
"""


def test_on_a_busy_cluster_a_line_says_what_is_waited_for(head, tmp_path):
    environment, *_ = head
    current = Path(environment["RAY_TMPDIR"], "ray", "ray_current_cluster")
    deadline = time.monotonic() + 60
    while not current.exists() and time.monotonic() < deadline:  # written after the first answer
        time.sleep(0.2)
    environment = {**environment, "RAY_ADDRESS": current.read_text(), "RAY_AUTH_MODE": "token"}
    other = subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True)
    held, job = other.stdout.readline().split()
    assert held == "held"
    command = [
        sys.executable,
        "-m",
        "ambient_sweep",
        "run",
        ROOT / "search_spaces" / "digits.yaml",
        "--storage",
        tmp_path,
    ]
    sweep = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(sweep.stdout.readline, "")
        line = next(line for line in lines if line.startswith("waiting"))
        said = f"a trial needs 1 of 2 CPUs, of which 0 are free; job {job} holds 2 CPUs"
        assert line == f"waiting for room on the cluster: {said}\n"
        sweep.terminate()
        assert sweep.wait(30) == 1
        assert not (tmp_path / "digits").exists()  # nothing was trained
    finally:
        for process in (sweep, other):
            process.kill()
            process.wait()


def until_taken(call, *words):
    """For the first seconds of its life a head says that no agent is there yet to take a job."""
    deadline = time.monotonic() + 60
    while True:
        done = call(*words)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


SMALL = [
    "training.images=3200", "model.width=16", "evaluation.samples=32", "sampling.steps=4", "search.trials=1",
    "evaluation.distances=[fd_classifier]", "baseline.seeds=[0]", "evaluation.lengths=[0.5,1.0]",
    "search.stopping.rule=none",
]  # fmt: skip


def command(*words, environment, cwd):
    return subprocess.run(
        [sys.executable, "-m", "ambient_sweep", *map(str, words)],
        env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--storage", "runs"], "--storage: runs is relative, but a job runs elsewhere; give an absolute path"),
        (["--storage", "file:///x"], "--storage: file:///x is a URL that cannot be used here; give an absolute path"),
        (["--storage", "http://a/x"], "--storage: http://a/x is a URL that cannot be used here; give an absolute path"),
        (["--storage", "s3://KEY:SECRET@bucket/x"], "s3://bucket: leave keys out of the URL; the environment holds"),
        (
            ["--storage", "/x", "data.path=s3://a/b"],
            "data.path: s3://a/b is a URL that cannot be used here; give an abs",
        ),
        (
            ["--storage", "/x", "data.path=images"],
            "data.path: images is relative, but a job runs elsewhere; give an abs",
        ),
    ],
)
def test_what_no_job_could_use_is_refused_before_anything_is_sent(words, said):
    assert bad("submit", ROOT / "search_spaces" / "digits.yaml", *words).startswith(f"error: {said}")


def test_a_missing_file_of_the_token_is_named(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    done = command("logs", "x", environment=environment | {"RAY_AUTH_TOKEN_PATH": "/no/token"}, cwd=tmp_path)
    assert "cannot be opened or is empty: /no/token; set RAY_AUTH_TOKEN_PATH to the file" in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_submit_logs_stop_and_resume_without_a_checkout(head, tmp_path):
    environment, *_ = head
    file, storage = tmp_path / "sweep.yaml", tmp_path / "storage"
    shutil.copy(ROOT / "search_spaces" / "digits.yaml", file)

    def run(*words):
        return command(*words, environment=environment, cwd=tmp_path)

    wrong = command(
        "submit", file, "--storage", storage, environment={**environment, "RAY_AUTH_TOKEN": "wrong"}, cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert "Invalid authentication token; set RAY_AUTH_TOKEN_PATH to the file" in wrong.stderr
    assert wrong.stderr.count("\n") == 1

    sent = until_taken(
        run,
        "submit",
        file,
        *SMALL[1:],
        "training.images=1_000_000",
        "--storage",
        storage,
        "--name",
        "one",
        "--trust",
        "--detach",
    )
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.split()[1]
    assert sent.stdout.startswith(f"job {job} writes {storage}/one\n")
    deadline = time.monotonic() + 120
    while not list(storage.glob("one/trials/*/trial.json")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert run("status", job).stdout.startswith(f"{storage}/one: ")
    for again in (("submit", file, "--storage", f"{storage}/", "--name", "one"), ("submit", f"{storage}/one/")):
        taken = run(*again)
        assert (taken.returncode, taken.stdout) == (2, "")
        assert f"{storage}/one: a job writes it now; `ambient-sweep stop {storage}/one` stops it" in taken.stderr
    stopped = run("stop", storage / "one")
    assert stopped.stdout == f"job {job}: stopped; `ambient-sweep submit {storage}/one` resumes it\n", stopped.stderr
    log = run("logs", job)
    assert log.returncode == 1
    assert f"`ambient-sweep resume {storage}/one` continues from here" in log.stdout
    again = run("stop", job)
    assert (again.returncode, again.stderr) == (2, f"error: {job}: has ended already (stopped)\n")
    private = [path for path in storage.rglob("*") if "ray" not in path.parts and path.stat().st_mode & 0o077]
    assert not private

    taken = run("submit", file, "--storage", storage, "--name", "one")
    assert f"{storage}/one: exists already; `ambient-sweep submit {storage}/one` resumes it" in taken.stderr
    absent = run("submit", storage / "absent")  # as far as this machine knows, another may see it
    assert absent.returncode == 2
    why = absent.stdout.splitlines()[-1].removeprefix("error: ")
    assert re.fullmatch(rf"error: job absent-\w+: failed: {re.escape(why)}\n", absent.stderr), absent.stderr
    resumed = run("submit", storage / "one", "--detach").stdout.split()[1]
    assert resumed != job
    assert f"job {resumed}: stopped" in run("stop", storage / "one").stdout  # the latest job of the run


def submit(*words, environment):
    """As docs/cluster.md says."""
    lines = re.search(
        r"^    revision=.*? -- \\\n", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return subprocess.run(
        ["bash", "-c", f'{textwrap.dedent(lines[0])} "$@"', "bash", *words],
        env=environment | {"RAY_AUTH_MODE": "token"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip


def test_a_sweep_runs_as_a_ray_job_behind_a_token(head, tmp_path):
    environment, url, _, session = head
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "own", tmp_path / "own" / "token")] == [0, 0]
    assert status(url, None) in (401, 403)  # no token, no entry
    assert status(url, "wrong") in (401, 403)
    storage = tmp_path / "storage"
    run = partial(submit, "ambient-sweep", "run", "search_spaces/digits.yaml", environment=environment)
    lost = until_taken(run)
    assert lost.returncode != 0
    assert "error: --storage: runs is in this Ray job's temporary folder" in lost.stdout
    done = run("--storage", str(storage), *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert str(storage / "digits" / "report.html") in done.stdout
    trials = pd.read_parquet(storage / "digits" / "trials.parquet")
    assert len(trials) == 1 + 1 + 7  # searched, baseline, controls
    assert set(trials["status"]) == {"completed"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    (revision,) = set(trials["code_revision"])
    assert (revision or "").removesuffix("+changes") == head.stdout.strip()
    places = listening(session)
    assert ("127.0.0.1", urlsplit(url).port) in places
    assert metrics(places) == []
