"""Runs a sweep's own searcher, scheduler and stopping rule over a problem, in simulated time and without Ray."""

import contextlib
import heapq
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from problems import Point, Problem
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ambient_sweep.pareto import hypervolume_history
from ambient_sweep.stages.planner import Prefixes
from ambient_sweep.sweep.budget import Budget
from ambient_sweep.sweep.definition import Search, Sweep
from ambient_sweep.sweep.scheduler import SweepScheduler
from ambient_sweep.sweep.searcher import SweepSearcher


@dataclass
class SimulatedTrial:
    """As much of a Tune trial as searcher and scheduler see."""

    trial_id: str
    config: dict[str, Any]
    status: str = Trial.PENDING
    position: float = 0.0  # fraction trained
    executed: float = 0.0  # of that, for this trial
    reported: set[float] = field(default_factory=set)

    def set_status(self, status: str) -> None:
        self.status = status


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
        return list(hypervolume_history(points, reference)) if points else []


class Simulation:
    """`budget`: images to execute at most, in trainings. `share`: with stages."""

    def __init__(
        self,
        problem: Problem,
        search: Search,
        *,
        slots: int = 4,
        share: bool,
        make_rule: "Callable[[Simulation], Any] | None" = None,
        trial_seconds: float | None = None,
    ) -> None:
        self.problem, self.slots, self.share, self.trial_seconds = problem, slots, share, trial_seconds
        base = {"seed": 0, "training.stop": 1.0, "training.images": problem.images, **problem.base}
        self.sweep = Sweep("simulated", base, problem.space, search=search)
        self.prefixes = (
            Prefixes(problem.config, every_length=self.sweep.has_siblings) if share and problem.shares else None
        )
        self._folder = tempfile.TemporaryDirectory()
        hooks: dict[str, Any] = {}
        if self.prefixes is not None:
            hooks = {"cost": self.prefixes.cost, "busy": self.prefixes.busy, "begun": self.prefixes.started}
        journal = Path(self._folder.name) / "study.journal"
        rule = make_rule(self) if make_rule else None
        budget = Budget(search.images, whole=rule is None)
        self.searcher = SweepSearcher(self.sweep, journal, concurrent=slots, budget=budget, **hooks)
        self.scheduler = SweepScheduler(rule, concurrent=slots, budget=budget) if rule is not None else None
        self.search_alg = self  # the scheduler asks its controller's
        self._events: list[tuple[float, int, SimulatedTrial, float]] = []
        self._numbers = itertools.count()
        self._running = 0
        self._no_more = False
        self._new: list[SimulatedTrial] = []
        self.progress = Progress()
        self.now = 0.0

    # -- what the scheduler sees of Tune's controller -----------------------------------------------------------------

    def is_finished(self) -> bool:
        return self._no_more

    def stop_trial(self, trial: SimulatedTrial) -> None:
        trial.status = Trial.TERMINATED
        assert self.scheduler is not None
        self.scheduler.on_trial_remove(self, trial)  # type: ignore[arg-type]
        self.searcher.on_trial_complete(trial.trial_id)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, budget: float = float("inf"), until: Callable[[Progress], bool] | None = None) -> Progress:
        begun = time.process_time()
        with contextlib.closing(self.searcher), self._folder:
            self._fill()
            while self._events and self.progress.executed < budget and not (until and until(self.progress)):
                self.now, _, trial, fraction = heapq.heappop(self._events)
                self.progress.executed += fraction - trial.position
                trial.executed += fraction - trial.position
                trial.position = fraction
                self._measure(trial, fraction)
                if trial.status == Trial.RUNNING:
                    self._go_on(trial)
                self._fill()
        self.progress.makespan = self.now
        self.progress.cpu_seconds = time.process_time() - begun
        return self.progress

    def _fill(self) -> None:
        while self._running < self.slots:
            trial = self._chosen()
            if trial is None and not self._no_more:
                trial_id = f"t{self.progress.trials}"
                suggestion = self.searcher.suggest(trial_id)
                if suggestion is None:
                    return
                if suggestion == Searcher.FINISHED:
                    self._no_more = True
                    continue
                self.progress.trials += 1
                new = SimulatedTrial(trial_id, suggestion)
                if self.scheduler is None:
                    self._new.append(new)
                else:
                    self.scheduler.on_trial_add(self, new)  # type: ignore[arg-type]
            elif trial is None:
                return
            else:
                self._start(trial)

    def _chosen(self) -> SimulatedTrial | None:
        if self.scheduler is None:
            return self._new.pop(0) if self._new else None
        return self.scheduler.choose_trial_to_run(self)  # type: ignore[return-value]

    def _start(self, trial: SimulatedTrial) -> None:
        trial.status = Trial.RUNNING
        self._running += 1
        values = trial.config["values"]
        if self.prefixes is not None:
            taken = self.prefixes.started(trial.trial_id, values) / self.problem.images
            for (
                fraction
            ) in self.problem.lengths:  # measured by others, or now from states of theirs: nothing is trained
                if fraction <= taken + 1e-9 and fraction not in trial.reported and trial.status == Trial.RUNNING:
                    trial.position = max(trial.position, fraction)
                    self._measure(trial, fraction)
            trial.position = max(trial.position, taken)
        if trial.status == Trial.RUNNING:
            self._go_on(trial)

    def _go_on(self, trial: SimulatedTrial) -> None:
        left = [fraction for fraction in self.problem.lengths if fraction > trial.position + 1e-9]
        if not left:
            self._end(trial)
            return
        seconds = self.problem.seconds(trial.config["values"], trial.position, left[0])
        if self.trial_seconds is not None:
            seconds = self.trial_seconds * (left[0] - trial.position)
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), trial, left[0]))

    def _measure(self, trial: SimulatedTrial, fraction: float) -> None:
        """Evaluates and reports, in Tune's order: the scheduler first, then the searcher unless the trial is stopped."""
        values = trial.config["values"]
        points = self.problem.points(values, fraction)
        trial.reported.add(fraction)
        for point in points:
            self.progress.images.append(self.progress.executed)
            self.progress.seconds.append(self.now)
            self.progress.points.append(point)
            self.progress.full.append(fraction == 1.0)
            self.progress.begun.append(self.progress.trials)
        images = round(fraction * self.problem.images)
        if self.prefixes is not None:
            self.prefixes.reached(trial.trial_id, images)
        result = {
            "fidelity": points[0][0], "memorization": points[0][1], "images": images, "fraction": fraction,
            "endpoint": "zero", "evaluated": True, "full_samples": True, "done_full_length": False, "failed": None,
            "images_executed": round(trial.executed * self.problem.images), "images_left": self.problem.images - images,
        }  # fmt: skip
        decision = TrialScheduler.CONTINUE
        if self.scheduler is not None:
            decision = self.scheduler.on_trial_result(self, trial, result)  # type: ignore[arg-type]
        if decision == TrialScheduler.STOP:
            self._leave(trial, Trial.TERMINATED)
            assert self.scheduler is not None
            self.scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]
            self.searcher.on_trial_complete(trial.trial_id, result)
            return
        self.searcher.on_trial_result(trial.trial_id, result)
        if decision == TrialScheduler.PAUSE:
            self._leave(trial, Trial.PAUSED)

    def _end(self, trial: SimulatedTrial) -> None:
        self._leave(trial, Trial.TERMINATED)
        point = self.problem.points(trial.config["values"], 1.0)[0]
        result = {
            "fidelity": point[0], "memorization": point[1], "images": self.problem.images, "fraction": 1.0,
            "endpoint": "zero", "evaluated": False, "full_samples": True, "done_full_length": True, "failed": None,
            "images_executed": round(trial.executed * self.problem.images), "images_left": 0,
        }  # fmt: skip
        if self.scheduler is not None:
            self.scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]
        self.searcher.on_trial_complete(trial.trial_id, result)

    def _leave(self, trial: SimulatedTrial, status: str) -> None:
        trial.status = status
        self._running -= 1
        if self.prefixes is not None:
            self.prefixes.ended(trial.trial_id)
