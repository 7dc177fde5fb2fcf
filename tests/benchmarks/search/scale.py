"""What searcher, scheduler and loop cost at size: `python tests/benchmarks/search/scale.py [--trials N]`.

Trials of one simulated second each on 64 slots. The ideal makespan is trials / slots seconds; what the driver computes
comes on top of it, were it all done in between. Memory is the growth of the process after its first tenth.
"""

import argparse
import resource

from ambient_sweep.sweep.definition import Search
from compare import DEFAULT, rungs
from problems import Zdt
from simulate import Progress, Simulation

SLOTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rule", choices=("none", "rungs"), default="rungs")
    parser.add_argument("--variant", choices=("stop", "promote"), default="promote")
    arguments = parser.parse_args()
    problem = Zdt(1)
    problem.lengths = (0.25, 0.5, 0.75, 1.0)
    rule = None if arguments.rule == "none" else rungs(variant=arguments.variant)
    search = Search(trials=arguments.trials, sampler=DEFAULT.sampler)
    simulation = Simulation(problem, search, slots=SLOTS, share=False, make_rule=rule, trial_seconds=1.0)
    early = [0.0]

    def note(progress: Progress) -> bool:
        if not early[0] and progress.trials >= arguments.trials // 10:
            early[0] = _mebibytes()
        return False

    progress = simulation.run(until=note)
    ideal = arguments.trials / SLOTS
    print(f"{progress.trials:,} trials, {len(progress.points):,} evaluations, simulated {progress.makespan:.0f} s")
    print(f"computed {progress.cpu_seconds:.1f} s: {progress.cpu_seconds / ideal:.1%} over the ideal {ideal:.0f} s")
    print(f"memory: {early[0]:.0f} MiB after a tenth, {_mebibytes():.0f} MiB at the end")


def _mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
