"""Runs a sweep's own search over a problem, in simulated time and without Ray."""

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.samplers import BaseSampler
from problems import Point, Problem

from ambient_sweep.pareto import hypervolume
from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.proposals import Unshared
from ambient_sweep.sweep.search.samplers import build_sampler
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.search.study import StudyRecord, open_study
from ambient_sweep.sweep.space.definition import Search, Sweep, SweepTrial
from ambient_sweep.sweep.stopping.rungs import Decision


@dataclass
class SimulatedTrial:
    """A trial that runs."""

    trial: SweepTrial
    position: float = 0.0  # fraction trained
    executed: float = 0.0  # of that, for this trial


@dataclass
class Progress:
    """What was measured, in order: images executed, simulated seconds (in trainings) and trials begun before it."""

    images: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    makespan: float = 0.0
    executed: float = 0.0
    trials: int = 0
    cpu_seconds: float = 0.0

    def hypervolume(self, reference: Point, full_length_only: bool = False) -> list[float]:
        points = [
            p if f or not full_length_only else (float("nan"),) * 2 for p, f in zip(self.points, self.full, strict=True)
        ]
        return [hypervolume(points[: n + 1], reference) for n in range(len(points))]


class Simulation:
    """`slots` trials run side by side. `sampler`: another one than that of `search`; `journal`: a study on disk."""

    def __init__(
        self,
        problem: Problem,
        search: Search,
        *,
        slots: int = 4,
        sampler: BaseSampler | None = None,
        journal: Path | None = None,
    ) -> None:
        self.problem, self.slots = problem, slots
        base = {
            "seed": 0, "training.stop": 1.0, "ema.kind": "power", "training.images": problem.images,
            "evaluation.lengths": problem.lengths, **problem.base,
        }  # fmt: skip
        self.sweep = Sweep("simulated", base, problem.space, search=search)
        shares = search.stages and problem.shares
        self.planner = Planner(problem.config, every_length=self.sweep.has_siblings) if shares else None
        study = open_study("simulated", sampler or build_sampler(search), journal)
        self.search = SweepSearch(
            self.sweep,
            StudyRecord(study, problem.space),
            planner=self.planner or Unshared(lambda values: problem.images),
            budget=Budget(search.images, whole=not self.sweep.rung_levels),
            concurrent=slots,
        )
        self._events: list[tuple[float, int, SimulatedTrial, float]] = []
        self._numbers = itertools.count()
        self._trials: dict[str, SimulatedTrial] = {}
        self._reported: dict[str, set[float]] = {}
        self.progress = Progress()
        self.now = 0.0

    def run(self, budget: float = float("inf"), until: Callable[[Progress], bool] | None = None) -> Progress:
        """Runs until nothing is left, or `budget` trainings are executed."""
        begun = time.process_time()
        self._fill()
        while self._events and self.progress.executed < budget and not (until and until(self.progress)):
            self.now, _, trial, fraction = heapq.heappop(self._events)
            self.progress.executed += fraction - trial.position
            trial.executed += fraction - trial.position
            trial.position = fraction
            if self._measure(trial, fraction):
                self._go_on(trial)
            self._fill()
        self.progress.makespan = self.now
        self.progress.cpu_seconds = time.process_time() - begun
        return self.progress

    def _fill(self) -> None:
        while len(self._events) < self.slots:
            found = self.search.next(f"t{self.progress.trials}")
            if found is None:
                return
            trial = self._trials.setdefault(found.trial_id, SimulatedTrial(found))
            trial.trial = found
            self.progress.trials = len(self._trials)
            self._start(trial)

    def _start(self, trial: SimulatedTrial) -> None:
        """Takes over what others trained and measured, and trains on."""
        if self.planner is not None:
            values = trial.trial.values
            taken = (self.problem.images - self.planner.cost(values)) / self.problem.images
            self.planner.started(trial.trial.trial_id, values)
            for fraction in self.problem.lengths:
                if fraction <= taken + 1e-9 and fraction not in self._reported.get(trial.trial.trial_id, ()):
                    trial.position = max(trial.position, fraction)
                    if not self._measure(trial, fraction):
                        return
            trial.position = max(trial.position, taken)
        self._go_on(trial)

    def _go_on(self, trial: SimulatedTrial) -> None:
        left = [fraction for fraction in self.problem.lengths if fraction > trial.position + 1e-9]
        if not left:
            self.search.ended(trial.trial.trial_id, replace(self._report(trial, 1.0), ending="completed"))
            return
        seconds = self.problem.seconds(trial.trial.values, trial.position, left[0])
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), trial, left[0]))

    def _measure(self, trial: SimulatedTrial, fraction: float) -> bool:
        """Evaluates and reports; False where the trial pauses or is stopped."""
        trial_id = trial.trial.trial_id
        self._reported.setdefault(trial_id, set()).add(fraction)
        for point in self.problem.points(trial.trial.values, fraction):
            self.progress.images.append(self.progress.executed)
            self.progress.seconds.append(self.now)
            self.progress.points.append(point)
            self.progress.full.append(fraction == 1.0)
            self.progress.begun.append(self.progress.trials)
        report = self._report(trial, fraction)
        decision = self.search.evaluated(trial_id, report)
        if decision == Decision.STOP:
            self.search.ended(trial_id, report)
        return decision == Decision.CONTINUE

    def _report(self, trial: SimulatedTrial, fraction: float) -> Report:
        fidelity, memorization = self.problem.points(trial.trial.values, fraction)[0]
        images = round(fraction * self.problem.images)
        return Report(
            images, fraction, fidelity, memorization,
            images_left=self.problem.images - images, images_executed=round(trial.executed * self.problem.images),
        )  # fmt: skip
