"""Trials of one process that are trained in packs (training/packed.py), each in a thread of its own.

One thread computes at a time. A trial that wants its next training record waits until all others want theirs; the last that
comes makes steps for all of them, until records are due. Saving, evaluating and reporting go on as in any trial
(trial/run.py), one trial after another.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Self

from ambient_sweep.config import Config
from ambient_sweep.data.observed import Observed
from ambient_sweep.errors import UserError
from ambient_sweep.training.loop import Record, never, train
from ambient_sweep.training.packed import pack_key, train_packed
from ambient_sweep.training.state import TrainState

ARRIVAL_SECONDS = 0.01  # between two looks at whether those that want to compute have come
Due = tuple[int, Record | Exception]


class Pack:
    """The trials of a process. What they have of one shape is trained together."""

    def __init__(self) -> None:
        self._turn = threading.Condition()  # held by the thread that computes
        self._arrivals = threading.Lock()
        self._arriving = 0  # threads that want to compute and are not counted as present yet
        self._present: list[Member] = []
        self._trainings: dict[str, _Training] = {}  # under way, the one that waits longest first

    def member(self) -> "Member":
        """A trial's place, to be entered by its thread."""
        return Member(self)

    # -- for members, which hold the turn -------------------------------------------------------------------------------

    def _enter(self, member: "Member") -> None:
        with self._arrivals:
            self._arriving += 1
        self._turn.acquire()
        with self._arrivals:
            self._arriving -= 1
        self._present.append(member)

    def _leave(self, member: "Member") -> None:
        self._present.remove(member)
        self._turn.notify_all()
        self._turn.release()

    def _wait(self) -> None:
        """Until something changed, or makes steps where all wait."""
        if self._arriving:
            self._turn.wait(ARRIVAL_SECONDS)
        elif all(member.waits for member in self._present):
            self._advance()
            self._turn.notify_all()
        else:
            self._turn.wait()

    def _advance(self) -> None:
        """Trains those of one shape until records are due; of several shapes, each in its turn."""
        wanting: dict[str, list[Member]] = {}
        for member in self._present:
            wanting.setdefault(member.request.key, []).append(member)
        new = (key for key in wanting if key not in self._trainings)
        key = next(new, None) or next(key for key in self._trainings if key in wanting)
        training = self._trainings.pop(key, None)
        if training is None or training.members != wanting[key]:
            if training is not None:
                training.steps.close()
            training = _Training(wanting[key])
        self._trainings[key] = training
        training.advance()

    def _drop(self, member: "Member") -> None:
        """Its state may be changed from now on."""
        for key, training in list(self._trainings.items()):
            if member in training.members:
                training.steps.close()
                del self._trainings[key]


@dataclass(frozen=True)
class _Request:
    """What a member asked to be trained."""

    config: Config
    observed: Observed
    state: TrainState
    stops: frozenset[int]
    interrupted: Callable[[], bool]
    key: str  # who has the same can be trained in one pack


class Member:
    """A trial's place in a pack: the `Trainer` of its thread, which holds it as a context."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._seconds, self._since = 0.0, 0.0
        self.waits = False  # for its next record
        self._request: _Request | None = None
        self._due: list[Record | Exception] = []
        self._last = False  # whether it is trained no further

    def __enter__(self) -> Self:
        self._pack._enter(self)
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._count()
        self._pack._leave(self)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Lets the others compute while this one waits for something else."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def seconds(self) -> float:
        """Of what it computed itself, and its share of the steps made for it and others."""
        return self._seconds + time.perf_counter() - self._since

    def _count(self) -> None:
        self._seconds += time.perf_counter() - self._since

    def train(
        self,
        config: Config,
        observed: Observed,
        state: TrainState,
        *,
        stops: frozenset[int] = frozenset(),
        interrupted: Callable[[], bool] = never,
    ) -> Generator[Record, None, None]:
        """As `training.loop.train`, and within rounding with the same results. Raises what it raises."""
        if (
            state.images
            >= config.images_at(config.training.stop) // config.training.batch_size * config.training.batch_size
        ):
            return
        self._request = _Request(config, observed, state, stops, interrupted, self._key(config, state))
        self._due, self._last = [], False
        try:
            while self._due or not self._last:
                yield self._next()
        finally:
            self._pack._drop(self)
            self._request = None

    def _key(self, config: Config, state: TrainState) -> str:
        try:
            return f"{pack_key(config)} {state.shape} {state.classes}"
        except UserError:  # no pack can hold it
            return f"by itself {id(self)}"

    @property
    def request(self) -> _Request:
        if self._request is None:
            raise ValueError("a member that does not train")
        return self._request

    def _next(self) -> Record:
        self._count()
        self.waits = True
        try:
            while not self._due:
                self._pack._wait()
        finally:
            self.waits = False
            self._since = time.perf_counter()
        due = self._due.pop(0)
        if isinstance(due, Exception):
            raise due
        return due

    # -- told by what trains it -----------------------------------------------------------------------------------------

    def is_told(self, due: Record | Exception, last: bool) -> None:
        """What it waited for."""
        self._due.append(due)
        self._last, self.waits = last, False

    def spent(self, seconds: float) -> None:
        """On steps for it."""
        self._seconds += seconds


class _Training:
    """Members of one shape that are trained together, as long as they all stay."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self._leaving: set[int] = set()
        self.steps = self._packed() if len(members) > 1 else self._alone()

    def advance(self) -> None:
        """Makes steps until records are due, and tells those whose they are."""
        began = time.perf_counter()
        try:
            due = next(self.steps)
        except Exception as error:  # noqa: BLE001 (handed to every member's own thread, which raises it)
            due = [(index, error) for index in range(len(self.members))]
        share = (time.perf_counter() - began) / len(self.members)
        for member in self.members:
            member.spent(share)
        for index, outcome in due:
            member = self.members[index]
            member.is_told(outcome, isinstance(outcome, Exception) or self._is_over(index))

    def _is_over(self, index: int) -> bool:
        request = self.members[index].request
        step = request.config.training.batch_size
        return index in self._leaving or request.state.images + step > request.config.images_at(
            request.config.training.stop
        )

    def _leaves(self, index: int) -> bool:
        if self.members[index].request.interrupted():
            self._leaving.add(index)
        return index in self._leaving

    def _packed(self) -> Generator[Sequence[Due], None, None]:
        requests = [member.request for member in self.members]
        return train_packed(
            [r.config for r in requests],
            [r.observed for r in requests],
            [r.state for r in requests],
            stops=[r.stops for r in requests],
            leaves=self._leaves,
        )

    def _alone(self) -> Generator[Sequence[Due], None, None]:
        r = self.members[0].request
        with closing(
            train(r.config, r.observed, r.state, stops=r.stops, interrupted=lambda: self._leaves(0))
        ) as records:
            for record in records:
                yield [(0, record)]
