"""MO-ASHA: which trials go on, from their values at the same length. Pure; knows no Ray, no clock and no disk.

Asynchronous successive halving (Li et al. 2020) for several objectives (Schmucker et al. 2021): at each rung, a length,
trials are ordered by non-dominated rank, trials of one rank by how alone they stand on their front, and one of `eta` goes
on. Values are compared within one bracket, one rung and one stratum (a noise level, say) and never across. With
`among: shorter` the order of a rung's entries is the one that they have among all entries of shorter rungs too: they should
beat what less training gives, since every checkpoint is a model to choose. Places still count the rung's own entries.

A trial's place is the number of entries that are strictly better. Ties therefore never depend on who came first, and
equal trials stay or go together. Syne Tune's MOASHA takes an argsort for ranks and stops trials that dominate all others.
"""

import heapq
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Self

import numpy as np

from ambient_sweep.errors import UserError
from ambient_sweep.pareto.rows import Floats
from ambient_sweep.sweep.rung import Key, Rung, RungSettings

__all__ = ["Decision", "RungSettings", "Rungs"]

STATE_VERSION = 1
RENEWAL = 32


class Decision(StrEnum):
    """What becomes of a trial after a report."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"  # it gives its place away, and goes on if it is promoted


class Rungs:
    """The rungs of a sweep: told of every report, says what becomes of the trial.

    Variant `stop`: a trial trains on while it is among the best of its rung, which lets all pass until it holds `eta`
    entries. Variant `promote`: a trial pauses at each rung, unless it is among the best at once, until it is one of them;
    `promotable` names those. No trial is ever stopped by it.
    """

    def __init__(self, settings: RungSettings) -> None:
        self.settings = settings
        self._rungs: dict[Key, Rung] = {}
        self._brackets: dict[str, int] = {}
        self._sizes = [0] * settings.brackets
        self._reached: dict[str, int] = {}  # trial id -> the highest rung it has an entry at
        self._paused: dict[str, Key] = {}
        self._waiting: dict[Key, dict[str, None]] = {}  # the same by rung
        self._ready: dict[Key, list[tuple[Any, ...]]] = {}  # those that may go on, as they are sorted
        self._changed: set[Key] = set()  # rungs whose `_ready` is not up to date
        self._sorted: dict[Key, tuple[int, int]] = {}  # entries, and shorter ones, that it was last made of
        self._promotable: list[str] = []

    def report(
        self,
        trial_id: str,
        position: int,
        values: Sequence[float],
        *,
        phase_start: int = 0,
        stratum: Hashable = None,
        feasible: bool = True,
        last: bool = False,
    ) -> Decision:
        """Enters a trial's values at the highest rung that `position` has reached, and decides there.

        A report between rungs, or at a rung where the trial has its entry, decides nothing. Of the rungs that a report
        passes at once only the highest gets an entry, since the values are those of that length. `phase_start`: where the
        trial's phase begins, for rungs that count from there. `feasible` False: the values break a constraint.
        `last`: the training is over; it is entered and never stopped. Raises ValueError for a wrong number of values.
        """
        if len(values) != len(self.settings.directions):
            raise ValueError(f"{trial_id}: expected {len(self.settings.directions)} values, not {values!r}")
        self._resume(trial_id)
        bracket = self._bracket(trial_id)
        at = position - (phase_start if self.settings.relative_to == "phase" else 0)
        level = sum(1 for rung in self.settings.positions if rung <= at) - 1
        if level < bracket or level <= self._reached.get(trial_id, -1):
            return Decision.CONTINUE
        self._reached[trial_id] = level
        key = Key(bracket, level, stratum)
        rung = self._enter(key, trial_id, np.array(values, dtype=np.float64) * self.settings.directions, feasible)
        if last:
            return Decision.CONTINUE
        if self.settings.variant == "stop":
            return Decision.CONTINUE if rung.keeps < 1 or rung.goes_on(trial_id) else Decision.STOP
        if rung.goes_on(trial_id):
            return Decision.CONTINUE
        self._pause(trial_id, key)
        return Decision.PAUSE

    def ended(self, trial_id: str) -> None:
        """The trial is over, however it ended: its entries stay, it is not promoted. A report takes it back."""
        self._resume(trial_id)

    def lone(self) -> list[str]:
        """The best of the paused trials at rungs with too few entries for any to go on, from the highest rung down.

        For when no more will come: else a search of few trials would train none to its end.
        """
        found = []
        for key, waiting in self._waiting.items():
            rung = self._rungs[key]
            if waiting and rung.keeps < 1:
                found += [(-key.level, rung.trials[t], t) for t in waiting if rung.ranking.is_below(rung.trials[t], 1)]
        return [trial_id for *_, trial_id in sorted(found)]

    def nearest(self, count: int) -> list[str]:
        """The first `count` paused trials by the share of their rung that is better, as if `eta` came down step by step."""
        queue = []  # with the least share that it may be, until one comes to the front: the exact one takes longer
        for trial_id, key in self._paused.items():
            rung = self._rungs[key]
            row = rung.trials[trial_id]
            queue.append((rung.ranking.least_place(row) / len(rung.trials), False, -key.level, row, trial_id))
        heapq.heapify(queue)
        found: list[str] = []
        while queue and len(found) < count:
            _, exact, level, row, trial_id = heapq.heappop(queue)
            if exact:
                found.append(trial_id)
                continue
            rung = self._rungs[self._paused[trial_id]]
            heapq.heappush(queue, (rung.ranking.place(row) / len(rung.trials), True, level, row, trial_id))
        return found

    def promotable(self, *, exact: bool = True) -> list[str]:
        """The paused trials that may go on: from the highest rung down, the best first, then those that came first.

        Not `exact`: as of when the rung had up to one in RENEWAL entries less, which costs little at any size.
        """
        if self._changed:
            for key in list(self._changed):
                rung, waiting = self._rungs[key], self._waiting.get(key, {})
                if not exact and self._is_recent(key):
                    self._ready[key] = [entry for entry in self._ready.get(key, ()) if entry[-1] in waiting]
                    continue
                self._changed.remove(key)
                self._sorted[key] = (len(rung.trials), rung.shorter)
                kept = rung.kept
                ready = [(rung.trials[t], t) for t in waiting if kept[rung.trials[t]]]
                self._ready[key] = [(-key.level, rung.ranking.place(row), row, t) for row, t in ready]
            self._promotable = [entry[-1] for entry in sorted(itertools.chain(*self._ready.values()))]
        return list(self._promotable)

    def _is_recent(self, key: Key) -> bool:
        """Whether hardly anything came since `_ready` was made."""
        rung, (entries, shorter) = self._rungs[key], self._sorted.get(key, (0, 0))
        new = len(rung.trials) - entries
        few = new < len(rung.trials) // RENEWAL or (new == 0 and entries > 0)
        return few and rung.shorter - shorter <= rung.shorter // RENEWAL

    def reached(self, trial_id: str) -> int | None:
        """The index of the highest rung at which the trial has an entry."""
        return self._reached.get(trial_id)

    @property
    def paused(self) -> list[str]:
        """The trials that wait, promotable or not, in the order in which they paused."""
        return list(self._paused)

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON can hold it. Strata must be JSON values, or tuples of them."""
        return {
            "version": STATE_VERSION,
            "positions": list(self.settings.positions),
            "brackets": self._brackets,
            "rungs": [
                {
                    "bracket": key.bracket,
                    "level": key.level,
                    "stratum": key.stratum,
                    "trials": list(rung.trials),
                    "values": [None if math.isnan(row[0]) else row for row, _ in rung.entries()],
                    "feasible": [feasible for _, feasible in rung.entries()],
                }
                for key, rung in self._rungs.items()
            ],
            "paused": {
                trial_id: [key.bracket, key.level, key.stratum] for trial_id, key in self._paused.items()
            },
        }  # fmt: skip

    @classmethod
    def restore(cls, settings: RungSettings, state: Mapping[str, Any]) -> Self:
        """The rungs as they were when `state` was taken. Raises UserError for a state of other rungs."""
        if state.get("version") != STATE_VERSION or state.get("positions") != list(settings.positions):
            raise UserError(
                f"rungs: the saved state is of version {state.get('version')!r} with rungs at {state.get('positions')!r}, "
                f"not {STATE_VERSION} at {list(settings.positions)!r}; keep the settings that the sweep began with"
            )
        rungs = cls(settings)
        for trial_id, bracket in state["brackets"].items():
            rungs._brackets[trial_id] = bracket
            rungs._sizes[bracket] += 1
        for saved in state["rungs"]:
            key = Key(saved["bracket"], saved["level"], _hashable(saved["stratum"]))
            for trial_id, row, feasible in zip(saved["trials"], saved["values"], saved["feasible"], strict=True):
                values = np.full(len(settings.directions), np.nan) if row is None else np.array(row, dtype=np.float64)
                rungs._enter(key, trial_id, values, feasible)
                rungs._reached[trial_id] = max(key.level, rungs._reached.get(trial_id, -1))
        for trial_id, (bracket, level, stratum) in state["paused"].items():
            rungs._pause(trial_id, Key(bracket, level, _hashable(stratum)))
        return rungs

    # -- inside -------------------------------------------------------------------------------------------------------

    def _enter(self, key: Key, trial_id: str, values: Floats, feasible: bool) -> Rung:
        rung = self._rungs.get(key) or self._new_rung(key)
        rung.add(trial_id, values, feasible)
        changed = [key]
        if self.settings.among == "shorter":
            longer = (replace(key, level=level) for level in range(key.level + 1, len(self.settings.positions)))
            for other in self._rungs.keys() & set(longer):
                self._rungs[other].add_shorter(values, feasible)
                changed.append(other)
        if self.settings.variant == "promote":
            self._changed.update(changed)
        return rung

    def _new_rung(self, key: Key) -> Rung:
        rung = self._rungs[key] = Rung(self.settings)
        for level in range(key.level) if self.settings.among == "shorter" else ():
            shorter = self._rungs.get(replace(key, level=level))
            for values, feasible in shorter.entries() if shorter else ():
                rung.add_shorter(np.array(values), feasible)
        return rung

    def _pause(self, trial_id: str, key: Key) -> None:
        """No change to those that are ready: the trial just was not good enough."""
        self._paused[trial_id] = key
        self._waiting.setdefault(key, {})[trial_id] = None

    def _resume(self, trial_id: str) -> None:
        key = self._paused.pop(trial_id, None)
        if key is not None:
            del self._waiting[key][trial_id]
            self._changed.add(key)

    def _bracket(self, trial_id: str) -> int:
        """Trials are dealt out as they come, each to the bracket that is farthest behind its share.

        Hyperband's shares (Li et al. 2018, algorithm 1): of B brackets, the one with r rungs to stop at is due
        eta^r / (r + 1) of the trials, which costs each bracket about the same.
        """
        if trial_id not in self._brackets:
            rungs = [len(self.settings.positions) - b for b in range(self.settings.brackets)]
            weights = [self.settings.eta**r / (r + 1) for r in rungs]
            due = [w / sum(weights) * (len(self._brackets) + 1) - n for w, n in zip(weights, self._sizes, strict=True)]
            bracket = max(range(len(due)), key=lambda b: (due[b], -b))
            self._brackets[trial_id] = bracket
            self._sizes[bracket] += 1
        return self._brackets[trial_id]


def _hashable(stratum: Any) -> Hashable:
    return tuple(_hashable(each) for each in stratum) if isinstance(stratum, list) else stratum
