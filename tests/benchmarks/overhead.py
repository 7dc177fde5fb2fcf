"""CPU seconds that a sweep adds to a trial of one worker: `python tests/benchmarks/overhead.py [--trials N]`.

The same trials, two optimizer steps of a tiny network each, are run by a sweep on a local Ray cluster and one after
another in one process. The CPU time of all processes of the sweep at two numbers of trials gives what a further trial
costs, whatever the start costs; what is beyond the same trials without Ray is the sweep's own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import yaml

POLL_SECONDS = 0.1
MARK = "AMBIENT_SWEEP_OVERHEAD"
BASE = {
    "data": {"train_size": 150},
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 128, "batch_size": 64, "checkpoints": 1, "records": 1},
    "sampling": {"steps": 2},
    "evaluation": {"lengths": [1.0], "samples": 16, "extras": [], "endpoints": ["zero"]},
}
ALONE = """
import sys
from pathlib import Path
from ambient_sweep.sweep.space.file import load_sweep
from ambient_sweep.trial.setup import prepare
from ambient_sweep.trial.run import run_trial
root, sweep = Path(sys.argv[2]), load_sweep(Path(sys.argv[1]))
prepare(sweep.some_config(), root)
for number in range(sweep.search.trials):
    sigma = 0.1 + 0.4 * (number + 1) / (sweep.search.trials + 1)
    run_trial(sweep.config_for({"observed.sigma": sigma}), root, f"trial-{number}")
"""


def cpu_seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """CPU seconds of a command with all that it starts, and wall seconds. Raises where it fails."""
    begun, seen, mark = time.monotonic(), dict[tuple[int, int], float](), uuid.uuid4().hex
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env={**os.environ, MARK: mark})
        while process.poll() is None:
            seen |= marked(mark)
            time.sleep(POLL_SECONDS)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command, (folder / "output.txt").read_text())
    return sum(seen.values()), time.monotonic() - begun


def marked(mark: str) -> dict[tuple[int, int], float]:
    """CPU seconds so far of the processes with `mark` in their environment, by id and start; Linux only.

    Ray's processes leave the family of the one that starts them.
    """
    tick, found, wanted = os.sysconf("SC_CLK_TCK"), dict[tuple[int, int], float](), f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes():
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
                found[int(folder.name), int(fields[19])] = (int(fields[11]) + int(fields[12])) / tick
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, or is another user's
    return found


def measured(trials: int, alone: bool) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = {
            "name": "overhead", "base": BASE, "space": {"observed.sigma": {"uniform": [0.1, 0.5]}},
            "search": {"trials": trials, "sampler": "random"},
        }  # fmt: skip
        file = folder / "sweep.yaml"
        file.write_text(yaml.safe_dump(sweep))
        if alone:
            command = [sys.executable, "-c", ALONE, str(file), str(folder / "alone")]
        else:
            command = [sys.executable, "-m", "ambient_sweep", "run", str(file), "--storage", str(folder)]
        return cpu_seconds(command, folder)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    arguments = parser.parse_args(words)
    few, many = max(1, arguments.trials // 5), arguments.trials
    print(f"{'':24}{'CPU s':>10}{'wall s':>10}")
    slopes = {}
    for name, alone in (("in one process", True), ("in a sweep", False)):
        values = {}
        for trials in (few, many):
            values[trials], wall = measured(trials, alone)
            print(f"{name + f', {trials} trials':24}{values[trials]:10.1f}{wall:10.1f}", flush=True)
        slopes[name] = (values[many] - values[few]) / (many - few)
        print(f"{name + ', each':24}{slopes[name]:10.2f}")
    print(f"overhead of a trial: {slopes['in a sweep'] - slopes['in one process']:.2f} CPU seconds")


if __name__ == "__main__":
    main()
