"""The default sampler: multi-objective TPE over a bounded history of observations.

Good and bad observations are told apart by nondominated rank, and within the rank where the good ones end by
hypervolume (Ozaki et al. 2022, doi 10.1613/jair.1.13188); keys are drawn one after the other from Parzen estimators. So
does Optuna's TPESampler, from which this differs:

- An observation is a checkpoint, several of one config. A config counts once: as good where one of its checkpoints is,
  for every model passes through worse ones.
- The history is bounded: the newest observations, and those that nothing dominates.
- The estimators are renewed once the history has grown by a few percent, not at every draw.
- Its first draws are a Sobol sequence, which covers the space more evenly than chance.

Configs that are being trained count as bad, so that trials side by side are not the same one.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.pareto import nondominated_rank
from ambient_sweep.sweep import conditions
from ambient_sweep.sweep.asking import Asked, Space, Told, random_draws, sobol_draws
from ambient_sweep.sweep.definition import Search
from ambient_sweep.sweep.parzen import DRAWS, Key

STARTUP = 10  # configs
GOOD_SHARE, GOOD_MOST = 0.1, 25
NEWEST = 256  # observations kept for their age
FRONT = 128  # older ones kept for being dominated by none; of more, those that hold the hypervolume
SLACK = 64  # observations above these bounds before the history is cut
RENEWAL = 16  # the estimators are renewed once one in so many of the history is new

Config = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class _Item:
    config: Config
    values: dict[str, Any]
    objectives: tuple[float, float]  # infinite: a trial without any, which counts as bad
    violation: float


class HistoryTpe:
    """See the module's text. An Asker."""

    def __init__(self, space: Space, search: Search, seed: int, seen: int = 0) -> None:
        self._space = space
        self._candidates = int(search.sampler_args.get("n_ei_candidates", DRAWS))
        self._seed = seed
        self._startup = search.startup_trials or STARTUP
        self._draws = sobol_draws(space, search.seed, seen)
        self._random = random_draws(space, search.seed, seen)
        self._asked, self._share = seen, search.random_share
        self._history: list[_Item] = []
        self._running: dict[str, dict[str, Any]] = {}
        self._configs: set[Config] = set()  # with observations, until there are enough
        self._split: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
        self._keys: dict[str, Key] = {}
        self._events = math.inf  # since the estimators were made

    # -- asked --------------------------------------------------------------------------------------------------------

    def ask(self, key: str) -> Asked:
        self._asked += 1
        if math.floor(self._asked * self._share) > math.floor((self._asked - 1) * self._share):
            values = next(self._random)
        elif len(self._configs) < self._startup:
            values = next(self._draws)
        else:
            if self._events * RENEWAL >= len(self._history):
                self._renew()
            values, first = {}, self._asked * self._candidates
            for name, distribution in self._space.items():
                if conditions.is_active(distribution, values):
                    values[name] = self._key(name).draw(
                        rng.uniform(f"search.tpe/{name}", self._seed, first, self._candidates, 2)
                    )
        self._running[key] = values
        self._events += 1
        return Asked(dict(values))

    def _key(self, name: str) -> Key:
        if name not in self._keys:
            good, bad = ([v[name] for v in side if name in v] for side in self._split)
            self._keys[name] = Key(self._space[name], good, bad)
        return self._keys[name]

    def _renew(self) -> None:
        self._events, self._keys = 0, {}
        count = min(math.ceil(GOOD_SHARE * len(self._history)), GOOD_MOST)
        chosen = best(self._history, count)
        good = {self._history[i].config: self._history[i].values for i in chosen}
        bad = {item.config: item.values for item in self._history if item.config not in good}
        running = itertools.islice(reversed(self._running.values()), NEWEST)
        self._split = list(good.values()), [*bad.values(), *running]

    # -- told ---------------------------------------------------------------------------------------------------------

    def add(self, key: str, told: Told) -> None:
        if told.ending == "running":
            self._running[key] = told.values
        else:
            self._learn(told)

    def end(self, key: str, told: Told) -> None:
        if self._running.pop(key, None) is not None:
            self._learn(told)

    def _learn(self, told: Told) -> None:
        """A trial that was stopped, or refused, counts as bad where nothing else is known of its config."""
        config = tuple(sorted(told.values.items()))
        if told.ending == "fail":
            return
        if told.objectives is None and any(item.config == config for item in self._history):
            return
        violation = sum(max(0.0, v) for v in told.constraints.values())
        self._history.append(_Item(config, told.values, told.objectives or (math.inf, math.inf), violation))
        if len(self._configs) < self._startup:
            self._configs.add(config)
        self._events += 1
        if len(self._history) > NEWEST + FRONT + SLACK:
            older = self._history[:-NEWEST]
            whole = [i for i, rank in enumerate(ranks(self._history)) if rank == 0 and i < len(older)]
            kept = [whole[i] for i in best([older[i] for i in whole], FRONT)]
            self._history = [older[i] for i in sorted(kept)] + self._history[-NEWEST:]


def ranks(items: Sequence[_Item]) -> list[int]:
    """Nondominated ranks; what violates a constraint comes behind all that does not, by its violation."""
    values = np.array([item.objectives for item in items], dtype=np.float64)
    feasible = np.array([item.violation <= 0 for item in items])
    result = np.empty(len(items), dtype=int)
    result[feasible] = nondominated_rank(values[feasible]) if feasible.any() else 0
    behind = int(result[feasible].max(initial=-1)) + 1
    over = np.array([item.violation for item in items])[~feasible]
    result[~feasible] = behind + np.unique(over, return_inverse=True)[1]
    return [int(rank) for rank in result]


def best(items: Sequence[_Item], count: int) -> list[int]:
    """The indices of the `count` best: by rank, and within the last rank those that hold the most hypervolume."""
    if count >= len(items):
        return list(range(len(items)))
    of_rank = np.array(ranks(items))
    chosen: list[int] = []
    for rank in np.unique(of_rank):
        level = np.flatnonzero(of_rank == rank)
        if len(chosen) + len(level) > count:
            values = np.array([items[int(i)].objectives for i in level])
            level = level[thin(values, count - len(chosen))]
        chosen += [int(i) for i in level]
        if len(chosen) == count:
            break
    return sorted(chosen)


def thin(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The `count` rows left of a front (2-D, minimised) after the one of the least hypervolume is taken away, again and
    again (the selection of SMS-EMOA, Beume et al. 2007). Of equal rows all but one go first."""
    order = np.lexsort((values[:, 1], values[:, 0]))
    front = values[order]
    finite = front[np.isfinite(front).all(axis=1)]
    lowest, highest = (finite.min(axis=0), finite.max(axis=0)) if len(finite) else np.zeros((2, 2))
    reference = highest + 0.1 * (highest - lowest) + 1e-12
    left = list(range(len(front)))
    while len(left) > count:
        x, y = front[left, 0], front[left, 1]
        with np.errstate(invalid="ignore"):  # rows without objectives are infinite
            share = (np.append(x[1:], reference[0]) - x) * (np.append(reference[1], y[:-1]) - y)
        left.pop(int(np.argmin(np.where(np.isfinite(share), share, -1.0))))
    return order[left]
