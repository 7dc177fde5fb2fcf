"""Searches without Ray and without training: sweeps, reports, and a driver that lets anything happen next."""

import math
import random
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.proposals import Unshared
from ambient_sweep.sweep.search.samplers import build_sampler
from ambient_sweep.sweep.search.search import History, SweepSearch
from ambient_sweep.sweep.search.study import StudyRecord, open_study
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.sweep.space.file import load_sweep
from ambient_sweep.sweep.stopping.rungs import Decision

IMAGES = 1000  # of a training


def sweep_of(folder: Path, text: str, **overrides: Any) -> Sweep:
    """The sweep of a file; double underscores in the names of overrides stand for dots."""
    (folder / "s.yaml").write_text(textwrap.dedent(text))
    return load_sweep(folder / "s.yaml", {key.replace("__", "."): value for key, value in overrides.items()})


def record_of(sweep: Sweep, path: Path | None = None) -> StudyRecord:
    """The study of a sweep, opened as its driver does; in memory without a path."""
    study = open_study(sweep.name, build_sampler(sweep.search), path)
    study.sampler = build_sampler(sweep.search, len(study.get_trials(deepcopy=False)))
    return StudyRecord(study, sweep.space)


def search_of(sweep: Sweep, path: Path | None = None, **more: Any) -> SweepSearch:
    more.setdefault("planner", Unshared(lambda values: IMAGES))
    return SweepSearch(sweep, record_of(sweep, path), **more)


def at(fraction: float, fidelity: float = 1.0, memorization: float = 0.1, **more: Any) -> Report:
    """A report of a full evaluation."""
    images = round(fraction * IMAGES)
    known: dict[str, Any] = {"images": images, "images_left": IMAGES - images, **more}
    return Report(fraction=fraction, fidelity=fidelity, memorization=memorization, **known)


def finish(search: SweepSearch, trial_id: str, fidelity: float = 1.0, memorization: float = 0.1, **more: Any) -> None:
    """Ends a running trial at its full length."""
    report = at(1.0, fidelity, memorization, **more)
    search.evaluated(trial_id, report)
    search.ended(trial_id, replace(report, ending="completed"))


def ask_all(search: SweepSearch, ids: Iterator[str]) -> list[SweepTrial]:
    """All trials that a search hands out while none of them reports."""
    found = []
    while (trial := search.next(next(ids))) is not None:
        found.append(trial)
    return found


def searched(study: optuna.Study) -> dict[str, FrozenTrial]:
    """The newest trial of each id."""
    return {t.user_attrs["trial_id"]: t for t in study.get_trials() if "trial_id" in t.user_attrs}


def observations(study: optuna.Study) -> list[tuple[Any, ...]]:
    """(trial, length, values) of each observation, sorted."""
    found = [t for t in study.get_trials() if "observation_of" in t.user_attrs]
    return sorted((t.user_attrs["observation_of"], t.user_attrs["length"], tuple(t.values)) for t in found)


# -- anything that may happen -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The driver's process dies."""


class Journal(BaseJournalBackend):
    """Optuna's journal in memory, whose process dies before it writes another line once `lines_left` are written."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.lines_left = math.inf

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self.lines_left < len(logs):
            raise Killed
        self.lines_left -= len(logs)
        self.lines += logs


class Halves:
    """A planner: configs with equal `observed.sigma` are one training up to its half."""

    def __init__(self, cost: Callable[[Mapping[str, Any]], int]) -> None:
        self._cost = cost
        self._half: set[float] = set()
        self._running: dict[str, float] = {}
        self.clashes: list[str] = []  # trials that began while what they share was being trained

    def cost(self, values: Mapping[str, Any]) -> int:
        return self._cost(values) - (IMAGES // 2 if values["observed.sigma"] in self._half else 0)

    def busy(self, values: Mapping[str, Any]) -> bool:
        sigma = values["observed.sigma"]
        return sigma not in self._half and sigma in self._running.values()

    def started(self, trial_id: str, values: Mapping[str, Any]) -> None:
        assert trial_id not in self._running
        if "observed.sigma" in values:
            self.clashes += [trial_id] if self.busy(values) else []
            self._running[trial_id] = values["observed.sigma"]

    def reached(self, trial_id: str, images: int) -> None:
        if images >= IMAGES // 2 and trial_id in self._running:
            self._half.add(self._running[trial_id])

    def ended(self, trial_id: str) -> None:
        self._running.pop(trial_id, None)


@dataclass
class Folder:
    """What a trial leaves on disk, whoever dies."""

    trial: SweepTrial
    written: bool = False
    reports: list[Report] = field(default_factory=list)
    ending: str = ""  # completed, failed or stopped

    @property
    def history(self) -> History:
        return History(bool(self.ending), tuple(self.reports), self.ending == "stopped")


class Driver:
    """Runs a search as Tune would, in an order drawn at random, until it is finished; `sessions` counts its lives."""

    def __init__(
        self,
        sweep: Sweep,
        rng: random.Random,
        *,
        cost: Callable[[Mapping[str, Any]], int],
        planner: type[Halves | Unshared] = Unshared,
        concurrent: int = 2,
        deadly: bool = False,
        smooth: bool = False,
    ) -> None:
        self.sweep, self.rng, self.concurrent, self.deadly, self.smooth = sweep, rng, concurrent, deadly, smooth
        self.journal, self.folders = Journal(), dict[str, Folder]()
        self.lengths = sorted(sweep.base["evaluation.lengths"])
        self.cost, self.planner, self.asked, self.sessions = cost, planner, 0, 0

    def run(self) -> SweepSearch:
        while True:
            self.sessions += 1
            mortal = self.deadly and self.sessions < 12
            self.journal.lines_left = self.rng.randrange(self.rng.choice([6, 20, 60])) if mortal else math.inf
            try:
                self._session()
            except Killed:
                continue
            self.journal.lines_left = math.inf
            return self.search

    def open(self) -> SweepSearch:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.JournalStorage(self.journal)
        study = optuna.create_study(
            storage=storage, study_name="s", directions=["minimize"] * 2, load_if_exists=True,
            sampler=build_sampler(self.sweep.search, len(self.journal.lines)),
        )  # fmt: skip
        self.shared = self.planner(self.cost)
        spent = {
            i: f.reports[-1].images for i, f in self.folders.items() if f.reports and f.trial.role == "search"
        }  # fmt: skip
        return SweepSearch(
            self.sweep,
            StudyRecord(study, self.sweep.space),
            planner=self.shared,
            budget=Budget(self.sweep.search.images, spent, whole=not self.sweep.rung_levels),
            histories={i: f.history for i, f in self.folders.items() if f.written},
            concurrent=self.concurrent,
        )

    def _session(self) -> None:
        self.search, self.running = self.open(), set[str]()
        began_finished = not self.search.left
        while True:
            if len(self.running) < self.concurrent and (not self.running or self.rng.random() < 0.6):
                trial = self._begin()
                assert trial is None or not began_finished
                if trial is None and not self.running:
                    break
            if self.running:
                self._advance(self.rng.choice(sorted(self.running)))
        assert self.search.finished, "nothing runs and nothing begins, so it is over"
        for trial in self.search.end_paused():
            self.folders[trial.trial_id].ending = "stopped"

    def _begin(self) -> SweepTrial | None:
        self.asked += 1
        trial = self.search.next(f"t{self.asked:04d}")
        if trial is None:
            return None
        folder = self.folders.setdefault(trial.trial_id, Folder(replace(trial, number=None)))
        assert folder.trial == replace(trial, number=None), "a trial is one config for good"
        assert trial.trial_id not in self.running
        assert not folder.ending
        folder.written |= self.rng.random() < 0.7
        self.running.add(trial.trial_id)
        return trial

    def _advance(self, trial_id: str) -> None:
        folder, luck = self.folders[trial_id], self.rng.random() if not self.smooth else 1.0
        executed = folder.reports[-1].images if folder.reports else 0
        folder.written = True
        if len(folder.reports) == len(self.lengths):  # the driver died before it heard of the trial's end
            self._complete(trial_id)
        elif luck < 0.04:
            self.running.discard(trial_id)
            self.search.ended(trial_id, lost=True)
        elif luck < 0.07:
            folder.ending = "failed"
            self.running.discard(trial_id)
            self.search.ended(trial_id, Report(ending="failed", reason="diverged", images_executed=executed))
        elif luck < 0.12 and folder.reports:  # it went on from its last state, and reports once more
            assert self._report(trial_id, folder.reports[-1]) != Decision.PAUSE
        else:
            length = self.lengths[len(folder.reports)]
            values = [float(self.rng.randrange(5)), self.rng.choice([0.0, 1.0, 2.0, 3.0])]
            fidelity, memorization = values if luck < 0.95 else (math.nan, math.nan)
            if self.smooth:  # no trial fails, none equals another, and what is good stays good
                own = random.Random(trial_id)
                fidelity, memorization = own.random() + 0.1 / length, own.random() + 0.1 * length
            full = length == self.lengths[-1] or self.rng.random() < 0.95
            more = {"images_executed": round(length * IMAGES), "full_samples": full}
            folder.reports.append(at(length, fidelity, memorization, **more))
            decision = self._report(trial_id, folder.reports[-1])
            if decision == Decision.CONTINUE and length == self.lengths[-1]:
                self._complete(trial_id)

    def _report(self, trial_id: str, report: Report) -> Decision:
        decision = self.search.evaluated(trial_id, report)
        assert self.search.is_paused(trial_id) == (decision == Decision.PAUSE)
        if decision != Decision.CONTINUE:
            self.running.discard(trial_id)
        if decision == Decision.STOP:
            self.search.ended(trial_id, report)
            self.folders[trial_id].ending = "stopped"
        return decision

    def _complete(self, trial_id: str) -> None:
        folder = self.folders[trial_id]
        folder.ending = "completed"
        self.running.discard(trial_id)
        self.search.ended(trial_id, replace(folder.reports[-1], ending="completed"))
