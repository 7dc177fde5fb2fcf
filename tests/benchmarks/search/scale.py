"""What the search costs the driver: `python tests/benchmarks/search/scale.py [--trials N] [--lengths N]`.

Trials of eight observations each, on a study in Optuna's journal on disk, 64 of them side by side in simulated time. Without
rungs every trial is measured at all its lengths, which is the most that there is to do.
"""

import argparse
import tempfile
import time
from pathlib import Path

from problems import Zdt
from simulate import Simulation

from ambient_sweep.sweep.space.definition import Search

SLOTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--lengths", type=int, default=8)
    arguments = parser.parse_args()
    problem = Zdt(1)
    problem.lengths = tuple(k / arguments.lengths for k in range(1, arguments.lengths + 1))
    for rule in ("none", "rungs"):
        search = Search.model_validate({"trials": arguments.trials, "stopping": {"rule": rule}})
        with tempfile.TemporaryDirectory() as folder:
            journal = Path(folder) / "study.journal"
            simulation, begun = Simulation(problem, search, slots=SLOTS, journal=journal), time.perf_counter()
            progress = simulation.run()
            seconds = time.perf_counter() - begun
            size = journal.stat().st_size / 2**20
        print(
            f"rule {rule}: {progress.trials:,} trials, {len(progress.points):,} evaluations; of the driver, per trial: "
            f"{progress.cpu_seconds / progress.trials:.3f} CPU s, {seconds / progress.trials:.3f} s; journal {size:.1f} MiB"
        )


if __name__ == "__main__":
    main()
