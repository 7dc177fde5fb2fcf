"""Lines by which a person follows a sweep: one per evaluation, and now and then how the whole stands; the time left."""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import TRAINER_LOCK
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.text import counted
from ambient_sweep.trial.records import TrialRecord, read_trial, read_trials, trial_folder, trial_path

FRONTIER_POINTS = 5
SHOWN = 4  # running trials
SURPLUS = 1.25  # early promotions, and the last ones, exceed one in eta: by a fifth to a third in simulated sweeps
CHECK_SECONDS, PENDING_SECONDS, REPEAT_SECONDS = 5.0, 20.0, 60.0  # before a line on pending trials, and between two
Point = tuple[float, float]


@dataclass(frozen=True)
class Forecast:
    """Fixed trials run to their ends. Searched ones are expected to pass from rung to rung as MO-ASHA lets them, and to find
    as much trained by others as those before them did.

    images: of a whole training. fixed, searched: numbers of trials. levels, eta: of the rungs. budget: search.images.
    given: images of further trials, by id.
    """

    images: int
    fixed: int
    searched: int
    levels: Sequence[float] = ()
    eta: int = 2
    budget: int | None = None
    given: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, sweep: Sweep, trials: int, searched: int) -> "Forecast":
        """Of a sweep of so many trials, of which so many are searched."""
        length, search = sweep.some_config().length, sweep.search
        return cls(length, trials - searched, searched, sweep.rung_levels, search.stopping.eta, search.images)

    def images_left(self, trials: Collection[TrialRecord]) -> float:
        """Images that will still be trained, where trials stand as their records say."""
        searched = [trial for trial in trials if trial.role == "search"]
        others = {trial.trial_id: trial for trial in trials if trial.role != "search"}
        left: float = sum(map(_left, others.values())) + self.images * max(0, self.fixed - len(others))
        left += sum(images for trial_id, images in self.given.items() if trial_id not in others)
        executed, done = executed_images(searched), sum(trial.images_done for trial in searched)
        if self.budget is not None:
            most = self.images * max(0, self.searched - len(searched)) + sum(map(_left, searched))
            return left + max(0.0, min(self.budget - executed, most))
        return left + self._search_left(searched) * (executed / done if done else 1.0)

    def _search_left(self, searched: Sequence[TrialRecord]) -> float:
        """From rung to rung: what trials have to the next one, and those that are expected to pass and have not yet."""
        left, slack = 0.0, 0.01 * self.images  # rungs lie at the end of a step
        bounds = [self.images * level for level in (0.0, *self.levels, 1.0)]
        for rung, (low, high) in enumerate(itertools.pairwise(bounds)):
            passing = self.searched * (min(1.0, SURPLUS / self.eta**rung) if rung else 1.0)
            passed = [trial for trial in searched if trial.images_done > low + slack or not rung]
            left += sum(min(high - trial.images_done, _left(trial)) for trial in passed if trial.images_done < high)
            left += max(0.0, passing - len(passed)) * (high - low)
        return left


def executed_images(trials: Iterable[TrialRecord]) -> int:
    """Images trained so far."""
    return sum(trial.images_executed for trial in trials)


def _left(trial: TrialRecord) -> int:
    return 0 if trial.ended else trial.images_asked - trial.images_done


class Progress:
    """Counts trials, collects the frontier, and prints both through `echo`; how trials stand is in their records in `root`.

    `total` trials run in this session and ran before; `names` are the two objectives' names; `points` are known values of
    both. With a limited budget, images are counted instead of trials. `room` says what a trial needs and what is free.
    """

    def __init__(
        self,
        root: Path,
        total: int,
        names: tuple[str, str],
        echo: Callable[[str], None],
        forecast: Forecast,
        *,
        points: Iterable[Point] = (),
        room: Callable[[], str] = lambda: "",
        status_every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.names = total, names
        self._root, self._forecast, self._points = root, forecast, list(points)
        self._echo, self._room, self._clock, self._every = echo, room, clock, status_every
        self._records = {record.trial_id: record for record in read_trials(root)}
        ended = [record for record in self._records.values() if record.ended and record.role != "replicate"]
        self.failed = sum(record.status == "failed" for record in ended)
        self.done = len(ended) - self.failed
        self._begun: dict[str, int] = {}  # trials that Ray has placed, and when a process entered their folders before
        self._pending: dict[str, float] = {}  # trials that no process trains yet, and since when
        self._start = self._last = clock()
        self._checked, self._warned = self._start - CHECK_SECONDS, self._start - REPEAT_SECONDS
        self._executed_before = self._executed_last = executed_images(self._records.values())
        self._pace = 0.0  # images per second since the last status

    def trial_started(self, trial: SweepTrial) -> None:
        """A trial has a process, which trains it or is to start its workers."""
        self._begun[trial.trial_id] = self._entered(trial.trial_id)

    def trial_paused(self, trial: SweepTrial) -> None:
        """A trial has no process any more; it may start again."""
        self._begun.pop(trial.trial_id, None)
        self._read(trial.trial_id)

    def reported(self, trial: SweepTrial, report: Report) -> None:
        """A trial was evaluated at its main endpoint."""
        self._points.append(report.objectives)
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, report.objectives, strict=True))
        self.note(f"{trial.trial_id} {trial.name}: {report.fraction:.0%} trained, {values}")

    def trial_ended(self, trial: SweepTrial, reason: str | None) -> None:
        """A trial came to its end; `reason` if it failed."""
        self.trial_paused(trial)
        if (record := self._records.get(trial.trial_id)) is not None:
            self._records[trial.trial_id] = replace(record, images_asked=record.images_done)
        if reason is None:
            self.done += 1
        else:
            self.failed += 1
            self.note(f"{trial.trial_id} {trial.name}: FAILED: {reason}")

    def confirm(self, replicates: Mapping[str, int]) -> None:
        """The search is over; these trials are left, with their lengths in images."""
        self.total = self.done + self.failed + len(replicates)
        self._forecast = replace(self._forecast, searched=0, budget=None, given=replicates)

    def note(self, text: str) -> None:
        """Prints a line, after the time since the start."""
        self._echo(f"[{_minutes(self._clock() - self._start)}] {text}")

    def status(self, trials: Collection[str], paused: int, *, force: bool = False) -> None:
        """How the whole stands, and what pending trials wait for, if it is time to say so.

        `trials` are those that should train; `paused` others wait for their promotion.
        """
        now = self._clock()
        if not force and now - self._checked < min(CHECK_SECONDS, self._every):
            return
        self._checked = now
        training = {t for t in trials if t in self._begun and self._entered(t) != self._begun[t]}
        self._pending = {t: self._pending.get(t, now) for t in trials if t not in training}
        if force or now - self._last >= self._every:
            for trial_id in training:
                self._read(trial_id)
            executed = executed_images(self._records.values())
            self._pace = (executed - self._executed_last) / max(now - self._last, 1e-9)
            self._last, self._executed_last = now, executed
            self.note(self.status_line(sorted(training), paused))
        waiting = sum(now - since >= PENDING_SECONDS for since in self._pending.values())
        if waiting and now - self._warned >= REPEAT_SECONDS:
            self._warned = now
            self.note(f"{counted(waiting, 'trial')} waiting for room on the cluster: {self._room()}")

    def status_line(self, training: Sequence[str], paused: int = 0) -> str:
        """Trials, the frontier so far, the time left."""
        running = f"{len(training)} running"
        records = [self._records[trial_id] for trial_id in training[:SHOWN] if trial_id in self._records]
        if records:
            pace = f"; {self._pace:.3g} images per second" if self._pace > 0 else ""
            standing = (f"{r.trial_id} at {r.images_done:,} of {r.images_asked:,} images" for r in records)
            running += f" ({', '.join(standing)}{pace})"
        for count, what in ((len(self._pending), "pending"), (paused, "paused")):
            running += f", {count} {what}" if count else ""
        if self._forecast.budget is None:
            parts = [f"{self.done} of {self.total} trials done, {running}, {self.failed} failed"]
        else:
            trained = executed_images(record for record in self._records.values() if record.role == "search")
            images = f"{trained:,} of {self._forecast.budget:,} images trained"
            parts = [f"{images}, {counted(self.done, 'trial')} done, {running}, {self.failed} failed"]
        if front := self.frontier():
            shown = ", ".join(f"{fidelity:.4g}/{memorization:.3g}" for fidelity, memorization in front)
            parts.append(f"frontier so far at main endpoints ({self.names[0]}/{self.names[1]}): {shown}")
        if (left := self.seconds_left()) is not None:
            parts.append(f"about {_minutes(left)} left")
        return "; ".join(parts)

    def frontier(self) -> list[Point]:
        """A few of the points so far that no other beats in both objectives, by rising memorization."""
        if not self._points:
            return []
        mask = pareto_mask(self._points)
        front = sorted({p for p, on in zip(self._points, mask, strict=True) if on}, key=lambda p: (p[1], p[0]))
        if len(front) <= FRONTIER_POINTS:
            return front
        return [front[round(i * (len(front) - 1) / (FRONTIER_POINTS - 1))] for i in range(FRONTIER_POINTS)]

    def seconds_left(self) -> float | None:
        """From the images that this session has trained and those that are left; None before there are any of both."""
        records = self._records.values()
        trained, left = executed_images(records) - self._executed_before, self._forecast.images_left(records)
        return (self._clock() - self._start) * left / trained if trained > 0 and left > 0 else None

    def _entered(self, trial_id: str) -> int:
        """When a process last took a trial's folder to train there, in nanoseconds; 0 before the first."""
        lock = trial_folder(self._root, trial_id) / TRAINER_LOCK
        return lock.stat().st_mtime_ns if lock.exists() else 0

    def _read(self, trial_id: str) -> None:
        if trial_path(self._root, trial_id).exists():
            self._records[trial_id] = read_trial(self._root, trial_id)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
