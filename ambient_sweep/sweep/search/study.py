"""The Optuna study of a sweep: how its trials are recorded, by Optuna's public API alone.

A searched trial is one of Optuna's: RUNNING from its proposal on; COMPLETE if it ended at its full length with finite
objectives; PRUNED, without values, if it was stopped before; FAIL if it failed or was refused before training. Every full
evaluation before the full length is a COMPLETE trial of its own, with the config's parameters and the attributes
`observation_of` and `length`. Fixed trials stay outside. (Ray's OptunaSearch takes a stopped trial's last values, and
infinities, for results.)

A trial that continues in a later session stays RUNNING under its number. Only the process that asked Optuna for a trial can
add to it, so such a trial ends as FAIL, and its result is added under a new number.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.folder import AGAIN
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.tpe import GroupedTPESampler, estimator
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.space.distributions import Distribution
from ambient_sweep.trial.records import is_trial_id

TRIAL_ID, OBSERVATION_OF, LENGTH, IMAGES, WHY, POINT = (
    "trial_id", "observation_of", "length", "images", "why", "point",
)  # fmt: skip
TRIED = "tried before"  # why a proposal was refused: another has its values
FIXED = "fixed trials"  # attribute of the study: their ids, in their order
SECONDS = "seconds"  # attribute of the study: how long its sessions searched
# What samplers raise themselves: for objectives or spaces that are not theirs, and arguments that they look at late.
SAMPLER_ERRORS = (
    ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError, ImportError,
)  # fmt: skip
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
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
            study = optuna.create_study(
                storage=storage, study_name=name, sampler=sampler, directions=directions, load_if_exists=True
            )
            if study.directions != directions:  # by which samplers are refused that keep pickles in it
                raise ValueError("of other objectives")
            if not study.metric_names:  # which optuna-dashboard shows
                study.set_metric_names(["fidelity", "memorization"])
            return study
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); restore it, or {AGAIN}") from None
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: damaged ({why}); restore it, or {AGAIN}") from None


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
    """The searched trials of a sweep in its study. `written` is called before a trial starts, and after each result.

    Raises UserError for a study that names trials by what is no id.
    """

    def __init__(self, study: optuna.Study, space: Space, written: Callable[[], None] = lambda: None) -> None:
        self.study, self._space, self._written = study, space, written
        self._distributions = {key: optuna_distribution(d) for key, d in space.items()}
        self._open: dict[int | None, optuna.Trial] = {}  # proposed in this session, and not ended
        attributes = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
        fixed = study.user_attrs.get(FIXED, [])
        names = [each[key] for each in attributes for key in (TRIAL_ID, OBSERVATION_OF) if key in each]
        for name in (*names, *(fixed if isinstance(fixed, list) else [fixed])):
            if not is_trial_id(name):
                raise UserError(f"study.journal: damaged, names a trial {name!r:.80}; restore it, or {AGAIN}")
        refused = sum(WHY in each and TRIAL_ID not in each for each in attributes)
        self._asked = refused + len({each[TRIAL_ID] for each in attributes if TRIAL_ID in each})

    # -- proposals ----------------------------------------------------------------------------------------------------

    def propose(self, values: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> SweepTrial:
        """A given proposal; the sampler draws keys that are left out."""
        self.study.enqueue_trial(dict(values), user_attrs=dict(attributes or {}))
        return self.ask()

    def ask(self) -> SweepTrial:
        """The sampler's next proposal. Keys whose conditions are not met are not drawn.

        Raises AmbientSweepError, one line, for what the sampler raises.
        """
        if isinstance(self.study.sampler, GroupedTPESampler):
            self.study.sampler.position = self._asked  # the same, however observations came between, and after a resume
        self._asked += 1
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

    def draw_evenly(self, key: str, share: float) -> Any:
        """The value of a key at `share` in [0, 1) of its distribution."""
        return self._space[key].snap(estimator(self._distributions[key]).draw_evenly(share))

    def begin(self, trial: SweepTrial, trial_id: str) -> SweepTrial:
        """A proposal is trained as `trial_id`."""
        self._open[trial.number].set_user_attr(TRIAL_ID, trial_id)
        self._written()
        return replace(trial, trial_id=trial_id)

    def note_fixed(self, ids: Sequence[str]) -> None:
        """So many of the fixed trials have begun, under these ids."""
        self.study.set_user_attr(FIXED, list(ids))
        self._written()

    # -- results ------------------------------------------------------------------------------------------------------

    def observe(self, trial: SweepTrial, report: Report, constraints: Mapping[str, float]) -> None:
        """Records a full evaluation of a trial before its full length."""
        result = self._result(trial, TrialState.COMPLETE, {OBSERVATION_OF: trial.trial_id}, constraints, report)
        self.study.add_trial(result)
        self._written()

    def complete(self, trial: SweepTrial, report: Report, constraints: Mapping[str, float]) -> None:
        """Ends a trial at its full length, where it reported `report`."""
        self._end(trial, self._result(trial, TrialState.COMPLETE, {}, constraints, report))

    def prune(self, trial: SweepTrial) -> None:
        """Ends a trial that was stopped before its full length."""
        self._end(trial, self._result(trial, TrialState.PRUNED, {}, {}))

    def fail(self, trial: SweepTrial, why: str, constraints: Mapping[str, float] | None = None) -> None:
        """Ends a trial that failed, or a proposal that is not trained.

        One that exceeds a bound is PRUNED, so that the sampler learns where not to look.
        """
        state = TrialState.PRUNED if constraints else TrialState.FAIL
        self._end(trial, self._result(trial, state, {WHY: why}, constraints or {}))

    def drop(self, number: int) -> None:
        """Ends a trial under this number, unless it has ended, without a reason: its config may be proposed again."""
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _result(
        self,
        trial: SweepTrial,
        state: TrialState,
        attributes: dict[str, Any],
        constraints: Mapping[str, float],
        report: Report | None = None,
    ) -> FrozenTrial:
        """A trial as it ended, in Optuna's terms, with the values of `report`."""
        return create_trial(
            state=state,
            values=None if report is None else report.objectives,
            params=trial.values,
            distributions={key: self._distributions[key] for key in trial.values},
            user_attrs=attributes | ({} if report is None else {LENGTH: report.fraction, IMAGES: report.images}),
            constraints=dict(constraints),
        )

    def _end(self, trial: SweepTrial, result: FrozenTrial) -> None:
        self._tell(trial, result)
        self._written()

    def _tell(self, trial: SweepTrial, result: FrozenTrial) -> None:
        assert trial.number is not None
        handle = self._open.pop(trial.number, None)
        if handle is None:  # of an earlier session
            self.drop(trial.number)
            result.set_user_attr(TRIAL_ID, trial.trial_id)
            self.study.add_trial(result)
            return
        for name, value in result.user_attrs.items():
            handle.set_user_attr(name, value)
        for name, violation in result.constraints.items():
            handle.set_constraint(name, violation)
        with self._sampling():
            self.study.tell(handle, result.values, state=result.state)

    # -- an earlier session -------------------------------------------------------------------------------------------

    def earlier(self) -> "Earlier":
        """What the study holds of earlier sessions. Ends the proposals that they did not train, to be made again."""
        for _ in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            with self._sampling():  # the driver died between enqueueing and asking
                self.study.ask()
        found = Earlier()
        for trial in self.study.get_trials(deepcopy=False):
            values = {key: d.snap(trial.params[key]) for key, d in self._space.items() if key in trial.params}
            attributes = trial.user_attrs
            if (trial_id := attributes.get(TRIAL_ID)) is not None:
                ours = SweepTrial("search", values, trial_id=trial_id, number=trial.number)
                found.trials[trial_id] = ours, trial.state
            elif OBSERVATION_OF in attributes:
                found.lengths.setdefault(attributes[OBSERVATION_OF], set()).add(attributes[LENGTH])
            elif trial.state == TrialState.RUNNING:
                self.drop(trial.number)
                if POINT not in attributes and values == conditions.active(self._space, values) and values:
                    found.held.append(values)
            elif attributes.get(WHY, TRIED) != TRIED:  # the other may itself have been left untrained
                found.refused.append(values)
            if POINT in attributes and (TRIAL_ID in attributes or WHY in attributes):
                found.points.add(attributes[POINT])
        return found

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
                raise AmbientSweepError(f"search.sampler: {type(self.study.sampler).__name__}: {text}") from None


@dataclass
class Earlier:
    """Trials of earlier sessions."""

    trials: dict[str, tuple[SweepTrial, TrialState]] = field(default_factory=dict)  # by id, the newest of each
    lengths: dict[str, set[float]] = field(default_factory=dict)  # at which they were observed, by id
    refused: list[dict[str, Any]] = field(default_factory=list)  # values that were not trained
    held: list[dict[str, Any]] = field(default_factory=list)  # values that were to be trained
    points: set[int] = field(default_factory=set)  # indices of those that were tried


def violations(bounds: Mapping[Any, float], report: Report) -> dict[str, float]:
    """By how much a report exceeds each bound, as a share of the bound: above 0 where it does."""
    measured = {name: getattr(report, name) for name in bounds}
    return {
        str(name): measured[name] / bound - 1 if bound > 0 else measured[name]
        for name, bound in bounds.items()
        if measured[name] is not None and math.isfinite(measured[name])
    }
