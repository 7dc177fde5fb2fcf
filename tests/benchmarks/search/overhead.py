"""What Ray costs a trial beyond its work: `python tests/benchmarks/search/overhead.py [--workers N ...] [--trials N]`.

Runs sweeps of N and of 2 N short trials by the command line, and adds up the CPU time of all their processes; what the
second took more, less what N such trials take in one process, is the overhead of N trials. Prints which processes have it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "sweep"))

from processes import end_session, session_of
from small_sweeps import small_sweep

from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

LOOK_SECONDS = 0.05  # between two readings: what a process does after the last is missed
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(sweep: Sweep, folder: Path) -> Counter[str]:
    """CPU seconds of all processes of this sweep, by their titles."""
    write_sweep(sweep, folder / "sweep.yaml")
    command = [sys.executable, "-m", "ambient_sweep", "run", str(folder / "sweep.yaml"), "--storage", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True, env=environment)
    spent = dict[tuple[str, str], tuple[str, float]]()  # by pid and start
    while process.poll() is None:
        for pid in session_of(process.pid):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[0]
            except OSError:  # it has just ended
                continue
            key, name = (str(pid), stat[19]), title.partition(".")[0] if title.startswith("ray::") else Path(title).name
            spent[key] = (
                name or spent.get(key, ("?",))[0],
                (int(stat[11]) + int(stat[12])) / TICKS,
            )  # none while it ends
        time.sleep(LOOK_SECONDS)
    end_session(process)
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    found = Counter[str]()
    for name, seconds in spent.values():
        found[name] += seconds
    return found


def work_seconds(sweep: Sweep, folder: Path) -> float:
    """CPU seconds of a trial's training and evaluation in this process, after a first one."""
    config = sweep.config_for({"observed.sigma": 0.3, "consistency.start": 0.5})
    prepare(config, folder)
    run_trial(config, folder, "first")
    begun = time.process_time()
    run_trial(config, folder, "second")
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trials", type=int, default=6)
    arguments = parser.parse_args()
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as name:
            folder, measured = Path(name), list[Counter[str]]()
            changes = {"search__stages": False, "search__sampler": "random", "baseline": None}
            for trials in (arguments.trials, 2 * arguments.trials):
                place = folder / str(trials)
                place.mkdir()
                more = {"search__trials": trials, "resources__workers": workers}
                measured.append(cpu_seconds(small_sweep(place, **changes, **more), place))
            work = work_seconds(small_sweep(folder, **changes), folder / "here")
        added = measured[1].copy()
        added.subtract(measured[0])
        each = {name: seconds / arguments.trials for name, seconds in added.most_common() if seconds > 0.01}
        print(
            f"{workers} worker(s): a trial costs {sum(each.values()) - work:.2f} CPU s beyond {work:.2f} of its work:"
        )
        print("   ", ", ".join(f"{name} {seconds:.2f}" for name, seconds in each.items()), flush=True)


if __name__ == "__main__":
    main()
