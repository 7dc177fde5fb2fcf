"""Follows a sweep for its driver: a line per evaluation, and how the whole stands, in a display or now and then a line."""

import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from ambient_sweep.object_store import fetch
from ambient_sweep.sweep.forecast import Forecast, executed_images
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import TRAINER_LOCK
from ambient_sweep.sweep.running.signals import Stopped
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.standing import SESSION_FILE, Point, Session, Standing, Step, clock_text, frontier_of
from ambient_sweep.terminal import Screen
from ambient_sweep.text import counted, duration
from ambient_sweep.trial.records import known_trial, read_trials, trial_folder, write_json

CHECK_SECONDS, STATUS_SECONDS = 5.0, 30.0  # between two looks at the trials, and between two lines on the whole
PENDING_SECONDS, REPEAT_SECONDS = 20.0, 60.0  # before a line on pending trials, and between two


class Progress:
    """Tells on `screen` how a sweep goes, whose trials stand as their records in `root` say.

    names: of the two objectives. points: known values of both. room: says what a trial needs and what is free.
    most_seconds: that are left by search.hours. jobs: as in Session.
    """

    def __init__(
        self,
        root: Path,
        names: tuple[str, str],
        screen: Screen,
        forecast: Forecast,
        *,
        points: Iterable[Point] = (),
        room: Callable[[], str] = lambda: "",
        most_seconds: Callable[[], float] = lambda: math.inf,
        jobs: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._names, self._screen, self._forecast = root, names, screen, forecast
        self._room, self._most_seconds, self._clock = room, most_seconds, clock
        self._every = CHECK_SECONDS if screen.live else STATUS_SECONDS
        self._points = frontier_of(points)
        self._records = {record.trial_id: record for record in read_trials(root)}
        self._begun: dict[str, int] = {}  # trials that Ray has placed, and when a process entered their folders before
        self._pending: dict[str, float] = {}  # trials that no process trains yet, and since when
        self._trained = clock()  # when one last trained, or none had to
        self._start = self._step_start = self._last = clock()
        self._checked, self._warned = self._start - CHECK_SECONDS, self._start - REPEAT_SECONDS
        self._session = Session(time.time(), executed_images(self._records.values()), jobs=jobs)
        write_json(root / SESSION_FILE, self._session)

    def trial_started(self, trial: SweepTrial) -> None:
        """A trial has a process, which trains it or is to start its workers."""
        self._begun[trial.trial_id] = self._entered(trial.trial_id)

    def trial_paused(self, trial: SweepTrial) -> None:
        """A trial has no process any more; it may start again."""
        self._begun.pop(trial.trial_id, None)
        self._read(trial.trial_id)

    def reported(self, trial: SweepTrial, report: Report) -> None:
        """A trial was evaluated at its main endpoint."""
        self._points = frontier_of([*self._points, report.objectives])
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(self._names, report.objectives, strict=True))
        self.note(f"{trial.trial_id} {trial.name}: {report.fraction:.0%} trained, {values}")

    def trial_ended(self, trial: SweepTrial, reason: str | None) -> None:
        """A trial came to its end, which its record says too; `reason` if it failed."""
        self.trial_paused(trial)
        if reason is not None:
            self.note(f"{trial.trial_id} {trial.name}: FAILED: {reason}")

    def confirm(self, step: Step, done: int = 0) -> None:
        """The search is over; so many measurements of this step of the confirmation are done."""
        before = self._session.step
        if before is None or before.what != step.what:
            before, self._step_start = None, self._clock()
        if before is None or before.done != done:
            step = replace(step, done=done, seconds=self._clock() - self._step_start)
            self._session = replace(self._session, step=step)
            write_json(self._root / SESSION_FILE, self._session)
        if step.measurements:
            self._screen.advance("measured again", done, step.measurements)

    def note(self, text: str) -> None:
        """Prints a line, after the time since the start."""
        self._screen.line(f"[{clock_text(self._clock() - self._start)}] {text}")

    def check_patience(self, minutes: float) -> None:
        """Raises Stopped where no trial could train for so long."""
        if self._clock() - self._trained > 60 * minutes:
            raise Stopped(f"no trial could train for {duration(60 * minutes)}: {self._room()}")

    def status(
        self, trials: Collection[str], paused: int, resting: Collection[str] = (), *, force: bool = False
    ) -> None:
        """How the whole stands, and what pending trials wait for, if it is time to say so.

        `trials` are those that should train; `resting` of them wait for the time of their restart, not for room; `paused`
        others wait for their promotion.
        """
        now = self._clock()
        if not force and now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        training = {t for t in trials if t in self._begun and self._entered(t) != self._begun[t]}
        self._pending = {t: self._pending.get(t, now) for t in trials if t not in training}
        self._trained = now if training or not trials else self._trained
        if sorted(self._pending) != sorted(self._session.pending):
            self._session = replace(self._session, pending=tuple(self._pending))
            write_json(self._root / SESSION_FILE, self._session)
        if force or now - self._last >= self._every:
            for trial_id in training:
                self._read(trial_id)
            self._last = now
            standing = self.standing(training, paused)
            if self._screen.live:
                self._screen.show(standing.lines)
            if force or not self._screen.live:
                self.note(standing.line())
        waiting = sum(now - since >= PENDING_SECONDS for t, since in self._pending.items() if t not in resting)
        if waiting and now - self._warned >= REPEAT_SECONDS:
            self._warned = now
            self.note(f"{counted(waiting, 'trial')} waiting for room on the cluster: {self._room()}")

    def standing(self, training: Collection[str] = (), paused: int = 0) -> Standing:
        """How the whole stands, where these trials train."""
        return Standing.of(
            self._records.values(), self._points, self._forecast, self._names,
            running=training, pending=len(self._pending), paused=paused,
            seconds=self._clock() - self._start, before=self._session.executed,
            most_seconds=math.inf if self._session.step else self._most_seconds(), step=self._session.step,
        )  # fmt: skip

    def _entered(self, trial_id: str) -> int:
        """When a process last took a trial's folder to train there, in nanoseconds; 0 before the first."""
        lock = trial_folder(self._root, trial_id) / TRAINER_LOCK
        fetch(lock)
        return lock.stat().st_mtime_ns if lock.exists() else 0

    def _read(self, trial_id: str) -> None:
        if (record := known_trial(self._root, trial_id)) is not None:
            self._records[trial_id] = record
