"""The default sampler: a multi-objective TPE for observations of checkpoints, as a sampler of Optuna.

Tree-structured Parzen estimators (Bergstra et al. 2011; kernels and prior as in Watanabe 2023, arXiv 2304.11127) that tell
good observations from bad by nondominated rank, and within the last rank by hypervolume (Ozaki et al. 2022, doi
10.1613/jair.1.13188). It differs from Optuna's TPESampler in four ways:

- Several trials with the same parameters, a config's checkpoints, count once: as good where one of them is, since every
  model passes through worse ones on its way. A pruned trial without values counts as bad where nothing else is known.
- A share of the proposals is drawn at random, as in SMAC.
- The history is bounded: the newest trials, and of the older ones those that no other dominates.
- The estimators are fitted again only after the history has grown by a few percent, so that thousands of trials stay cheap.

Draws depend on the seed and the trial's number alone, or on `position` where that is set, so a study that goes on in
another process repeats none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr, ndtri

from ambient_sweep import rng
from ambient_sweep.pareto import contributions, nondominated_rank

GOOD_SHARE, GOOD_MOST = 0.1, 25  # of the history
NEWEST, FRONT = 256, 128  # trials of the history: the newest, and older ones that none dominates
RENEWAL = 16  # the estimators are fitted again once one in so many trials of the history is new
NARROWEST = 0.01  # width of a kernel, as a share of the range
STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
Floats = NDArray[np.float64]
Values = Sequence[Any]  # of one parameter


class GroupedTPESampler(BaseSampler):
    """See the module's text. For one or two objectives; raises ValueError for more."""

    def __init__(
        self, *, seed: int = 0, n_startup_trials: int = 10, n_ei_candidates: int = 24, random_share: float = 0.5
    ) -> None:
        if any(type(n) is not int or n < 1 for n in (n_startup_trials, n_ei_candidates)) or type(seed) is not int:
            raise ValueError("seed, n_startup_trials and n_ei_candidates must be whole numbers, the last two positive")
        if type(random_share) not in (int, float) or not 0 <= random_share <= 1:
            raise ValueError(f"random_share must be a number from 0 to 1, not {random_share!r}")
        self._seed, self._startup, self._candidates, self._share = seed, n_startup_trials, n_ei_candidates, random_share
        self._fit = _Fit("", 0, 0)
        self.position: int | None = None  # of the next draws, in place of the trial's number

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: parameters are drawn one after the other, so that conditional ones are drawn where they are asked for."""
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Nothing; see `infer_relative_search_space`."""
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Fits the estimators again if the study has grown enough."""
        if len(study.directions) > 2:
            raise ValueError(f"{type(self).__name__} takes one or two objectives, not {len(study.directions)}")
        trials = [t for t in study.get_trials(deepcopy=False, states=STATES) if t.number != trial.number]
        new = abs(len(trials) - self._fit.trials)
        if self._fit.study != study.study_name or new * RENEWAL >= max(1, self._fit.history):
            self._fit = self._fitted(study, trials)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter: of a few draws from the good density, the one with the largest ratio of good over bad."""
        number = trial.number if self.position is None else self.position
        shares = rng.uniform(f"search/{param_name}", self._seed, number * self._candidates, self._candidates, 2)
        fit = self._fit  # another thread may replace it
        if not fit.good or rng.uniform("search", self._seed, number, 1)[0, 0] < self._share:
            return estimator(param_distribution).draw_evenly(float(shares[0, 0]))
        key = f"{param_name}: {param_distribution}"
        if key not in fit.estimators:
            good, bad = ([v[param_name] for v in side if param_name in v] for side in (fit.good, fit.bad))
            fit.estimators[key] = estimator(param_distribution, good, bad)
        return fit.estimators[key].draw(shares)

    def _fitted(self, study: Study, trials: Sequence[FrozenTrial]) -> "_Fit":
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
        items = [_Item.of(t, signs) for t in trials if t.state != TrialState.RUNNING]
        known = {item.config for item in items if item.complete}
        history = [item for item in items if item.complete or item.config not in known]
        if len(history) > NEWEST:
            front = [item for item, rank in zip(history[:-NEWEST], ranks(history), strict=False) if rank == 0]
            history = [front[i] for i in best(front, FRONT)] + history[-NEWEST:]
        good_size = min(math.ceil(GOOD_SHARE * len(history)), GOOD_MOST)
        chosen = best(history, good_size) if len(known) >= self._startup else []
        good = {history[i].config: history[i].values for i in chosen}
        bad = {item.config: item.values for item in history if item.config not in good}
        running = [t.params for t in trials if t.state == TrialState.RUNNING][-NEWEST:]
        return _Fit(study.study_name, len(trials), len(history), [*good.values()], [*bad.values(), *running])


@dataclass(frozen=True)
class _Fit:
    """What the estimators were fitted to; no good trials: draws are random."""

    study: str  # its name
    trials: int
    history: int  # trials that counted
    good: Sequence[dict[str, Any]] = ()  # their parameters
    bad: Sequence[dict[str, Any]] = ()
    estimators: dict[str, "_Number | _Choice"] = field(default_factory=dict)


@dataclass(frozen=True)
class _Item:
    complete: bool
    config: tuple[tuple[str, float], ...]  # equal where the values are
    values: dict[str, Any]
    objectives: tuple[float, float]  # minimised; infinite for a trial without values
    violation: float  # of constraints, summed; 0: feasible

    @classmethod
    def of(cls, trial: FrozenTrial, signs: Sequence[float]) -> "_Item":
        objectives = [sign * value for sign, value in zip(signs, trial.values or (), strict=False)] or [math.inf]
        violation = sum(max(0.0, value) for value in trial.constraints.values())
        config = sorted((name, trial.distributions[name].to_internal_repr(v)) for name, v in trial.params.items())
        both = objectives[0], objectives[-1]
        return cls(trial.state == TrialState.COMPLETE, tuple(config), trial.params, both, violation)


def ranks(items: Sequence[_Item]) -> list[int]:
    """Nondominated ranks; trials that violate a constraint come behind all others, by how much they do."""
    values = np.array([item.objectives for item in items], dtype=np.float64).reshape(-1, 2)
    violation = np.array([item.violation for item in items])
    feasible = violation <= 0
    result = np.zeros(len(items), dtype=int)
    if feasible.any():
        result[feasible] = nondominated_rank(values[feasible])
    behind = int(result[feasible].max(initial=-1)) + 1
    result[~feasible] = behind + np.unique(violation[~feasible], return_inverse=True)[1]
    return [int(rank) for rank in result]


def best(items: Sequence[_Item], count: int) -> list[int]:
    """The indices of the `count` best items: by rank, and within the last rank those that hold the most hypervolume."""
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


def thin(values: Floats, count: int) -> NDArray[np.intp]:
    """The `count` rows left of a front [N, 2], minimised, after the row of the least exclusive hypervolume has been
    removed again and again (the selection of SMS-EMOA, Beume et al. 2007). Of equal rows, all but one go first."""
    order = np.lexsort((values[:, 1], values[:, 0]))
    front = values[order]
    if not np.isfinite(front).all():  # the one rank of trials without objectives
        return order[len(order) - count :]
    reference = front.max(axis=0) + 0.1 * np.ptp(front, axis=0) + 1e-12
    left = list(range(len(front)))
    while len(left) > count:
        left.pop(int(np.argmin(contributions(front[left], reference))))
    return order[left]


class _Number:
    """The Parzen estimators of a number, on the scale from 0 to 1 on which it is drawn evenly."""

    def __init__(self, distribution: FloatDistribution | IntDistribution, good: Values, bad: Values) -> None:
        half = (distribution.step or 0.0) / 2  # each value of a ladder stands for the interval around it
        self._distribution = distribution
        self._log = math.log if distribution.log else float
        self._low, self._high = self._log(distribution.low - half), self._log(distribution.high + half)
        span = self._high - self._low
        centres = [np.clip([(self._log(v) - self._low) / span for v in side], 0, 1) for side in (good, bad)]
        self._good, self._bad = _Mixture(centres[0]), _Mixture(centres[1])

    def draw(self, shares: Floats) -> Any:
        """Of values drawn from the good density with uniform numbers [N, 2], that with the largest ratio of good to bad."""
        points = self._good.draw(shares)
        ratio = self._good.density(points) / self._bad.density(points)
        return self.draw_evenly(float(points[np.argmax(ratio)]))

    def draw_evenly(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the distribution: its inverse cumulative distribution."""
        d = self._distribution
        point = self._low + share * (self._high - self._low)
        value = math.exp(point) if d.log else point
        if d.step is not None:
            value = d.low + round((value - d.low) / d.step) * d.step
        return min(d.high, max(d.low, value))


class _Choice:
    """The same of a categorical parameter: how often each choice occurs, with one occurrence more spread over all."""

    def __init__(self, distribution: CategoricalDistribution, good: Values, bad: Values) -> None:
        self._distribution = distribution
        self._good, self._bad = self._frequencies(good), self._frequencies(bad)

    def _frequencies(self, values: Values) -> Floats:
        counts = np.full(len(self._distribution.choices), 1 / len(self._distribution.choices))
        for value in values:
            counts[int(self._distribution.to_internal_repr(value))] += 1
        return np.asarray(counts / counts.sum(), dtype=np.float64)

    def draw(self, shares: Floats) -> Any:
        which = np.searchsorted(np.cumsum(self._good), shares[:, 0], side="right")
        indices = np.minimum(which, len(self._good) - 1)
        return self._distribution.choices[int(indices[np.argmax(self._good[indices] / self._bad[indices])])]

    def draw_evenly(self, share: float) -> Any:
        return self._distribution.choices[int(share * len(self._distribution.choices))]


def estimator(distribution: BaseDistribution, good: Values = (), bad: Values = ()) -> _Number | _Choice:
    """The estimators of a parameter, fitted to its values in good and in bad trials."""
    if isinstance(distribution, CategoricalDistribution):
        return _Choice(distribution, good, bad)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return _Number(distribution, good, bad)


class _Mixture:
    """Equal shares of normal kernels in [0, 1]."""

    def __init__(self, centres: Sequence[float] | Floats) -> None:
        width = max(NARROWEST, 0.2 * max(len(centres), 1) ** -0.2)  # Scott's rule in one dimension
        self._centres = np.array([*centres, 0.5])
        self._widths = np.array([*[width] * len(centres), 1.0])
        self._below = ndtr(-self._centres / self._widths)
        self._inside = ndtr((1 - self._centres) / self._widths) - self._below

    def draw(self, shares: Floats) -> Floats:
        """A point for each row of uniform numbers [N, 2]: the first chooses the kernel, the second the point in it."""
        which = (shares[:, 0] * len(self._centres)).astype(np.int64)
        within = self._below[which] + shares[:, 1] * self._inside[which]
        return np.asarray(np.clip(self._centres[which] + self._widths[which] * ndtri(within), 0.0, 1.0))

    def density(self, points: Floats) -> Floats:
        scaled = (points[:, None] - self._centres) / self._widths
        kernels = np.exp(-0.5 * scaled * scaled) / (self._widths * self._inside * math.sqrt(2 * math.pi))
        return np.asarray(kernels.mean(axis=1))
