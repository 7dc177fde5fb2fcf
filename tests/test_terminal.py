"""Lines, display and bar in a real process: behind a pipe and in a pseudo-terminal, to the end and with its signals."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from ambient_sweep import terminal
from ambient_sweep.terminal import Screen, advance

# a driver as `run` has one: Ray's output turned aside, a trial that trains, an evaluation, a bar, the end
DRIVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from made_up_sweeps import CLASSIFIER, make_trial
from ambient_sweep.config import build_config
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import only_trainer, ray_output_to
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import stop_signals
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.terminal import Screen, advance
from ambient_sweep.trial.records import trial_folder, write_trial

class Clock:
    now = 0.0
    def __call__(self):
        return self.now

root, clock = Path(sys.argv[1]), Clock()
trial = SweepTrial("search", {{"observed.sigma": 0.2}}, trial_id="t1")
with stop_signals() as stop, Screen(print, live=True) as screen, ray_output_to(root / "ray" / "output.log"):
    progress = Progress(root, ("fd", "mem"), screen, Forecast(1000, 0, 4, (0.5,)), clock=clock)
    progress.trial_started(trial)
    for images in range(100, 600, 100):
        figures = dict(images_asked=1000, images_done=images, images_executed=images)
        write_trial(root, make_trial("t1", build_config(CLASSIFIER), status="running", **figures))
        with only_trainer(trial_folder(root, "t1")):
            pass
        print("a page of Ray's")
        progress.reported(trial, Report(fidelity=50 - images / 20, memorization=images / 1000, fraction=images / 1000))
        clock.now += 30
        progress.status({{"t1"}}, 2)
    time.sleep(0.3)  # a bar is drawn so often
    advance("measuring", 500, 600)
    print("ready", file=sys.stderr, flush=True)
    while len(sys.argv) > 2:
        progress.status({{"t1"}}, 2)
        clock.now += 10
        time.sleep(0.02)
        if len(sys.argv[2]) == 7:
            stop.check()
    progress.status((), 0, force=True)
print("the summary")
"""


def driver(tmp_path: Path, *words: str) -> list[str]:
    file = tmp_path / "driver.py"
    file.write_text(DRIVER.format(tests=str(Path(__file__).parent)))
    (tmp_path / "run").mkdir()
    return [sys.executable, str(file), str(tmp_path / "run"), *words]


class Terminal:
    """A process that has a pseudo-terminal of its own."""

    def __init__(self, command: list[str], columns: int = 80, rows: int = 24) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment["TERM"] = "xterm-256color"
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), text=True,
        )  # fmt: skip
        os.close(slave)

    def ready(self) -> None:
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == "ready\n"

    def output(self) -> str:
        """What it wrote until it ended."""
        parts = []
        while True:
            try:
                part = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
        self.process.wait(30)
        return b"".join(parts).decode()


def screen_of(output: str, columns: int = 80, rows: int = 24) -> list[str]:
    """What a terminal shows after this output: lines, also those scrolled away. Knows what rich writes."""
    lines, row, column, position = [""], 0, 0, 0
    while position < len(output):
        character = output[position]
        position += 1
        if character == "\x1b":
            end = position + 1
            while not output[end].isalpha():
                end += 1
            count, final = output[position + 1 : end], output[end]
            position = end + 1
            if final == "A":
                row = max(len(lines) - rows, 0, row - int(count or 1))
            elif final == "K":
                assert count == "2"
                lines[row] = ""
            else:
                assert final in "mhl", final
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            if column == columns:
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


TIMES = ("0:00", "0:30", "1:00", "1:30", "2:00")
EVALUATED = [
    f"[{when}] t1 sigma=0.2: {i}0% trained, fd {50 - 5 * i}, mem 0.{i}" for i, when in enumerate(TIMES, start=1)
]


def test_behind_a_pipe_lines_are_plain(tmp_path: Path) -> None:
    done = subprocess.run(driver(tmp_path), capture_output=True, text=True, timeout=100, check=True)
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert lines[::2][:5] == EVALUATED
    assert lines[1].startswith("[0:30] 0 of 4 trials done, 1 running (t1 at 100 of 1,000 images")
    assert lines[-1] == "the summary"
    assert (tmp_path / "run" / "ray" / "output.log").read_text() == "a page of Ray's\n" * 5


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 24), (80, 8), (20, 5)])
def test_in_a_terminal_the_lines_stay_and_the_display_goes(tmp_path: Path, columns: int, rows: int) -> None:
    """Also in one that is too narrow or too low for the display."""
    shell = Terminal(driver(tmp_path), columns, rows)
    output = shell.output()
    assert shell.process.returncode == 0
    shown = "".join(screen_of(output, columns, rows))
    last = "[2:30] 0 of 4 trials done, 0 running, 0 failed; frontier so far at main endpoints (fd/mem): "
    last += "45/0.1, 40/0.2, 35/0.3, 30/0.4, 25/0.5; about "
    squeezed = shown.replace(" ", "")  # where a line is broken, its blanks go
    assert squeezed.startswith("".join([*EVALUATED, last]).replace(" ", ""))
    assert squeezed.endswith("leftthesummary")
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor is shown"
    before = screen_of(output[: output.rindex("\n", 0, output.rindex("[2:30]"))], columns, rows)
    if (columns, rows) == (80, 24):
        assert "trials    0 of 4 trials done, 1 running, 2 paused, 0 failed" in output
        assert "trials    0 of 4 trials done, 0 running, 0 failed" in before
        assert "reached   50% by 1, 100% by 0" in before
        assert sum(line.count("*") for line in before if "|" in line) == 5
        assert any(line.startswith("measuring") and "500/600" in line for line in before)
    if (columns, rows) == (40, 24):
        words = "".join(before).replace(" ", "")
        assert "frontiersofaratmainendpoints(fd/mem):45/0.1,40/0.2,35/0.3,30/0.4,25/0.5" in words, "folded, not cut"
    assert "a page of Ray's" not in output


def test_a_signal_leaves_a_clean_terminal(tmp_path: Path) -> None:
    shell = Terminal(driver(tmp_path, "orderly"))
    shell.ready()
    shell.process.send_signal(signal.SIGINT)
    lines = [line for line in screen_of(shell.output()) if line]
    assert shell.process.returncode == 1
    assert lines == EVALUATED


def test_a_second_signal_at_once_leaves_the_cursor(tmp_path: Path) -> None:
    shell = Terminal(driver(tmp_path, "stubborn"))
    shell.ready()
    for _ in range(2):
        shell.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    output = shell.output()
    assert shell.process.returncode == -signal.SIGINT
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert screen_of(output)[-1] == "", "the prompt begins a line"


def test_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    """Its SIGHUP asks for the end as any signal does, and what is to be printed until then does not come in the way."""
    shell = Terminal(driver(tmp_path, "orderly"))
    shell.ready()
    os.close(shell.master)
    assert shell.process.wait(30) == 1
    assert shell.process.stderr is not None
    assert "Stopped: interrupted" in shell.process.stderr.read()


def test_a_log_counts_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    advance("before any screen", 1, 2)
    with Screen(lines.append, live=True):  # standard output is no terminal here
        advance("reading", 1, 10)
        monkeypatch.setattr(terminal, "LOG_SECONDS", 0.0)
        advance("reading", 2000, 10_000)
    advance("after it", 1, 2)
    assert lines == ["reading: 2,000 of 10,000"]
