"""Lines by which a person follows a sweep: one per evaluation, and now and then how the whole stands; the time left."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.space.definition import Role, SweepTrial
from ambient_sweep.text import counted
from ambient_sweep.trial.records import TrialRecord

FRONTIER_POINTS = 5
SHOWN = 4  # running trials
SURPLUS = 1.25  # early promotions, and the last ones, exceed one in eta: by a fifth to a third in simulated sweeps
Point = tuple[float, float]


@dataclass
class _Trial:
    role: Role
    done: int = 0  # where the trial stands, in images
    executed: int = 0  # of these, trained by the trial itself
    left: int = 0


class Forecast:
    """Fixed trials run to their ends. Searched ones are expected to pass from rung to rung as MO-ASHA lets them, and to find
    as much trained by others as those before them did.

    images: of a whole training. fixed, searched: numbers of trials. levels, eta: of the rungs. budget: search.images.
    """

    def __init__(
        self,
        images: int,
        fixed: int,
        searched: int,
        levels: Sequence[float] = (),
        eta: int = 2,
        budget: int | None = None,
    ) -> None:
        self._images, self._fixed, self._searched, self._budget = images, fixed, searched, budget
        self._bounds, self._eta = [images * level for level in (0.0, *levels, 1.0)], eta
        self._trials: dict[str, _Trial] = {}

    def report(self, trial_id: str, role: Role, done: int, executed: int | None, left: int) -> None:
        """A trial stands after `done` images, and has `left` to its own end."""
        trial = self._trials.setdefault(trial_id, _Trial(role))
        trial.done, trial.left = done, left
        trial.executed = trial.executed if executed is None else executed

    def stands(self, record: TrialRecord) -> None:
        """A trial stands as its record says."""
        left = 0 if record.ended else record.images_asked - record.images_done
        self.report(record.trial_id, cast(Role, record.role), record.images_done, record.images_executed, left)

    def standing(self, trial_id: str) -> str:
        """How far a trial is; nothing before its record says so."""
        trial = self._trials.get(trial_id)
        return f"{trial_id} at {trial.done:,} of {trial.done + trial.left:,} images" if trial else ""

    def ended(self, trial_id: str) -> None:
        """A trial trains no more."""
        if trial_id in self._trials:
            self._trials[trial_id].left = 0

    def confirm(self, replicates: Mapping[str, int]) -> None:
        """The search is over; what is left are these trials, with their lengths in images."""
        self._searched, self._budget = 0, None
        for trial_id, images in replicates.items():
            self._trials.setdefault(trial_id, _Trial("replicate", left=images))

    @property
    def executed(self) -> int:
        """Images trained so far."""
        return sum(trial.executed for trial in self._trials.values())

    def images_left(self) -> float:
        """Images that will still be trained."""
        searched = [trial for trial in self._trials.values() if trial.role == "search"]
        others = [trial for trial in self._trials.values() if trial.role != "search"]
        left: float = sum(trial.left for trial in others)
        left += self._images * max(0, self._fixed - len(others))
        executed, done = sum(trial.executed for trial in searched), sum(trial.done for trial in searched)
        if self._budget is not None:
            most = self._images * max(0, self._searched - len(searched)) + sum(trial.left for trial in searched)
            return left + max(0.0, min(self._budget - executed, most))
        return left + self._search_left(searched) * (executed / done if done else 1.0)

    def _search_left(self, searched: Sequence[_Trial]) -> float:
        """From rung to rung: what trials have to the next one, and those that are expected to pass and have not yet."""
        left, slack = 0.0, 0.01 * self._images  # rungs lie at the end of a step
        for rung, (low, high) in enumerate(itertools.pairwise(self._bounds)):
            passing = self._searched * (min(1.0, SURPLUS / self._eta**rung) if rung else 1.0)
            passed = [trial for trial in searched if trial.done > low + slack or not rung]
            left += sum(min(high - trial.done, trial.left) for trial in passed if trial.done < high)
            left += max(0.0, passing - len(passed)) * (high - low)
        return left


class Progress:
    """Counts trials, collects the frontier, and prints both through `echo`.

    `total` trials run in this session and ran before; `done` and `failed` ran before; `names` are the two objectives' names;
    `points` are known values of both. With a limited `budget`, images are counted instead of trials. `record` reads what
    a running trial last wrote of itself.
    """

    def __init__(
        self,
        total: int,
        names: tuple[str, str],
        echo: Callable[[str], None],
        forecast: Forecast,
        *,
        done: int = 0,
        failed: int = 0,
        points: Iterable[Point] = (),
        budget: Budget | None = None,
        record: Callable[[str], TrialRecord | None] = lambda trial_id: None,
        status_every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.names = total, names
        self.done, self.failed = done, failed
        self._echo, self._clock, self._every = echo, clock, status_every
        self._points = list(points)
        self._running: set[str] = set()
        self._paused: set[str] = set()
        self._start = self._last = clock()
        self._budget = budget if budget is not None and budget.images else None
        self._forecast, self._executed_before, self._record = forecast, forecast.executed, record
        self._pace, self._executed_last = 0.0, forecast.executed  # images per second since the last status

    def trial_started(self, trial: SweepTrial) -> None:
        """A trial started, or started again."""
        self._running.add(trial.trial_id)
        self._paused.discard(trial.trial_id)

    def trial_paused(self, trial: SweepTrial) -> None:
        """A trial waits; it may start again."""
        self._running.discard(trial.trial_id)
        self._paused.add(trial.trial_id)

    def reported(self, trial: SweepTrial, report: Report) -> None:
        """A trial was evaluated at its main endpoint, or ended."""
        self._forecast.report(trial.trial_id, trial.role, report.images, report.images_executed, report.images_left)
        if report.ending is None:
            self._points.append(report.objectives)
            values = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, report.objectives, strict=True))
            self.note(f"{trial.trial_id} {trial.name}: {report.fraction:.0%} trained, {values}")

    def trial_ended(self, trial: SweepTrial, reason: str | None) -> None:
        """A trial came to its end; `reason` if it failed."""
        self._running.discard(trial.trial_id)
        self._paused.discard(trial.trial_id)
        self._forecast.ended(trial.trial_id)
        if reason is None:
            self.done += 1
        else:
            self.failed += 1
            self.note(f"{trial.trial_id} {trial.name}: FAILED: {reason}")

    def confirm(self, replicates: Mapping[str, int]) -> None:
        """The search is over; these trials are left, with their lengths in images."""
        self.total = self.done + self.failed + len(replicates)
        self._budget = None
        self._forecast.confirm(replicates)

    def note(self, text: str) -> None:
        """Prints a line, after the time since the start."""
        self._echo(f"[{_minutes(self._clock() - self._start)}] {text}")

    def status(self, *, force: bool = False) -> None:
        """How the whole stands, if it is time to say so."""
        now = self._clock()
        if force or now - self._last >= self._every:
            for record in filter(None, map(self._record, self._running)):
                self._forecast.stands(record)
            executed = self._forecast.executed
            self._pace = (executed - self._executed_last) / max(now - self._last, 1e-9)
            self._last, self._executed_last = now, executed
            self.note(self.status_line())

    def status_line(self) -> str:
        """Trials, the frontier so far, the time left."""
        running = f"{len(self._running)} running"
        standing = [text for text in map(self._forecast.standing, sorted(self._running)[:SHOWN]) if text]
        if standing:
            pace = f"; {self._pace:.3g} images per second" if self._pace > 0 else ""
            running += f" ({', '.join(standing)}{pace})"
        if self._paused:
            running += f", {len(self._paused)} paused"
        if self._budget is None:
            parts = [f"{self.done} of {self.total} trials done, {running}, {self.failed} failed"]
        else:
            trained = f"{self._budget.executed:,} of {self._budget.images:,} images trained"
            parts = [f"{trained}, {counted(self.done, 'trial')} done, {running}, {self.failed} failed"]
        front = self.frontier()
        if front:
            shown = ", ".join(f"{fidelity:.4g}/{memorization:.3g}" for fidelity, memorization in front)
            parts.append(f"frontier so far at main endpoints ({self.names[0]}/{self.names[1]}): {shown}")
        left = self.seconds_left()
        if left is not None:
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
        trained, left = self._forecast.executed - self._executed_before, self._forecast.images_left()
        return (self._clock() - self._start) * left / trained if trained > 0 and left > 0 else None


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
