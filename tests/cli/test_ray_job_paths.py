"""A Ray job runs in a temporary copy of a folder: paths that would be lost with it are refused before anything starts."""

from pathlib import Path

import pytest
from command_line import bad

from ambient_sweep.config.files import lasting_path

SWEEP = "space: {observed.sigma: {uniform: [0.1, 0.5]}}"
WHY = "is in this Ray job's temporary folder; give an absolute path that every node sees"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The job's working copy, which is the current folder, as Ray makes it."""
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}}')
    return folder


def test_storage(copy: Path, tmp_path: Path) -> None:
    (copy / "link").symlink_to(copy)
    (tmp_path / "to-copy").symlink_to(copy)
    for given in ("runs", "../runs", copy / "runs", tmp_path / "to-copy" / "runs"):
        assert bad("run", "sweep.yaml", "--storage", given) == f"error: --storage: {given} {WHY}"
    assert bad("run", "sweep.yaml") == f"error: --storage: runs {WHY}"
    assert bad("resume", "runs/sweep") == f"error: FOLDER: runs/sweep {WHY}"
    (copy / "one.yaml").write_text("seed: 1\n")
    assert bad("train", "one.yaml", "--storage", "runs") == f"error: --storage: runs {WHY}"
    assert sorted(each.name for each in copy.iterdir()) == ["link", "one.yaml", "sweep.yaml"]


@pytest.mark.parametrize("key", ["data.path", "evaluation.path", "evaluation.encoder_file"])
def test_data(copy: Path, tmp_path: Path, key: str) -> None:
    for given in ("photos", copy / "photos"):
        line = bad("run", "sweep.yaml", f"{key}={given}", "--storage", tmp_path / "runs")
        assert line == f"error: {key}: {given} {WHY}"
    assert not (tmp_path / "runs").exists()


def test_absolute_paths_outside_and_relative_ones_without_a_job_are_taken(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lasting_path("--storage", tmp_path / "runs") == tmp_path / "runs"
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    assert lasting_path("--storage", Path("runs")) == copy / "runs"
