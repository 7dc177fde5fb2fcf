"""What the study is told: every searched trial that runs, in the study file and to the sampler alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ambient_sweep.sweep.asking import Ending, Told, violations
from ambient_sweep.sweep.candidates import Candidate, Source
from ambient_sweep.sweep.journal import StudyJournal, constraint_attrs
from ambient_sweep.sweep.space import Sweep
from ambient_sweep.sweep.study import LENGTH, OBJECTIVES, optuna_space

TRIAL_ID = "trial_id"  # user attributes of Optuna's trials
REPLICATE_OF = "replicate_of"
OBSERVATION_OF = "observation_of"  # an evaluation of that trial, before its full length
IMAGES = "images"
SEED = "seed"  # of a replicate
WHY = "why"

MEASURED = (*OBJECTIVES, "device_seconds", "memory_gib", "parameters")  # what constraints may bound, in a report
Objectives = tuple[float, float]


@dataclass
class Live:
    """A searched trial, or a replicate of one, that was handed out and has not ended."""

    number: int  # in the study file
    key: str  # the source's; "": it knows nothing of it
    values: dict[str, Any]  # of the searched keys
    length: float  # at which it ends
    system: dict[str, Any] = field(default_factory=dict)
    replicate_of: str | None = None
    seed: int | None = None  # a replicate's
    again: bool = False  # it failed in an earlier session: a trial that is told stays told
    lengths: set[float] = field(default_factory=set)  # of its observations
    full: Objectives | None = None  # at full length, once reported
    constraints: dict[str, float] = field(default_factory=dict)  # of its last evaluation

    @property
    def overlay(self) -> dict[str, Any]:
        """What the trial overlays the base with."""
        return self.values if self.seed is None else {**self.values, "seed": self.seed}


class Ledger:
    """Trials by their ids, while they run. What happens before there is a source is told to it when it comes."""

    def __init__(self, sweep: Sweep, journal: StudyJournal) -> None:
        self._sweep, self._journal = sweep, journal
        self._distributions = optuna_space(sweep.space)
        self._source: Source | None = None
        self._past: list[tuple[str, Told]] = []
        self.live: dict[str, Live] = {}

    def length(self, values: Mapping[str, Any]) -> float:
        """The fraction of the run at which a trial of these values ends."""
        return self._sweep.stop(values)

    def attach(self, source: Source) -> None:
        """Tells a new source of all that was before, and from now on of what happens."""
        for key, told in self._past:
            source.add(key, told)
        for live in self.live.values():
            if live.key:
                source.add(live.key, self._told(live, "running", None))
        self._past, self._source = [], source

    # -- trials -------------------------------------------------------------------------------------------------------

    def begin(self, trial_id: str, candidate: Candidate, attrs: Mapping[str, Any]) -> Live:
        """A candidate is trained."""
        live = Live(0, candidate.key, candidate.values, self.length(candidate.values), candidate.system)
        self._write(live, {TRIAL_ID: trial_id, **attrs})
        self.live[trial_id] = live
        return live

    def repeat(self, trial_id: str, original: str, values: dict[str, Any], seed: int) -> Live:
        """A config is trained again with another seed."""
        live = Live(0, "", values, self.length(values), replicate_of=original, seed=seed)
        self._write(live, {TRIAL_ID: trial_id, REPLICATE_OF: original, SEED: seed})
        self.live[trial_id] = live
        return live

    def refuse(self, candidate: Candidate, over: Mapping[str, float], why: str) -> None:
        """A candidate is not to be trained: bounds that it exceeds, or none where its settings contradict each other."""
        params = {**candidate.values, LENGTH: self.length(candidate.values)}
        system = candidate.system | constraint_attrs(over)
        self._journal.add(params, self._distributions, TrialState.FAIL, attrs={WHY: why}, system=system)

    def observe(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A trial was evaluated; at its full length this is told when it ends. Each length counts once."""
        live, found = self.live[trial_id], objectives(result)
        if found is None:
            return
        length = float(result["fraction"])
        live.constraints = self._violations(result)
        if length >= live.length - 1e-9:
            live.full = found
        elif (
            self._sweep.search.observations == "checkpoints"
            and result.get("full_samples", True)
            and length not in live.lengths
        ):
            live.lengths.add(length)
            self._journal.add(
                {**live.values, LENGTH: length},
                self._distributions,
                TrialState.COMPLETE,
                values=found,
                attrs={OBSERVATION_OF: trial_id, IMAGES: int(result["images"])},
                system=live.system | constraint_attrs(live.constraints),
            )
            self._add(Told(live.values, "observation", length, found, live.constraints, live.system))

    def complete(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A trial ended on its own at its full length."""
        self.live[trial_id].constraints |= self._violations(result)
        given = tuple(result.get(name) for name in OBJECTIVES)
        self.end(trial_id, objectives(result), why=f"objectives missing or not finite: {given}")

    def end(self, trial_id: str, values: Objectives | None, *, stopped: bool = False, why: str = "") -> None:
        """How a trial ended: with `values` at its full length; stopped before; or failed, where neither."""
        live = self.live.pop(trial_id)
        if values is not None and not all(math.isfinite(value) for value in values):
            values, why = None, why or f"objectives not finite: {values}"
        ending = TrialState.PRUNED if stopped else TrialState.FAIL if values is None else TrialState.COMPLETE
        if ending != TrialState.COMPLETE:
            values, live.constraints = None, {}
        if live.again:
            if values is None:
                return
            self._write(live, {TRIAL_ID: trial_id} | _repeated(live))
        for name, violation in constraint_attrs(live.constraints).items():
            self._journal.set_system_attr(live.number, name, violation)
        if ending == TrialState.FAIL:
            self._journal.set_attr(live.number, WHY, why or "it did not come to its end")
        self._journal.end(live.number, ending, values)
        if not live.key:
            if values is not None:
                self._add(self._told(live, "observation", values))
        elif self._source is None:
            self._past.append(("", self._told(live, _ENDINGS[ending], values)))
        else:
            self._source.end(live.key, self._told(live, _ENDINGS[ending], values))

    def _write(self, live: Live, attrs: Mapping[str, Any]) -> None:
        params = {**live.values, LENGTH: live.length}
        live.number = self._journal.add(params, self._distributions, attrs=attrs, system=live.system)

    def _told(self, live: Live, ending: Ending, values: Objectives | None) -> Told:
        return Told(live.values, ending, live.length, values, live.constraints, live.system)

    def _add(self, told: Told) -> None:
        if self._source is None:
            self._past.append(("", told))
        else:
            self._source.add("", told)

    def _violations(self, result: Mapping[str, Any]) -> dict[str, float]:
        measured = {name: float(result[name]) for name in MEASURED if result.get(name) is not None}
        return violations(self._sweep.search.constraints, measured)

    # -- an earlier session -------------------------------------------------------------------------------------------

    def recall(self, trial: FrozenTrial) -> None:
        """A trial of the study file that is no running one: an observation, a config that ended, or one refused."""
        attrs = trial.user_attrs
        if OBSERVATION_OF in attrs or REPLICATE_OF in attrs:
            ending: Ending = "observation" if trial.state == TrialState.COMPLETE else "fail"
        elif TRIAL_ID in attrs:
            ending = _ENDINGS[trial.state]
        else:
            ending = "pruned" if trial.constraints else "fail"  # refused: the sampler learns where not to look
        values = (trial.values[0], trial.values[1]) if trial.values is not None else None
        length = trial.params.get(LENGTH, 1.0)
        if ending != "fail":
            self._add(Told(searched(trial), ending, length, values, trial.constraints, _system(trial)))

    def take_up(self, trial_id: str, trial: FrozenTrial, lengths: set[float]) -> Live:
        """A trial of the study file that goes on, or whose end is about to be told."""
        again, original = trial.state != TrialState.RUNNING, trial.user_attrs.get(REPLICATE_OF)
        values = searched(trial)
        live = self.live[trial_id] = Live(
            trial._trial_id,
            "" if original is not None else f"earlier-{trial_id}",
            values,
            self.length(values),
            _system(trial),
            original,
            trial.user_attrs.get(SEED),
            again,
            lengths,
        )
        return live


_ENDINGS: dict[TrialState, Ending] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "fail",
}


def searched(trial: FrozenTrial) -> dict[str, Any]:
    """The values of the searched keys in a trial of the study file."""
    return {key: value for key, value in trial.params.items() if key != LENGTH}


def objectives(result: Mapping[str, Any]) -> Objectives | None:
    """Both objectives of a report, where they are there and finite."""
    fidelity, memorization = (result.get(name) for name in OBJECTIVES)
    if fidelity is None or memorization is None or not (math.isfinite(fidelity) and math.isfinite(memorization)):
        return None
    return float(fidelity), float(memorization)


def _repeated(live: Live) -> dict[str, Any]:
    return {} if live.replicate_of is None else {REPLICATE_OF: live.replicate_of, SEED: live.seed}


def _system(trial: FrozenTrial) -> dict[str, Any]:
    own = constraint_attrs(trial.constraints)
    return {key: value for key, value in trial.system_attrs.items() if key not in own}
