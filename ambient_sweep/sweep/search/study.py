"""The Optuna study of a sweep: how its trials are recorded, by Optuna's public API alone.

A searched trial is one of Optuna's: RUNNING from its proposal on; COMPLETE if it ended at its full length with finite
objectives; PRUNED, without values, if it was stopped before; FAIL if it failed or was refused before training. Every full
evaluation before the full length is a COMPLETE trial of its own, with the config's parameters and the attributes
`observation_of` and `length`. Fixed trials stay outside. (Ray's OptunaSearch takes a stopped trial's last values, and
infinities, for results.)

A trial that goes on in a later session is proposed again under a new number, the old one failing: only who asked for a
trial of Optuna's can add to it.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.tpe import GroupedTPESampler
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.space.distributions import Distribution

TRIAL_ID, OBSERVATION_OF, LENGTH, IMAGES, WHY, POINT = (
    "trial_id", "observation_of", "length", "images", "why", "point",
)  # fmt: skip
GIVEN = "given"  # values that a proposal was made with; the trial itself holds them one by one, as they are drawn
TRIED = "tried before"  # why a proposal was refused: another has its values
FIXED = "fixed trials"  # attribute of the study: their ids, in their order
# What samplers raise themselves: for objectives or spaces that are not theirs, and arguments that they look at late.
SAMPLER_ERRORS = (
    ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError, ImportError,
)  # fmt: skip
Objectives = tuple[float, float]
Space = Mapping[str, Distribution]


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """The distribution in Optuna's terms."""
    if distribution.kind == "choice":
        return CategoricalDistribution(distribution.values)
    low, high = distribution.values
    if distribution.kind in ("int", "logint"):
        return IntDistribution(low, high, log=distribution.kind == "logint", step=int(distribution.step or 1))
    return FloatDistribution(low, high, log=distribution.kind == "loguniform", step=distribution.step)


def open_study(name: str, sampler: BaseSampler, path: Path | None = None) -> optuna.Study:
    """The study `name` in Optuna's journal at `path`, made if missing; in memory without a path.

    Raises UserError for a damaged file.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [StudyDirection.MINIMIZE] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if path is None:
            return optuna.create_study(study_name=name, sampler=sampler, directions=directions)
        try:
            _cut_torn_line(path)
            storage = JournalStorage(JournalFileBackend(str(path)))
            return optuna.create_study(
                storage=storage, study_name=name, sampler=sampler, directions=directions, load_if_exists=True
            )
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: damaged ({why}); restore it, or start again under another name") from None


def _cut_torn_line(path: Path) -> None:
    """Removes a last line without its end, left by a process that died while writing: the next one would join it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


class StudyRecord:
    """The searched trials of a sweep in its study. `where` opens the message of what a sampler raises."""

    def __init__(self, study: optuna.Study, space: Space, where: str = "search.sampler") -> None:
        self.study, self._space, self._where = study, space, where
        self._distributions = {key: optuna_distribution(d) for key, d in space.items()}
        self._open: dict[int, optuna.Trial] = {}  # proposed in this session, and not ended

    # -- proposals ----------------------------------------------------------------------------------------------------

    def propose(self, values: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> SweepTrial:
        """A given proposal; the sampler draws keys that are left out."""
        kept = {key: value for key, value in (attributes or {}).items() if key != WHY}
        self.study.enqueue_trial(dict(values), user_attrs=kept | {GIVEN: dict(values)})
        return self.ask()

    def ask(self) -> SweepTrial:
        """The sampler's next proposal. Keys whose conditions are not met are not drawn.

        Raises AmbientSweepError, one line, for what the sampler raises.
        """
        with self._sampling():
            trial = self.study.ask()
            values: dict[str, Any] = {}
            for key, distribution in self._space.items():
                if conditions.is_active(distribution, values):
                    values[key] = distribution.snap(self._suggest(trial, key))
        self._open[trial.number] = trial
        return SweepTrial("search", values, number=trial.number)

    def _suggest(self, trial: optuna.Trial, key: str) -> Any:
        d = self._distributions[key]
        if isinstance(d, CategoricalDistribution):
            return trial.suggest_categorical(key, d.choices)
        if isinstance(d, IntDistribution):
            return trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
        assert isinstance(d, FloatDistribution)
        return trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)

    def begin(self, trial: SweepTrial, trial_id: str) -> SweepTrial:
        """A proposal is trained as `trial_id`."""
        self._handle(trial).set_user_attr(TRIAL_ID, trial_id)
        return replace(trial, trial_id=trial_id)

    # -- results ------------------------------------------------------------------------------------------------------

    def observe(self, trial: SweepTrial, report: Report, constraints: Mapping[str, float]) -> None:
        """A full evaluation of a trial before its full length."""
        attributes = {OBSERVATION_OF: trial.trial_id, LENGTH: report.fraction, IMAGES: report.images}
        self._add(trial, report.objectives, constraints, attributes)

    def complete(self, trial: SweepTrial, report: Report, constraints: Mapping[str, float]) -> None:
        """A trial ended at its full length, where it reported `report`."""
        attributes = {LENGTH: report.fraction, IMAGES: report.images}
        if trial.number not in self._open:  # recorded otherwise in an earlier session
            self._add(trial, report.objectives, constraints, {TRIAL_ID: trial.trial_id} | attributes)
            return
        for name, value in attributes.items():
            self._handle(trial).set_user_attr(name, value)
        for name, violation in constraints.items():
            self._handle(trial).set_constraint(name, violation)
        self._tell(trial, TrialState.COMPLETE, report.objectives)

    def prune(self, trial: SweepTrial) -> None:
        """A trial was stopped before its full length."""
        self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: SweepTrial, why: str) -> None:
        """A trial failed."""
        self._handle(trial).set_user_attr(WHY, why)
        self._tell(trial, TrialState.FAIL)

    def refuse(self, trial: SweepTrial, why: str, constraints: Mapping[str, float] | None = None) -> None:
        """A proposal is not trained; one that exceeds a bound is PRUNED, so that the sampler learns where not to look."""
        handle = self._handle(trial)
        handle.set_user_attr(WHY, why)
        for name, violation in (constraints or {}).items():
            handle.set_constraint(name, violation)
        self._tell(trial, TrialState.PRUNED if constraints else TrialState.FAIL)

    def withdraw(self, trial: SweepTrial) -> None:
        """A proposal is not trained in this session, and may come again."""
        self._tell(trial, TrialState.FAIL)

    def _handle(self, trial: SweepTrial) -> optuna.Trial:
        assert trial.number is not None
        return self._open[trial.number]

    def _tell(self, trial: SweepTrial, state: TrialState, values: Objectives | None = None) -> None:
        handle = self._open.pop(trial.number) if trial.number in self._open else None
        if handle is not None:
            with self._sampling():
                self.study.tell(handle, values, state=state)

    def _add(
        self, trial: SweepTrial, values: Objectives, constraints: Mapping[str, float], attributes: dict[str, Any]
    ) -> None:
        self.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                values=list(values),
                params=trial.values,
                distributions={key: self._distributions[key] for key in trial.values},
                user_attrs=attributes,
                constraints=dict(constraints),
            )
        )

    # -- an earlier session -------------------------------------------------------------------------------------------

    def earlier(self) -> "Earlier":
        """What the study holds of earlier sessions."""
        for _ in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            with self._sampling():  # the driver died between enqueueing and asking
                self.study.ask()
        return Earlier(self.study.get_trials(deepcopy=False))

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """The values of a trial of an earlier session, which may have died while they were drawn."""
        known = trial.user_attrs.get(GIVEN, {}) | trial.params
        return {key: d.snap(known[key]) for key, d in self._space.items() if key in known}

    def propose_again(self, trial: FrozenTrial) -> SweepTrial:
        """A trial of an earlier session, as one of this session."""
        if trial.state == TrialState.RUNNING:
            self.drop(trial.number)
        return self.propose(self.values(trial), trial.user_attrs)

    def drop(self, number: int, *, stopped: bool = False) -> None:
        """A trial that an earlier session left RUNNING is over under this number."""
        self.study.tell(number, state=TrialState.PRUNED if stopped else TrialState.FAIL)

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of independent draws in conditional spaces, and of experimental samplers
            try:
                yield
            except SAMPLER_ERRORS as error:
                if isinstance(self.study.sampler, GroupedTPESampler):  # its errors are defects of this package
                    raise
                text = " ".join(str(error).split()) or type(error).__name__
                raise AmbientSweepError(f"{self._where}: {type(self.study.sampler).__name__}: {text}") from None


class Earlier:
    """Trials of earlier sessions: by id, the newest of each; their observed lengths; proposals that nobody trained.

    A trial that failed for no reason is known under a newer number, or is to be proposed anew.
    """

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self.trials: dict[str, FrozenTrial] = {}
        self.lengths: dict[str, set[float]] = {}
        self.proposals: list[FrozenTrial] = []
        self.refused: list[FrozenTrial] = []
        self.points: set[int] = set()
        for trial in trials:
            attributes = trial.user_attrs
            if TRIAL_ID in attributes:
                self.trials[attributes[TRIAL_ID]] = trial
            elif OBSERVATION_OF in attributes:
                self.lengths.setdefault(attributes[OBSERVATION_OF], set()).add(attributes[LENGTH])
            elif trial.state == TrialState.RUNNING:
                self.proposals.append(trial)
            elif WHY in attributes:
                if attributes[WHY] != TRIED:  # the other may itself have been left untrained
                    self.refused.append(trial)
            else:
                continue
            if POINT in attributes:
                self.points.add(attributes[POINT])


def violations(bounds: Mapping[Any, float], report: Report) -> dict[str, float]:
    """By how much a report exceeds each bound, as a share of the bound: above 0 where it does."""
    measured = {name: getattr(report, name) for name in bounds}
    return {
        str(name): measured[name] / bound - 1 if bound > 0 else measured[name]
        for name, bound in bounds.items()
        if measured[name] is not None and math.isfinite(measured[name])
    }
