"""How a sweep stands, by its trials' records: the one source of the live display, the lines in a log and `status`."""

import math
import platform
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ambient_sweep.errors import UserError
from ambient_sweep.pareto import pareto_mask
from ambient_sweep.storage import is_locked
from ambient_sweep.sweep.folder import DRIVER_LOCK
from ambient_sweep.sweep.forecast import SLACK, Forecast, executed_images
from ambient_sweep.sweep.report import objectives
from ambient_sweep.sweep.space.file import SWEEP_FILE, load_sweep
from ambient_sweep.text import command, counted, duration
from ambient_sweep.trial.records import TrialRecord, read_evaluations, read_trials, trial_path

SESSION_FILE = ".session.json"
FRONTIER_POINTS = 5  # in a line
SHOWN = 4  # running trials
PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 60, 7, 11  # characters: of all, its rows, left of its columns
Point = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """A step of the confirmation: what it does, the trainings that it is given, by id and with their images, or how many of
    its measurements are done, and after how many seconds."""

    what: str
    given: Mapping[str, int] = field(default_factory=dict)
    measurements: int = 0
    done: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.what}; {self.done} of {self.measurements} done" if self.measurements else self.what


@dataclass(frozen=True)
class Session:
    """What the driver notes beside the records, in SESSION_FILE, until the sweep is finished.

    started: seconds since 1970. executed: images trained before. step: None until the search is over. pending: trials that
    wait for a worker. jobs: of Ray's, in which drivers of this sweep ran, by `cluster.this_job`.
    """

    started: float
    executed: int
    host: str = field(default_factory=platform.node)
    step: Step | None = None
    pending: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()

    @classmethod
    def read(cls, root: Path) -> "Session | None":
        """What the last driver of an unfinished sweep noted. Raises UserError for a damaged file."""
        file = root / SESSION_FILE
        try:
            return TypeAdapter(cls).validate_json(file.read_bytes()) if file.exists() else None
        except ValidationError:
            raise UserError(f"{file}: damaged; remove it") from None


@dataclass(frozen=True)
class Standing:
    """Trials by state, images, rungs, the frontier at main endpoints so far, and time. Both objectives are minimised."""

    names: tuple[str, str]  # of the objectives
    total: int  # trials; at most, with a budget
    done: int  # completed or stopped for good
    failed: int
    running: int
    pending: int  # they wait for a worker
    paused: int  # they wait for their promotion or, where nothing runs, for `resume`
    training: tuple[tuple[str, int, int], ...]  # running trials with a record: id, images done, images asked
    executed: int  # images trained, by all trials
    left: int  # images that will still be trained
    searched: int  # images of those trained that count against the budget
    budget: int | None  # search.images
    rungs: tuple[tuple[float, int], ...]  # fractions of a training, and how many searched trials have come so far
    frontier: tuple[Point, ...]  # by rising memorization
    seconds: float  # since the session's start, 0 where none runs
    pace: float  # images per second since then
    seconds_left: float | None  # of the step, if any; None before the first is done, and where nothing is left
    step: Step | None = None  # of the confirmation

    @classmethod
    def of(
        cls, trials: Collection[TrialRecord], points: Iterable[Point], forecast: Forecast, names: tuple[str, str], *,
        running: Collection[str] = (), pending: int = 0, paused: int = 0, seconds: float = 0.0, before: int = 0,
        most_seconds: float = math.inf, step: Step | None = None,
    ) -> "Standing":  # fmt: skip
        """Of a sweep with these records and these values at main endpoints.

        running: ids of trials. before: images trained before the session, which has lasted `seconds` and may last
        `most_seconds` more.
        """
        forecast = forecast if step is None else forecast.confirming(step.given)
        status = Counter(trial.status for trial in trials if trial.ended or trial.status == "failed")
        search = [trial for trial in trials if trial.role == "search"]
        executed, left = executed_images(trials), forecast.images_left(trials)
        pace = (executed - before) / seconds if seconds else 0.0
        seconds_left = min(left / pace, max(0.0, most_seconds)) if pace and left else None
        if step is not None and step.measurements:  # nothing is trained
            pace, seconds_left = 0.0, step.seconds / step.done * (step.measurements - step.done) if step.done else None
        rungs = {level: (level - SLACK) * forecast.images for level in (*forecast.levels, 1.0)}
        return cls(
            names, forecast.trials(trials), status["completed"] + status["stopped"], status["failed"],
            running=len(running), pending=pending, paused=paused,
            training=tuple(sorted((t.trial_id, t.images_done, t.images_asked) for t in trials if t.trial_id in running)),
            executed=executed, left=round(left), searched=executed_images(search), budget=forecast.budget,
            rungs=tuple((level, sum(t.images_done >= images for t in search)) for level, images in rungs.items()),
            frontier=frontier_of(points), seconds=seconds, pace=pace,
            seconds_left=seconds_left, step=step,
        )  # fmt: skip

    def line(self) -> str:
        """All of it in one line."""
        detail = "; ".join([self._at(), *self._pace()])
        parts = [self._trials(f" ({detail})" if self.training else "")]
        parts += [f"confirming: {self.step}"] if self.step else []
        parts += [f"frontier {self._front()}"] if self.frontier else []
        return "; ".join(parts + self._time_left())

    def lines(self, width: int) -> list[str]:
        """The same with more room, and a plot of the frontier, `width` characters wide at best."""
        left = [f"about {self.left:,} left"] if self.left else []
        rows = {
            "trials": self._trials(),
            "confirm": str(self.step or ""),
            "running": self._at(),
            "reached": ", ".join(f"{level:.0%} by {count}" for level, count in self.rungs),
            "images": ", ".join([f"{self.executed:,} trained", *left, *self._pace()]),
            "time": ", ".join([f"{clock_text(self.seconds)} so far", *self._time_left()]) if self.seconds else "",
            "frontier": self._front() if self.frontier else "",
        }
        return [f"{name:<9} {text}" for name, text in rows.items() if text] + self._plot(min(width, PLOT_WIDTH))

    def _trials(self, detail: str = "") -> str:
        if self.budget is None:
            text = f"{self.done} of {self.total} trials done"
        else:
            text = f"{self.searched:,} of {self.budget:,} images trained, {counted(self.done, 'trial')} done"
        text += f", {self.running} running{detail}"
        for count, what in ((self.pending, "pending"), (self.paused, "paused")):
            text += f", {count} {what}" if count else ""
        return f"{text}, {self.failed} failed"

    def _at(self) -> str:
        return ", ".join(f"{trial} at {done:,} of {asked:,} images" for trial, done, asked in self.training[:SHOWN])

    def _pace(self) -> list[str]:
        text = f"{self.pace:,.0f}" if self.pace >= 100 else f"{self.pace:.3g}"
        return [f"{text} images per second"] if self.pace else []

    def _front(self) -> str:
        last = len(self.frontier) - 1
        picks = sorted({round(i * last / (FRONTIER_POINTS - 1)) for i in range(FRONTIER_POINTS)})
        shown = (f"{fidelity:.4g}/{memorization:.3g}" for fidelity, memorization in (self.frontier[i] for i in picks))
        return f"so far at main endpoints ({'/'.join(self.names)}): {', '.join(shown)}"

    def _time_left(self) -> list[str]:
        of = " of this step" if self.step else ""
        return [] if self.seconds_left is None else [f"about {clock_text(self.seconds_left)} left{of}"]

    def _plot(self, width: int) -> list[str]:
        """Fidelity over memorization in characters."""
        columns = width - PLOT_MARGIN
        if len(self.frontier) < 2 or columns < PLOT_MARGIN:
            return []
        fidelity, memorization = np.array(self.frontier).T
        cells = np.full((PLOT_HEIGHT, columns), " ")
        axes = zip((fidelity.max() - fidelity, memorization - memorization.min()), cells.shape, strict=True)
        cells[tuple(np.rint(values / values.max() * (count - 1)).astype(int) for values, count in axes)] = "*"
        labels = [f"{fidelity.max():.4g}", *[""] * (PLOT_HEIGHT - 2), f"{fidelity.min():.4g}"]
        low, high = f"{memorization.min():.3g}", f"{memorization.max():.3g}"
        lines = [f"{label:>9} |{''.join(row)}" for label, row in zip(labels, cells, strict=True)]
        return [*lines, f"{'':9} +{'-' * columns}", f"{'':11}{low}{high:>{columns - len(low)}}"]


def frontier_of(points: Iterable[Point]) -> tuple[Point, ...]:
    """Those that no other beats in both objectives, each once, by rising memorization."""
    points = list(points)
    front = set(compress(points, pareto_mask(points))) if points else ()
    return tuple(sorted(front, key=lambda point: (point[1], point[0])))


def read_standing(root: Path) -> tuple[Standing, str, str]:
    """How the sweep in `root` stands by its files alone; its state (running, finished, interrupted, unknown), and in words.

    A driver is known by its lock, which other machines may not see. Raises UserError for a damaged record.
    """
    sweep, trials, evaluations = load_sweep(root / SWEEP_FILE), read_trials(root), read_evaluations(root)
    file, now, forecast = root / SESSION_FILE, time.time(), Forecast.of(sweep)
    session = Session.read(root) or Session(now, 0)
    written = [trial_path(root, trial.trial_id) for trial in trials] + [file] * file.exists()
    newest = max((path.stat().st_mtime for path in written), default=session.started)
    waiting = {trial.trial_id for trial in trials if not trial.ended and trial.status != "failed"}
    state, said = "interrupted", f"not running; `{command('resume', root)}` continues it"
    if is_locked(root / DRIVER_LOCK):
        state, said = "running", f"running on {session.host}"
    elif not file.exists() and all(trial.ended for trial in trials):
        state = said = "finished"
    elif session.host != platform.node():
        state, said = "unknown", f"begun on {session.host}; its newest record is {duration(now - newest)} old"
    running, pending, seconds = list[str](), set[str](), 0.0
    if state in ("running", "unknown"):
        seconds = max(0.0, (now if state == "running" else newest) - session.started)  # clocks may be set back
        pending = set(session.pending)
        measured = {(each.trial_id, each.images) for each in evaluations if forecast.levels}  # there a trial may pause
        running = [
            t.trial_id for t in trials
            if t.status == "running" and t.trial_id not in pending and (t.trial_id, t.images_done) not in measured
        ]  # fmt: skip
    standing = Standing.of(
        trials, [objectives(each) for each in evaluations if each.main_endpoint], forecast,
        (sweep.base["evaluation.fidelity"], sweep.base["evaluation.memorization"]),
        running=running, pending=len(pending), paused=len(waiting.difference(running, pending)),
        seconds=seconds, before=session.executed, step=Step("") if state == "finished" else session.step,
    )  # fmt: skip
    return standing, state, said


def clock_text(seconds: float) -> str:
    """`0:40`, `12:00` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
