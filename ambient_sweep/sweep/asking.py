"""Who proposes configs: one interface over draws, grids, the own TPE and every Optuna sampler.

An asker is told what became of its proposals under the caller's keys. Nothing of it is kept on disk: a new one is told
the study's trials again. It touches no file and no clock.
"""

import contextlib
import itertools
import math
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep import conditions
from ambient_sweep.sweep.definition import Search
from ambient_sweep.sweep.distributions import Distribution
from ambient_sweep.sweep.journal import constraint_attrs
from ambient_sweep.sweep.study import LENGTH, LENGTH_DISTRIBUTION, OBJECTIVES, build_sampler, optuna_distribution

DRAWN = ("random", "sobol", "qmc", "grid")  # samplers that learn nothing
# What a sampler raises itself: of objectives or spaces that are not for it, and of arguments that it looks at late.
SAMPLER_ERRORS = (
    ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError, ImportError,
)  # fmt: skip
Space = Mapping[str, Distribution]
Ending = Literal["running", "complete", "pruned", "fail", "observation"]


@dataclass(frozen=True)
class Asked:
    """A proposal: values of the active keys, what the sampler wants kept beside them, and where else it comes from."""

    values: dict[str, Any]
    system: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Told:
    """What is known of a config: how its trial stands, or an observation of it at a length.

    `constraints` are violations: above 0 where a bound is exceeded.
    """

    values: dict[str, Any]
    ending: Ending
    length: float = 1.0
    objectives: tuple[float, float] | None = None
    constraints: dict[str, float] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)


class Asker(Protocol):
    """Proposes configs, and learns from what they came to."""

    def ask(self, key: str) -> Asked | None:
        """The next proposal, to be told about under `key`. None: there are no more."""

    def add(self, key: str, told: Told) -> None:
        """A trial that was not proposed here (one of an earlier session, a given point), or an observation."""

    def end(self, key: str, told: Told) -> None:
        """What became of a proposal. Endings but "complete" say: without objectives."""


def make_asker(space: Space, search: Search, seen: int = 0) -> Asker:
    """The asker of a search that has proposed `seen` configs in earlier sessions: its draws go on behind those."""
    from ambient_sweep.sweep.tpe import HistoryTpe

    check_sampler(search)
    seed = search.seed if seen == 0 else random.Random(f"{search.seed}/{seen}").getrandbits(31)
    match search.sampler:
        case "random" | "sobol" | "qmc" | "grid":
            draws = {"random": random_draws, "grid": grid_draws}.get(search.sampler, sobol_draws)
            return DrawAsker(draws(space, search.seed, seen))
        case "tpe" if not set(search.sampler_args) - {"n_ei_candidates"}:
            return HistoryTpe(space, search, seed, seen)
        case name:
            sampler = build_sampler(name, search.sampler_args, seed, search.startup_trials)
            return StudyAsker(space, sampler, f"search.sampler={name}")


def check_sampler(search: Search) -> None:
    """Raises UserError for a sampler that is not there, and for arguments that it does not take."""
    if search.sampler not in DRAWN:
        build_sampler(search.sampler, search.sampler_args, search.seed, search.startup_trials)
    elif search.sampler_args:
        key = next(iter(search.sampler_args))
        raise UserError(f"search.sampler_args: {search.sampler} takes no {key!r}; it has none")
    count = search.sampler_args.get("n_ei_candidates", 1) if search.sampler == "tpe" else 1
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"search.sampler_args.n_ei_candidates: expected a whole number of at least 1, not {count!r}")


# -- draws that learn nothing ---------------------------------------------------------------------------------------


def draw(space: Space, rng: random.Random) -> dict[str, Any]:
    """A config drawn from the space; keys that are not active are left out."""
    return conditions.active(space, {key: distribution.at(rng.random()) for key, distribution in space.items()})


def random_draws(space: Space, seed: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Independent draws; each depends on the seed and its number only."""
    return (draw(space, random.Random(f"{seed}/draw/{number}")) for number in itertools.count(start))


def sobol_draws(space: Space, seed: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """The scrambled Sobol sequence (Owen 1998, by SciPy), which covers the space more evenly than chance.

    Keys that are not active have a coordinate too, so that those that are stay evenly covered.
    """
    from scipy.stats import qmc

    engine = qmc.Sobol(len(space), scramble=True, rng=seed)
    if start:
        engine.fast_forward(start)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a balance that only whole powers of two have
            (point,) = engine.random(1)
        shares = {key: float(share) for key, share in zip(space, point, strict=True)}
        values = {key: space[key].at(min(share, math.nextafter(1, 0))) for key, share in shares.items()}
        yield conditions.active(space, values)


def grid_draws(space: Space, seed: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Every config of a finite space, in order from the first; the seed plays no part."""
    return conditions.configs(space)


class DrawAsker:
    """Proposals from a sequence that is fixed beforehand."""

    def __init__(self, draws: Iterator[dict[str, Any]]) -> None:
        self._draws = draws

    def ask(self, key: str) -> Asked | None:
        values = next(self._draws, None)
        return None if values is None else Asked(values)

    def add(self, key: str, told: Told) -> None:
        """Nothing to learn."""

    def end(self, key: str, told: Told) -> None:
        """Nothing to learn."""


# -- Optuna's samplers ----------------------------------------------------------------------------------------------


class StudyAsker:
    """Any sampler of Optuna, over a study in memory that holds every observation.

    Raises AmbientSweepError, one line that begins with `where`, for whatever the sampler raises.
    """

    def __init__(self, space: Space, sampler: BaseSampler, where: str) -> None:
        self._space = space
        self._where = f"{where}: {type(sampler).__name__}"
        self._distributions = {key: optuna_distribution(d) for key, d in space.items()}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            directions = [StudyDirection.MINIMIZE] * len(OBJECTIVES)
            self._study = optuna.create_study(sampler=sampler, directions=directions)
        self._numbers: dict[str, int] = {}

    def ask(self, key: str) -> Asked:
        """Asks define-by-run, so that keys whose conditions are not met are not drawn."""
        with self._sampling():
            trial = self._study.ask()
            values: dict[str, Any] = {}
            for name, distribution in self._space.items():
                if conditions.is_active(distribution, values):
                    values[name] = distribution.snap(trial._suggest(name, self._distributions[name]))
        self._numbers[key] = trial.number
        system = self._study._storage.get_trial_system_attrs(trial._trial_id)
        return Asked(values, {name: value for name, value in system.items() if name != "fixed_params"})

    def add(self, key: str, told: Told) -> None:
        """Failed trials are left out: no sampler learns from them."""
        if told.ending == "running" and not told.system:
            self._study.enqueue_trial(told.values)  # the sampler may want to note something with it
            self.ask(key)
            return
        if told.ending == "fail":
            return
        state = TrialState.COMPLETE if told.ending == "observation" else TrialState[told.ending.upper()]
        frozen = create_trial(
            state=state,
            params={**told.values, LENGTH: told.length},
            distributions={name: self._distributions[name] for name in told.values} | {LENGTH: LENGTH_DISTRIBUTION},
            values=told.objectives if state == TrialState.COMPLETE else None,
            system_attrs=dict(told.system),  # Optuna notes the constraints in it
            constraints=told.constraints,
        )
        number = self._study._storage.create_new_trial(self._study._study_id, frozen)
        if told.ending == "running":
            self._numbers[key] = number

    def end(self, key: str, told: Told) -> None:
        number = self._numbers.pop(key, None)
        if number is None:
            return
        storage = self._study._storage
        storage.set_trial_param(number, LENGTH, told.length, LENGTH_DISTRIBUTION)
        for name, violation in constraint_attrs(told.constraints).items():
            storage.set_trial_system_attr(number, name, violation)
        state = TrialState.COMPLETE if told.ending == "observation" else TrialState[told.ending.upper()]
        with self._sampling():
            self._study.tell(number, told.objectives if state == TrialState.COMPLETE else None, state=state)

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of independent draws in conditional spaces, and of experimental samplers
            try:
                yield
            except SAMPLER_ERRORS as error:
                raise AmbientSweepError(
                    f"{self._where}: {' '.join(str(error).split()) or type(error).__name__}"
                ) from None


def violations(bounds: Mapping[Any, float], measured: Mapping[str, float]) -> dict[str, float]:
    """By how much each bound is exceeded, as a share of it: above 0 where it is."""
    return {
        name: measured[name] / bound - 1 if bound > 0 else measured[name]
        for name, bound in bounds.items()
        if name in measured and math.isfinite(measured[name])
    }
