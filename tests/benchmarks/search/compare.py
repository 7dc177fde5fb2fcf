"""How many images a search needs: `python tests/benchmarks/search/compare.py [--seeds N] [--first S] [--problems NAME ...]`.

Written down before any run: the hypervolume counts every measured checkpoint (both endpoints) of every method alike,
against the problem's reference point; the target is what random search without stopping or sharing has after `BUDGET`
full trainings, with the same seed; a method that has not reached it after `PATIENCE` times as many images, which is every
search's `search.images`, counts as infinite. Ratios are to the images of those `BUDGET` trainings ("of all") and to those
after which random search had its last hypervolume ("of needed"). `full only`: what the same search reports where models of
full length alone count. Four trials run side by side.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from problems import Problem, problems
from simulate import Progress, Simulation

from ambient_sweep.sweep.space.definition import Search

BUDGET, PATIENCE = 32, 1.5
UNLIMITED = 10**6


@dataclass(frozen=True)
class Method:
    name: str
    search: dict[str, Any] = field(default_factory=dict)

    def simulation(self, problem: Problem, seed: int) -> Simulation:
        images = round(BUDGET * PATIENCE * problem.images)
        return Simulation(problem, Search(trials=UNLIMITED, images=images, seed=seed, **self.search))


WHOLE: dict[str, Any] = {"stopping": {"rule": "none"}}
DEFAULT = Method("default")
RANDOM = Method("random", {"sampler": "random", "stages": False, **WHOLE})
METHODS = (
    RANDOM,
    Method("random + stages", {"sampler": "random", **WHOLE}),
    Method("TPE", {"stages": False, **WHOLE}),
    Method("TPE + stages", WHOLE),
    Method("Optuna's TPE", {"sampler": "TPESampler", "stages": False, **WHOLE}),
    Method("NSGA-II", {"sampler": "nsga2", "stages": False, **WHOLE}),
    Method("default, random", {"sampler": "random"}),
    Method("default, Optuna's TPE", {"sampler": "TPESampler"}),
    Method("default without stages", {"stages": False}),
    DEFAULT,
)


def compare(problem: Problem, methods: tuple[Method, ...], seeds: range) -> dict[str, Any]:
    reference = problem.reference
    targets, needed = {}, {}
    for seed in seeds:
        progress = RANDOM.simulation(problem, seed).run(BUDGET)
        volume = progress.hypervolume(reference)
        targets[seed] = volume[-1]
        needed[seed] = progress.images[int(np.argmax(np.array(volume) >= volume[-1]))]
    rows = {}
    for method in methods:
        begun = time.process_time()
        images, finals, fulls, used = [], [], [], []
        for seed in seeds:
            progress = method.simulation(problem, seed).run(BUDGET * PATIENCE)
            volume = np.array(progress.hypervolume(reference))
            reached = volume >= targets[seed] * (1 - 1e-12)
            images.append(progress.images[int(np.argmax(reached))] if reached.any() else math.inf)
            at = np.searchsorted(progress.images, BUDGET, side="right")
            target = max(targets[seed], 1e-12)
            finals.append(volume[at - 1] / target)
            fulls.append(progress.hypervolume(reference, full_length_only=True)[at - 1] / target)
            used.append(_until(progress, images[-1]))
        ratio = np.array(images)
        rows[method.name] = {
            "of_all": _quartiles(ratio / BUDGET),
            "of_needed": _quartiles(ratio / np.array([needed[seed] for seed in seeds])),
            "reached": int(np.isfinite(ratio).sum()),
            "after_budget": float(np.median(finals)),
            "full_only": float(np.median(fulls)),
            "trials": float(np.median(used)),
            "cpu_seconds": (time.process_time() - begun) / len(seeds),
        }
        print(line(method.name, rows[method.name], len(seeds)), flush=True)
    return {"problem": problem.name, "reference": reference, "seeds": [seeds.start, seeds.stop], "methods": rows}


def _until(progress: Progress, images: float) -> int:
    return progress.trials if math.isinf(images) else progress.begun[int(np.searchsorted(progress.images, images))]


def _quartiles(values: Any) -> list[float]:
    ordered = np.sort(values)
    last = len(ordered) - 1
    return [float(ordered[round(q * last)]) for q in (0.25, 0.5, 0.75)]


def line(name: str, row: dict[str, Any], seeds: int) -> str:
    low, median, high = row["of_all"]
    return (
        f"{name:30} {median:6.2f} ({low:.2f}-{high:.2f}) {row['of_needed'][1]:6.2f} {row['reached']:3}/{seeds} "
        f"{row['trials']:6.0f} {row['after_budget']:8.3f} {row['full_only']:8.3f} {row['cpu_seconds']:6.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--problems", nargs="+", choices=[problem.name for problem in problems()])
    parser.add_argument("--methods", nargs="+", choices=[method.name for method in METHODS])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    methods = tuple(m for m in METHODS if not arguments.methods or m.name in arguments.methods)
    found = []
    for problem in problems():
        if arguments.problems and problem.name not in arguments.problems:
            continue
        print(f"\n{problem.name}, reference {problem.reference}, seeds {seeds.start} to {seeds.stop - 1}")
        print(f"{'':30} {'of all (quartiles)':>20} {'needed':>6} reached trials {'at 32':>8} {'full':>8} CPU s")
        found.append(compare(problem, methods, seeds))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
