"""A sweep whose storage is a URL: the numbers of one in a folder, though its driver is killed and its server goes away."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from processes import end_session, wait_until
from s3_server import S3Server
from small_sweeps import small_sweep

from ambient_sweep.object_store import open_url
from ambient_sweep.sweep.run import run_sweep
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.records import read_trials

pytestmark = pytest.mark.xdist_group("ray")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command as on a machine of its own, with an empty scratch folder."""
    started: list[subprocess.Popen[str]] = []

    def popen(*words: str) -> "subprocess.Popen[str]":
        scratch = tmp_path / f"scratch-{len(started)}"
        scratch.mkdir()
        environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "ambient_sweep", *words]
        with (tmp_path / f"{len(started)}.out").open("w") as out:
            started.append(
                subprocess.Popen(command, stdout=out, stderr=out, text=True, start_new_session=True, env=environment)
            )
        return started[-1]

    yield popen
    for process in started:
        end_session(process)


def sweep_of(folder: Path) -> Sweep:
    changes: dict[str, Any] = {"search__sampler": "random", "training__images": 32_000}
    return small_sweep(folder, "confirm: {samples: 2x}", **changes)


def numbers(table: Any) -> list[tuple[Any, ...]]:
    """All that was measured, of trials whose ids were drawn."""
    names = ("role", "observed.sigma", "consistency.start", "images", "endpoint", "evaluation_seed", "samples")
    values = ("fidelity", "fidelity_low", "memorization", "mem_ratio", "on_front")
    return sorted(tuple(row[name] for name in (*names, *values)) for row in table.to_pylist())


@pytest.fixture(scope="module")
def undisturbed(ray_head: None, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    root = run_sweep(sweep_of(folder), folder / "runs", echo=lambda line: None).root
    return numbers(pq.read_table(root / "evaluations.parquet"))


def of_url(s3: S3Server, folder: str, scratch: Path) -> list[tuple[Any, ...]]:
    file = scratch / "evaluations.parquet"
    file.write_bytes(s3.read(f"bucket/{folder}/small/evaluations.parquet"))
    return numbers(pq.read_table(file))


def test_a_killed_sweep_goes_on_on_another_machine(
    tmp_path: Path, s3: S3Server, start: Start, undisturbed: list[tuple[Any, ...]]
) -> None:
    folder = uuid.uuid4().hex
    write_sweep(sweep_of(tmp_path), tmp_path / "small.yaml")
    first = start("run", str(tmp_path / "small.yaml"), "--storage", s3.url(folder))
    root = open_url(s3.url(f"{folder}/small"))
    wait_until(lambda: first.poll() is not None or len(read_trials(root)) == 3)  # all that were proposed have begun
    end_session(first)  # by SIGKILL, with its trials
    second = start("resume", s3.url(f"{folder}/small"))
    assert second.wait(300) == 0, (tmp_path / "1.out").read_text()
    assert of_url(s3, folder, tmp_path) == undisturbed
    names = s3.files(f"{folder}/small").keys()
    assert {"report.html", "best.yaml", "study.journal", "frontier.png", "sweep.yaml"} <= names
    assert not [name for name in names if name.startswith(("stages/", ".driver")) or "/state/" in name]
    assert str(tmp_path) not in s3.files(f"{folder}/small")["report.html"].decode()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, 60])
def test_a_server_that_is_away_costs_a_sweep_nothing_but_time(
    tmp_path: Path, s3: S3Server, start: Start, undisturbed: list[tuple[Any, ...]], seconds: float
) -> None:
    folder, said = uuid.uuid4().hex, tmp_path / "0.out"
    write_sweep(sweep_of(tmp_path), tmp_path / "small.yaml")
    process = start("run", str(tmp_path / "small.yaml"), "--storage", s3.url(folder))
    wait_until(lambda: process.poll() is not None or "50% trained" in said.read_text())
    s3.freeze()
    time.sleep(seconds)
    s3.thaw()
    assert process.wait(300) == 0, said.read_text()
    assert of_url(s3, folder, tmp_path) == undisturbed
    assert "failed; it goes on" not in said.read_text()
    assert seconds < 60 or f"{s3.url(folder)}: no answer for 15 seconds; waiting" in said.read_text()
