"""The commands that messages name can be pasted into a shell, whatever the paths in them hold."""

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import bad, good
from made_up_sweeps import fill
from PIL import Image
from ray.job_submission import JobStatus
from small_trials import small

import ambient_sweep
from ambient_sweep.cli import jobs
from ambient_sweep.config import load_config
from ambient_sweep.results.export import export_tables
from ambient_sweep.results.frontier.select import select
from ambient_sweep.sweep.checks import dry_run
from ambient_sweep.sweep.checks.dry_run import Pace
from ambient_sweep.sweep.space.file import load_sweep, write_sweep
from ambient_sweep.sweep.standing import SESSION_FILE, Session
from ambient_sweep.text import command
from ambient_sweep.trial.records import write_json
from ambient_sweep.trial.retention import discard
from ambient_sweep.trial.run import run_trial

HOSTILE = "h <i>\"q\" 'x' ü=50%&a;$HOME"


def commands(text: str) -> list[list[str]]:
    """The words of each command in backticks, as a shell splits them."""
    return [shlex.split(found) for found in re.findall(r"`(ambient-sweep .*?)`", text)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sweep whose driver was killed, in a folder with every trap of the shell."""
    root = fill(tmp_path / HOSTILE / "run", trials=6)
    (tmp_path / "run.yaml").write_text("space: {observed.sigma: {uniform: [0.1, 0.5]}}")
    write_sweep(load_sweep(tmp_path / "run.yaml"), root / "sweep.yaml")
    write_json(root / SESSION_FILE, Session(0.0, 0))
    return root


def test_plain_paths_are_printed_as_they_are() -> None:
    assert command("resume", Path("runs/digits-0.1_b")) == "ambient-sweep resume runs/digits-0.1_b"


def test_no_message_puts_a_value_into_a_command_by_itself() -> None:
    sources = list(Path(ambient_sweep.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    for source in sources:
        assert not re.search(r"ambient-sweep [a-z]+\s+[\"'{]", source.read_text(encoding="utf-8")), source


def test_of_a_sweep(run: Path) -> None:
    summary = good("report", run).splitlines()[-1]
    assert shlex.split(summary)[1:] == ["ambient-sweep", "tensorboard", str(run)]
    assert commands(good("status", run)) == [["ambient-sweep", "resume", str(run)]]
    assert commands(bad("run", run.parents[1] / "run.yaml", "--storage", run.parent)) == [
        ["ambient-sweep", "resume", str(run)]
    ]
    (run / "trials.parquet").unlink()
    (run / "trials.parquet").mkdir()
    assert commands(bad("report", run)) == [["ambient-sweep", "report", str(run)]]


def test_of_best(run: Path) -> None:
    checkpoint = run / select(export_tables(run).evaluations, "knee").row["checkpoint"]
    checkpoint.mkdir(parents=True)
    out = run.parent / "best it.yaml"
    sample, train = commands(good("best", run, "--out", out))
    assert sample[:3] == ["ambient-sweep", "sample", str(checkpoint)]
    assert train == ["ambient-sweep", "train", str(out)]


def test_of_a_checkpoint_that_was_removed(prepared: Path, tmp_path: Path) -> None:
    root = shutil.copytree(prepared, tmp_path / HOSTILE)
    run_trial(small(), root, "a")
    discard(root, [])
    ((_, _, config),) = commands(bad("sample", root / "trials" / "a", "--out", tmp_path / "out"))
    assert load_config(Path(config)) == small()


def test_of_images_and_of_the_sweep_file_that_init_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "measure_pace", lambda config, data: Pace(30.0, 90.0))
    store, file = tmp_path / HOSTILE / "store", tmp_path / HOSTILE / "s.yaml"
    (tmp_path / "photos").mkdir()
    for i in range(24):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / "photos" / f"{i}.png")
    keys = ["data.source=folder", f"data.path={tmp_path / 'photos'}", "data.image_size=8", "data.channels=1"]
    assert commands(good("prepare", store, *keys)) == [["ambient-sweep", "init", str(store)]]
    assert commands(good("init", store, "--out", file)) == [["ambient-sweep", "run", str(file)]]
    first = file.read_text().splitlines()[0].partition("ambient-sweep")[2]
    assert shlex.split(first) == ["run", str(file)]
    good("validate", file)
    two = tmp_path / "a\nspace: {}.yaml"
    good("init", store, "--out", two)
    good("validate", two)


class Client:
    """Takes every job, and ends it when asked."""

    submission_id, start_time, status = "run-0a1b2c", 1, JobStatus.STOPPED

    def __init__(self, run: Path) -> None:
        self.metadata = {jobs.RUN: str(run)}

    def submit_job(self, **job: object) -> None:
        self.metadata = job["metadata"]  # type: ignore[assignment]

    def list_jobs(self) -> list["Client"]:
        return [self]

    def stop_job(self, job: str) -> bool:
        return job == self.submission_id

    def get_job_status(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(is_terminal=lambda: True)


def test_of_jobs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def client(address: str) -> Iterator[Client]:
        yield Client(run)

    monkeypatch.setattr(jobs, "_client", client)
    logs, stop = commands(good("submit", run, "--detach"))
    assert (logs[:2], stop[:2], logs[2]) == (["ambient-sweep", "logs"], ["ambient-sweep", "stop"], stop[2])
    assert commands(good("stop", run)) == [["ambient-sweep", "submit", str(run)]]
