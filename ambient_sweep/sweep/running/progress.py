"""Lines by which a person follows a sweep: one per evaluation, and now and then how the whole stands."""

import time
from collections.abc import Callable, Iterable

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.sweep.running.forecast import Forecast
from ambient_sweep.sweep.search.budget import Budget

FRONTIER_POINTS = 5
Point = tuple[float, float]


class Progress:
    """Counts trials, collects the frontier, and tells both through `echo`.

    `total` trials are to be run in this session and before; `done` and `failed` were before; `names` are the two
    objectives' names; `points` are known values of both. With a limited `budget`, images are counted instead of trials.
    """

    def __init__(
        self,
        total: int,
        names: tuple[str, str],
        echo: Callable[[str], None],
        *,
        done: int = 0,
        failed: int = 0,
        points: Iterable[Point] = (),
        budget: Budget | None = None,
        forecast: Forecast | None = None,
        status_every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.names = total, names
        self.done, self.failed = done, failed
        self._echo, self._clock, self._every = echo, clock, status_every
        self._points = list(points)
        self._live: set[str] = set()  # trials that began and have not ended
        self._paused: set[str] = set()  # among these
        self._start = self._last = clock()
        self._budget = budget if budget is not None and budget.images else None
        self._forecast = forecast
        self._executed_before = forecast.executed if forecast else 0

    def trial_started(self, trial_id: str) -> None:
        """A trial started, or started again."""
        self._live.add(trial_id)
        self._paused.discard(trial_id)

    def trial_paused(self, trial_id: str) -> None:
        """A trial waits; it may start again."""
        self._paused.add(trial_id)

    def evaluated(self, trial_id: str, name: str, fraction: float, point: Point) -> None:
        """A trial was evaluated at its main endpoint after `fraction` of its training."""
        self._points.append(point)
        self._say(f"{trial_id} {name}: {fraction:.0%} trained, {self._named(point)}")

    def trial_ended(self, trial_id: str, name: str, reason: str | None) -> None:
        """A trial came to its end; `reason` if it failed."""
        self._live.discard(trial_id)
        self._paused.discard(trial_id)
        if reason is None:
            self.done += 1
        else:
            self.failed += 1
            self._say(f"{trial_id} {name}: FAILED: {reason}")

    def trial_lost(self, trial_id: str, name: str, failures: int, allowed: int) -> None:
        """A trial's worker died and the trial starts again."""
        self._say(
            f"{trial_id} {name}: its worker failed; it goes on from its last state (restart {failures} of {allowed})"
        )

    def note(self, text: str) -> None:
        """Any other line."""
        self._say(text)

    def status(self, *, force: bool = False) -> None:
        """How the whole stands, if it is time to say so."""
        now = self._clock()
        if force or now - self._last >= self._every:
            self._last = now
            self._say(self.status_line())

    def status_line(self) -> str:
        """Trials, the frontier so far, the time left."""
        running = f"{len(self._live) - len(self._paused)} running"
        if self._paused:
            running += f", {len(self._paused)} paused"
        if self._budget is None:
            parts = [f"{self.done} of {self.total} trials done, {running}, {self.failed} failed"]
        else:
            trained = f"{self._budget.executed:,} of {self._budget.images:,} images trained"
            parts = [f"{trained}, {self.done} trials done, {running}, {self.failed} failed"]
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
        if self._forecast is None:
            return None
        trained, left = self._forecast.executed - self._executed_before, self._forecast.images_left()
        return (self._clock() - self._start) * left / trained if trained > 0 and left > 0 else None

    def _named(self, point: Point) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, point, strict=True))

    def _say(self, text: str) -> None:
        self._echo(f"[{_minutes(self._clock() - self._start)}] {text}")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
