"""MO-ASHA: which trials go on, from their values at the same length. Pure: no Ray, no clock, no disk.

Asynchronous successive halving (Li et al. 2020) for two objectives (Schmucker et al. 2021), in its promoting form: a trial
pauses at each rung, a length at which trials are evaluated, until it is among the best `1 / eta` of those that reached the
rung. Trials are ordered by nondominated rank, those of one rank by crowding distance. The order is the one that they have
among all entries of shorter rungs as well: since every checkpoint is a model to choose, a trial that goes on should beat
what less training gives.

A trial's place is the number of entries that are strictly better, so equal trials stay or go together, whoever came first.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.pareto import crowding_distance, nondominated_rank


class Decision(StrEnum):
    """What a trial does after a report."""

    CONTINUE = "continue"
    PAUSE = "pause"  # its worker is free; it goes on if it is promoted
    STOP = "stop"


@dataclass(frozen=True)
class Entry:
    """A trial's values at a rung, minimised. feasible: it violates no constraint."""

    values: tuple[float, float]
    feasible: bool = True


class Rungs:
    """The rungs of a sweep at `levels`, rising fractions of a training. Trials are known by their ids."""

    def __init__(self, levels: Sequence[float], eta: int) -> None:
        self.levels, self.eta = tuple(levels), eta
        self._entries: list[dict[str, Entry]] = [{} for _ in levels]
        self._reached: dict[str, int] = {}  # the highest rung at which a trial has an entry
        self._paused: dict[str, int] = {}  # the rung at which a trial waits
        self._places: dict[int, dict[str, int]] = {}  # by rung, until one of its entries, or of a shorter rung, is new

    def report(self, trial_id: str, position: float, entry: Entry, *, last: bool = False) -> Decision:
        """Enters a trial's values at the highest rung that `position` has reached, and decides whether it goes on.

        A report between rungs, or at a rung where the trial has an entry, decides nothing. `last`: the training is over; it
        is entered and goes on to its end.
        """
        self._paused.pop(trial_id, None)
        rung = sum(1 for level in self.levels if level <= position + 1e-9) - 1
        if rung <= self._reached.get(trial_id, -1):
            return Decision.CONTINUE
        self._enter(trial_id, rung, entry)
        if last or self._goes_on(trial_id, rung):
            return Decision.CONTINUE
        self._paused[trial_id] = rung
        return Decision.PAUSE

    def recall(
        self, reports: Sequence[tuple[str, float, Entry]], unfinished: set[str], decided: Set[str] = frozenset()
    ) -> None:
        """Takes up the reports of an earlier session: trial id, position and entry, in any order.

        Of the `unfinished` trials those wait that stand at a rung, and are not among its best; and of those about whose last
        report was `decided` before, all that stand at a rung, as they did.
        """
        ends = dict[str, float]()
        for trial_id, position, entry in sorted(reports, key=lambda report: (report[1], report[0])):
            self.report(trial_id, position, entry, last=True)
            ends[trial_id] = position
        for trial_id in sorted(unfinished & self._reached.keys()):
            rung = self._reached[trial_id]
            waited = trial_id in decided or not self._goes_on(trial_id, rung)
            if math.isclose(ends[trial_id], self.levels[rung]) and waited:
                self._paused[trial_id] = rung

    def leave(self, trial_id: str) -> None:
        """The trial goes on, or is over: it does not wait any more. Its entries stay."""
        self._paused.pop(trial_id, None)

    def reached(self, trial_id: str) -> int | None:
        """The index of the highest rung at which a trial has an entry."""
        return self._reached.get(trial_id)

    def __contains__(self, trial_id: object) -> bool:
        """Whether a trial waits."""
        return trial_id in self._paused

    @property
    def paused(self) -> list[str]:
        """The trials that wait."""
        return list(self._paused)

    def promotable(self, *, at_least: int = 0) -> list[str]:
        """The paused trials that may go on: from the highest rung down, the best first, then those that came first.

        at_least: that many go on from each rung. For the end of a search, where a rung of few trials would let none pass.
        """
        found: list[str] = []
        for rung in sorted(set(self._paused.values()), reverse=True):
            places, room = self._places_at(rung), max(at_least, self._room(rung))
            ready = [trial_id for trial_id, at in self._paused.items() if at == rung and places[trial_id] < room]
            found += sorted(ready, key=lambda trial_id: places[trial_id])
        return found

    def nearest(self, count: int) -> list[str]:
        """The `count` paused trials that are nearest to going on: of whose rung the smallest share is better."""
        share = {t: self._places_at(rung)[t] / len(self._entries[rung]) for t, rung in self._paused.items()}
        return sorted(self._paused, key=lambda t: (share[t], -self._paused[t]))[:count]

    def _enter(self, trial_id: str, rung: int, entry: Entry) -> None:
        self._reached[trial_id] = rung
        self._entries[rung][trial_id] = entry
        for longer in range(rung, len(self.levels)):
            self._places.pop(longer, None)

    def _room(self, rung: int) -> int:
        """How many entries of a rung go on."""
        return len(self._entries[rung]) // self.eta

    def _goes_on(self, trial_id: str, rung: int) -> bool:
        return self._places_at(rung)[trial_id] < self._room(rung)

    def _places_at(self, rung: int) -> dict[str, int]:
        """How many trials of the rung are strictly better than each, in the order of all entries up to the rung."""
        if rung not in self._places:
            own = self._entries[rung]
            shorter = [entry for entries in self._entries[:rung] for entry in entries.values()]
            order = place([*own.values(), *shorter])[: len(own)]
            self._places[rung] = dict(zip(own, np.searchsorted(np.sort(order), order).tolist(), strict=True))
        return self._places[rung]


def place(entries: Sequence[Entry]) -> NDArray[np.int64]:
    """A number for each entry that is smaller the better the entry is, and the same for entries that are equally good.

    By feasibility, then nondominated rank, then crowding distance; entries that are not finite come last and are equal.
    """
    values = np.array([entry.values for entry in entries], dtype=np.float64).reshape(-1, 2)
    finite = np.isfinite(values).all(axis=1)
    feasible = np.array([entry.feasible for entry in entries], dtype=bool)
    keys = np.zeros((len(entries), 3))
    keys[:, 0] = np.where(finite, np.where(feasible, 0, 1), 2)
    for group in (0, 1):
        members = keys[:, 0] == group
        if members.any():
            keys[members, 1] = nondominated_rank(values[members])
            keys[members, 2] = -crowding_distance(values[members])
    order = np.lexsort(keys.T[::-1])
    better = np.zeros(len(entries), dtype=np.int64)
    better[order[1:]] = np.cumsum((keys[order[1:]] != keys[order[:-1]]).any(axis=1))
    return better
