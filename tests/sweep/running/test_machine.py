"""Cores and a folder for Ray; no Ray is started here."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.running import machine
from ambient_sweep.sweep.running.machine import check_token, cores, ray_files

HERE = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def no_batch_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what the Ray of other tests in this process set."""
    for name in (*machine.BATCH_CORES, "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_cores_are_those_of_the_affinity() -> None:
    code = "import os; from ambient_sweep.sweep.running.machine import cores\n"
    code += "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize("name", machine.BATCH_CORES)
def test_cores_are_at_most_those_of_the_batch_system(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("1", "1(x2)", "1(x2),4"):
        monkeypatch.setenv(name, value)
        assert cores() == 1
    for ignored in ("1000", "", "many"):
        monkeypatch.setenv(name, ignored)
        assert cores() == HERE


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/job", {"job/cpu.max": "100000 100000"}, 1),
        ("0::/job/step", {"job/cpu.max": "100000 100000", "job/step/cpu.max": "max 100000"}, 1),
        ("0::/host/path", {"cpu.max": "50000 100000"}, 1),  # in a container
        ("0::/job", {"job/cpu.max": "max 100000"}, HERE),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpuacct,cpu:/job", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, HERE),
        ("3:cpuset:/job", {"job/cpu.max": "100000 100000"}, HERE),
    ],
)
def test_cores_are_at_most_the_quota_of_each_cgroup(
    tmp_path: Path, line: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert cores(tmp_path / "cgroup", tmp_path) == expected


def test_ray_gets_a_short_folder_of_its_own_which_goes_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with ray_files():
        folder = Path(os.environ["RAY_TMPDIR"])
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not folder.is_relative_to(long)
        assert tempfile.gettempdir() == str(folder)  # where Ray's dashboard has sockets
    assert not folder.exists()
    assert "RAY_TMPDIR" not in os.environ
    assert tempfile.gettempdir() == str(long)
    assert list(long.iterdir()) == []


def test_without_a_folder_for_ray_each_place_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, file, link = tmp_path / "missing", tmp_path / "file", Path("/proc/self")
    file.touch()
    monkeypatch.setattr(machine, "PLACES", (str(missing), str(file), str(link)))
    with pytest.raises(UserError) as caught:
        ray_files().__enter__()
    assert str(caught.value).startswith(
        f"Ray has no folder for its sockets and logs: {missing} (No such file or directory), {file} (Not a directory), "
        f"{link} ("
    )
    assert str(caught.value).endswith("; set RAY_TMPDIR to a writable one with a short path")


def test_ray_gets_a_token_unless_one_is_set_and_nothing_is_written_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
    with ray_files():
        assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    tokens = []
    for _ in range(2):
        with ray_files():
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert len(tokens[0]) == 64
    assert tokens[0] == tokens[1], "Ray remembers the first"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b" \n"])
def test_a_file_without_a_token_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(
        UserError, match=f"^Ray's token cannot be opened or is empty: {file}; set RAY_AUTH_TOKEN_PATH to"
    ):
        check_token()
    file.write_bytes(b"0" * 64)
    check_token()
    file.unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # goes first
    check_token()
