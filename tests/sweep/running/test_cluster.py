"""Locks, signals and output around a sweep; no Ray is started here."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.exceptions import AuthenticationError

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.running import cluster
from ambient_sweep.sweep.running.cluster import (
    check_address,
    only_driver,
    only_trainer,
    ray_output_to,
    ray_session,
)
from ambient_sweep.sweep.running.signals import AT_ONCE, WARNINGS, Stopped, stop_signals
from ambient_sweep.terminal import Screen


def test_a_second_driver_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with only_driver(tmp_path), pytest.raises(UserError, match="another process runs this sweep now"):
        only_driver(tmp_path).__enter__()
    with only_driver(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".driver.lock").mkdir()  # which stops root as well
    with pytest.raises(
        UserError, match=rf"^{tmp_path}: cannot be written or locked \(Is a directory\); make it writable"
    ):
        only_driver(tmp_path).__enter__()


def test_a_trial_waits_for_the_process_that_still_trains_it(tmp_path: Path) -> None:
    hold = "import sys, time; from ambient_sweep.sweep.running.cluster import only_trainer; from pathlib import Path\n"
    hold += "with only_trainer(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "t")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    entered = threading.Event()

    def enter() -> None:
        with only_trainer(tmp_path / "t"):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.5)
    other.kill()  # as a driver's death does
    other.wait()
    assert entered.wait(10)
    thread.join()


def test_a_process_that_enters_a_trial_s_folder_can_be_told_by_the_lock_s_time(tmp_path: Path) -> None:
    """Also where the lock is there already, and empty: opening it truncates it."""
    times = set[int]()
    for _ in range(3):
        with only_trainer(tmp_path):
            times.add((tmp_path / cluster.TRAINER_LOCK).stat().st_mtime_ns)
        time.sleep(0.05)
    assert len(times) == 3


@pytest.mark.parametrize("number", [*AT_ONCE, *WARNINGS])
def test_the_first_signal_asks_for_an_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(number) == before


def test_a_warning_may_come_twice_and_is_taken_back_from_others() -> None:
    with stop_signals() as stop:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # as Tune does, with a handler that ends as if finished
        stop.listen()
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.asked()


@pytest.mark.parametrize("number", WARNINGS)
def test_a_warning_that_was_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)  # as nohup does
    try:
        with stop_signals() as stop:
            signal.raise_signal(number)
            assert not stop.asked()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_what_others_print_does_not_reach_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(print) as screen, ray_output_to(tmp_path / "ray" / "output.log"):
        print("a page about a dead worker")
        screen.line("a line of ours")
    assert capsys.readouterr().out == "a line of ours\n"
    assert (tmp_path / "ray" / "output.log").read_text() == "a page about a dead worker\n"


@pytest.mark.parametrize("kind", ["nothing", "silent", "web", "port", "word"])
def test_an_address_where_no_cluster_answers_is_told_in_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = f"http://127.0.0.1:{port}" if kind == "web" else f"127.0.0.1:{port if kind != 'port' else 'ray'}"
        address = "garbage" if kind == "word" else address
        monkeypatch.setenv("RAY_ADDRESS", address)
        if kind == "nothing":
            server.close()
        if kind == "web":
            threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")).start()
        with pytest.raises(UserError) as caught:
            check_address()
    why = {
        "nothing": "Connection refused",
        "silent": "timed out",
        "web": "another service",
        "port": "Port could not be",
        "word": "no HOST:PORT",
    }
    assert str(caught.value).startswith(f"RAY_ADDRESS={address}: no Ray cluster answers there ({why[kind]}")
    assert "unset it" in str(caught.value)


def test_a_head_that_answers_no_more_ends_the_process_with_a_line_on_what_then() -> None:
    code = "import socket, threading; from ambient_sweep.sweep.running.cluster import watch_head\n"
    code += "server = socket.create_server(('127.0.0.1', 0)); address = f'127.0.0.1:{server.getsockname()[1]}'\n"
    code += "threading.Timer(1, server.close).start(); watch_head(address, threading.Event(), 0.1, 0.5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    said = re.fullmatch(
        r"error: the Ray cluster at 127\.0\.0\.1:\d+ answers no more; once it does, (.*)\n", done.stderr
    )
    assert said is not None
    assert said[1] == "`resume` goes on, or the same `train`"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            Exception("The current node timed out during startup. This could happen because\nsome"),
            "The current node timed out during startup; run the command again, or `resume`",
        ),
        (
            AuthenticationError("no"),
            "it refuses the token; set RAY_AUTH_TOKEN_PATH to the file with the token of its head",
        ),
    ],
)
def test_a_ray_that_does_not_start_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, said: str
) -> None:
    def init(*arguments: object, **more: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(AmbientSweepError) as caught:
        ray_session(dashboard=False).__enter__()
    assert str(caught.value) == f"Ray cannot be used on this machine: {said}"


def test_ray_s_own_warnings_about_the_token_are_read(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(*arguments: object, **more: object) -> None:
        os.write(2, b"W gcs_client.cc:210: InvalidAuthToken: missing or incorrect\n")
        raise ConnectionError("Failed to connect")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(AmbientSweepError, match=r"^Ray cannot be used at RAY_ADDRESS=auto: it refuses the token; set"):
        ray_session(dashboard=False).__enter__()
    assert capfd.readouterr().err == ""
