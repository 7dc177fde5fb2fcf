"""A Ray that a sweep starts itself: what it listens on, and trials that its memory monitor ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from listening import listening, metrics
from processes import end_session, wait_until
from small_sweeps import small_sweep

from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.training.state import state_name
from ambient_sweep.trial.records import read_trials

pytestmark = pytest.mark.xdist_group("ray")

GIB = 2**30
# Ray reads the memory of a container, whose files stand in for one that is nearly full.
IN_CONTAINER = 'mount --bind "$0" /sys/fs/cgroup && exec "$@"'


def test_a_trial_that_takes_all_memory_starts_again_and_then_fails(tmp_path: Path) -> None:
    sweep = small_sweep(
        tmp_path, observed__base_sigma=0.05, search__trials=1, search__max_failures=1, training__images=320_000
    )
    write_sweep(sweep, tmp_path / "in.yaml")
    root, cgroup, out = tmp_path / "runs" / "small", tmp_path / "cgroup", tmp_path / "out"
    cgroup.mkdir()
    (cgroup / "memory.max").write_text(f"{16 * GIB}")

    def use(gib: float) -> None:
        (cgroup / "memory.stat").write_text(f"anon {round(gib * GIB)}\ninactive_file 0\nactive_file 0\n")
        (cgroup / "memory.current").write_text(f"{round(gib * GIB)}")

    def fill_at(images: int) -> None:
        wait_until(lambda: any(path.name >= state_name(images) for path in root.glob("trials/*/state/images-*")))
        before = said("ran out of memory")
        use(15.9)
        wait_until(lambda: said("ran out of memory") > before, 30)
        use(2)

    def said(text: str) -> int:
        return out.read_text().count(text)

    use(2)
    command = [sys.executable, "-m", "ambient_sweep", "run", tmp_path / "in.yaml", "--storage", tmp_path / "runs"]
    with out.open("w") as file:
        driver = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", IN_CONTAINER, cgroup, *command],
            stdout=file, stderr=file, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        fill_at(32_000)
        assert said("the worker ran out of memory; it goes on from its last state (restart 1 of 1)") == 1
        places = listening(driver.pid)
        assert len(places) > 3
        assert metrics(places) == []
        fill_at(64_000)
        assert driver.wait(60) == 1
    finally:
        end_session(driver)
    (trial,) = read_trials(root)
    assert trial.reason == "worker failed, after 2 attempts: the worker ran out of memory"
    assert said(f"the only trial failed ({trial.trial_id}): {trial.reason}") == 1
