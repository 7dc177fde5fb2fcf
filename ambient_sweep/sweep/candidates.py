"""Candidates of the search: proposals that are new, allowed and, with stages, the cheapest to train first."""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ambient_sweep.errors import UserError
from ambient_sweep.stages.prefix import prefix_of
from ambient_sweep.sweep import conditions
from ambient_sweep.sweep.asking import Asked, Told, draw, violations
from ambient_sweep.sweep.definition import Sweep

ENUMERABLE = 4096  # of spaces up to this size, a config that was not tried is found by listing them
REPEATS = 20  # proposals in a row that were tried already, before one is drawn
REFUSALS = 200  # proposals in a row that are refused, before the search gives up, or takes breath where it has an end
SINGLE, DRAWS = 64, 4  # proposals that may yet get a sibling; draws of each key for one
WIDER = 4  # times the lookahead, that are held at most while all are busy
PATIENCE = 4  # a candidate is passed over at most this many times the lookahead

Mark = tuple[tuple[str, Any], ...]


class Nothing(Enum):
    """Why there is no candidate."""

    YET = "not yet: ask again"
    LEFT = "the space holds no more"


class Source(Protocol):
    """Where proposals come from: an asker in this process, or one in a process of its own."""

    def propose(self, key: str) -> Asked | Nothing:
        """The next proposal, at once."""

    def add(self, key: str, told: Told) -> None: ...

    def end(self, key: str, told: Told) -> None: ...

    def close(self) -> None: ...


@dataclass
class Candidate:
    """A config that may be trained next. `note` says where it came from, if not from the sampler."""

    key: str
    values: dict[str, Any]
    system: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    passed: int = 0  # times that another one was taken


class Candidates:
    """Draws from a source without repeats; `refused` is told of those that a bound rules out before training, and of those
    for which `cost` or `parameters` raise UserError, since their settings contradict each other.

    With `cost` (images still to train) it holds `search.lookahead` candidates, more where all are `busy` (what they share is
    being trained right now), and hands out the cheapest that is not. The others stay, and one that was passed over too often
    goes first. Before them come siblings: a config whose training is the same run as that of one handed out before, and
    that differs in what is evaluated alone, costs no training. There is one for each proposal, once that has trained.
    """

    def __init__(
        self,
        sweep: Sweep,
        source: Source,
        tried: Iterable[Mapping[str, Any]],
        *,
        cost: Callable[[Mapping[str, Any]], int] | None = None,
        busy: Callable[[Mapping[str, Any]], bool] | None = None,
        parameters: Callable[[Mapping[str, Any]], int] | None = None,
        refused: Callable[[Candidate, dict[str, float], str], None] | None = None,
        drawn: int = 0,
    ) -> None:
        self._sweep, self._source = sweep, source
        self._size = sweep.size()
        self._taken: set[Mark] = {mark(values) for values in tried}
        self._cost, self._busy, self._parameters = cost, busy, parameters
        self._refused = refused
        self._held: list[Candidate] = []
        self._single: deque[tuple[dict[str, Any], int]] = deque(maxlen=SINGLE)  # without a sibling; what they cost then
        self._keys = (f"c{number}" for number in itertools.count())
        self._drawn = drawn
        self._refusal = ""  # why the last one was refused
        self._hopeless = not self._taken  # as long as none was allowed
        self.gave_up = ""  # why no more come, where the space may hold some

    @property
    def left(self) -> bool:
        """Whether the space holds a config that was not handed out."""
        return bool(self._held) or (not self.gave_up and len(self._taken) < self._size)

    def given(self, values: Mapping[str, Any]) -> Candidate | None:
        """A point of the sweep file, keys that it lacks drawn; None where its values were tried already, or are refused."""
        for _ in range(REPEATS):
            full = conditions.active(self._sweep.space, {**draw(self._sweep.space, self._rng()), **values})
            for key, distribution in self._sweep.space.items():  # the point may have opened keys that the draw left out
                if key not in full and conditions.is_active(distribution, full):
                    full[key] = distribution.at(self._rng().random())
            if self._new(full):
                candidate = Candidate(next(self._keys), full, note="a point of the sweep")
                self._source.add(candidate.key, Told(full, "running"))
                if self._allowed(candidate):
                    self._remember(full)
                    return candidate
        return None

    def next(self, *, waiting_helps: bool) -> Candidate | Nothing:
        """The next to train. `waiting_helps`: trials are running, so that what is busy will be free."""
        sibling = self._sibling()
        if sibling is not None:
            return sibling
        wanted = 1 if self._cost is None else self._sweep.search.lookahead
        nothing = self._hold(wanted)
        while (chosen := self._choose(waiting_helps)) is None:
            if nothing is not None or len(self._held) >= WIDER * wanted:
                return Nothing.YET if self._held or nothing is None else nothing
            nothing = self._hold(len(self._held) + 1)
        self._held.remove(chosen)
        for candidate in self._held:
            candidate.passed += 1
        self._remember(chosen.values)
        return chosen

    def _hold(self, wanted: int) -> Nothing | None:
        """Fills what is held up to `wanted`; says why where there are no more."""
        while len(self._held) < wanted:
            candidate = self._fresh()
            if isinstance(candidate, Nothing):
                return candidate
            self._held.append(candidate)
        return None

    def _choose(self, waiting_helps: bool) -> Candidate | None:
        free = [c for c in self._held if self._busy is None or not self._busy(c.values)]
        if not free:
            return None if waiting_helps or not self._held else self._held[0]
        if self._cost is None:
            return free[0]
        oldest = max(free, key=lambda c: c.passed)
        if oldest.passed >= PATIENCE * self._sweep.search.lookahead:
            return oldest
        cost = self._cost
        return min(free, key=lambda c: cost(c.values))  # the first of equals, which waited longest

    def _remember(self, values: dict[str, Any]) -> None:
        """It may get a sibling, once it has trained."""
        if self._cost is not None:
            self._single.append((values, self._cost(values)))

    def _sibling(self) -> Candidate | None:
        """A new config whose training is the run of an earlier proposal, as far as that has come."""
        for entry in reversed(self._single):
            values, cost = entry
            if self._cost is None or self._cost(values) >= cost or (self._busy is not None and self._busy(values)):
                continue
            self._single.remove(entry)
            for changed in self._same_run(values):
                if self._cost(changed) <= self._cost(values) and self._new(changed):
                    candidate = Candidate(next(self._keys), changed, note="its training is that of another")
                    self._source.add(candidate.key, Told(changed, "running"))
                    return candidate
            return self._sibling()
        return None

    def _same_run(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Configs of the same run that differ from `values` in one key, a few for each key."""
        run = prefix_of(self._sweep.config_for(values))
        for key, distribution in self._sweep.space.items():
            for _ in range(DRAWS if key in values else 0):
                changed = {**values, key: distribution.at(self._rng().random())}
                if changed[key] == values[key] or not self._is_whole(changed):
                    continue
                try:
                    same = prefix_of(self._sweep.config_for(changed)) == run
                except UserError:
                    continue
                if not same:
                    break
                yield changed

    def _is_whole(self, values: Mapping[str, Any]) -> bool:
        """Whether values are those of the active keys, no more and no fewer."""
        space = self._sweep.space
        return {key for key, d in space.items() if conditions.is_active(d, values)} == set(values)

    # -- proposals ----------------------------------------------------------------------------------------------------

    def _fresh(self) -> Candidate | Nothing:
        """A candidate whose values no other has, and that is not refused."""
        if self.gave_up:
            return Nothing.LEFT
        what = f"{REFUSALS} configs in a row"
        for _ in range(REFUSALS):
            candidate = self._unlike()
            if candidate is Nothing.LEFT and self._refusal and self._hopeless:
                what = "all configs of the space"
                break
            if isinstance(candidate, Nothing) or self._allowed(candidate):
                return candidate
        else:
            if self._sweep.search.sampler == "grid" or self._size <= ENUMERABLE:  # which come to their end
                return Nothing.YET
        self.gave_up = (
            f"search: {what} were refused, the last one: {self._refusal}; narrow the space, or raise the bound"
        )
        return Nothing.LEFT

    def _unlike(self) -> Candidate | Nothing:
        if len(self._taken) >= self._size:
            return Nothing.LEFT
        # a grid comes to its end by itself
        for _ in itertools.count() if self._sweep.search.sampler == "grid" else range(REPEATS):
            key = next(self._keys)
            asked = self._source.propose(key)
            if isinstance(asked, Nothing):
                return asked
            if self._new(asked.values):
                return Candidate(key, asked.values, asked.system, asked.note)
            self._source.end(key, Told(asked.values, "fail"))
        values = self._untried()
        key = next(self._keys)
        self._source.add(key, Told(values, "running"))
        return Candidate(key, values, note="drawn: the sampler proposed what was tried before")

    def _untried(self) -> dict[str, Any]:
        space, tries = self._sweep.space, 1000 if self._size > ENUMERABLE else 0
        for _ in range(tries):
            values = draw(space, self._rng())
            if self._new(values):
                return values
        left = (values for values in conditions.configs(space) if mark(values) not in self._taken)
        values = next(left) if tries else self._rng().choice(list(left))
        self._new(values)
        return values

    def _new(self, values: Mapping[str, Any]) -> bool:
        marked = mark(values)
        if marked in self._taken:
            return False
        self._taken.add(marked)
        return True

    def _rng(self) -> random.Random:
        self._drawn += 1
        return random.Random(f"{self._sweep.search.seed}/candidate/{self._drawn}")

    def _allowed(self, candidate: Candidate) -> bool:
        bound, over = self._sweep.search.constraints.get("parameters"), dict[str, float]()
        try:
            if self._cost is not None:
                self._cost(candidate.values)
            if bound is not None and self._parameters is not None:
                count = self._parameters(candidate.values)
                over = violations({"parameters": bound}, {"parameters": count})
                if over["parameters"] > 0:
                    raise UserError(f"parameters {count:,} exceed search.constraints.parameters={bound:g}")
        except UserError as error:
            self._refusal = str(error).removeprefix(f"{self._sweep.name}: ")
        else:
            self._hopeless = False
            return True
        self._source.end(candidate.key, Told(candidate.values, "pruned" if over else "fail", constraints=over))
        if self._refused is not None:
            self._refused(candidate, over, self._refusal)
        return False


def mark(values: Mapping[str, Any]) -> Mark:
    """Values as a key; true and 1 are two."""
    return tuple(sorted((key, (type(value).__name__, value)) for key, value in values.items()))
