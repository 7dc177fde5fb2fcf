"""What a rule that stops trials is, and MO-ASHA as one. No Ray: a simulator asks the same objects."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ambient_sweep.errors import UserError
from ambient_sweep.stages.prefix import phase_starts
from ambient_sweep.sweep.definition import Sweep
from ambient_sweep.sweep.rungs import Decision, Rungs, RungSettings

OBJECTIVES = ("fidelity", "memorization")


class StoppingRule(Protocol):
    """Decides, report by report, which trials go on. Trials are known by the searcher's ids."""

    def report(self, trial_id: str, values: Mapping[str, Any], result: Mapping[str, Any]) -> Decision:
        """A full evaluation of a trial: `values` of its suggestion, `result` as the trainable reports it."""

    def ended(self, trial_id: str) -> None:
        """The trial is over, or lost; one that is started again after its worker died may report again."""

    def promotable(self, *, final: bool = False) -> list[str]:
        """The paused trials that may go on, the first first. Asked very often: cheap while nothing was reported.

        With many trials it may lag behind the reports a little. `final`: no trial runs and no more will come.
        """

    def nearest(self, count: int) -> list[str]:
        """The `count` paused trials that are nearest to going on: for when no more will come, and budget is left."""

    def busy(self, trial_id: str) -> bool:
        """Whether another is training right now what a paused trial would train next."""

    def reached(self, trial_id: str) -> int | None:
        """The highest rung at which a trial was compared, from 0; None where it was not."""

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as JSON can hold it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up a state. Raises UserError for one of other settings."""


@dataclass(frozen=True)
class Stratum:
    """Trials are compared only with those of an equal value of `key`, or of the same bin of it.

    Bins are `width` wide; with `log`, from one power of `width` to the next. Raises UserError for a width that is none.
    """

    key: str
    width: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        least = 1.0 if self.log else 0.0
        if (self.log and self.width is None) or (self.width is not None and not least < self.width < math.inf):
            raise UserError(f"strata: the width of {self.key} must be a number above {least:g}, not {self.width!r}")

    def of(self, values: Mapping[str, Any]) -> Hashable:
        """The bin of a trial's values; None where the key is not among them, or is not positive and `log`."""
        value = values.get(self.key)
        if value is None or self.width is None:
            return tuple(value) if isinstance(value, list) else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"strata: {self.key} is {value!r}, not a number, so it has no bins; leave its width out")
        if self.log:
            return None if value <= 0 else math.floor(math.log(value) / math.log(self.width) + 1e-9)
        return math.floor(value / self.width + 1e-9)  # 0.3 is in bin 3 of width 0.1


class RungRule:
    """MO-ASHA over what trials report. See `sweep.rungs`.

    `strata`: what has to agree for two trials to be compared. `phase_start`: from a trial's values to the images at which
    its phase begins, for `relative_to: phase`. `bounds`: what is reported above its bound makes a trial infeasible; what
    is not known does not. `position`: from a fraction of a training to the images that it counts as, where trainings
    differ in images; those reported count by default, and `phase_start` is on the same scale. `stop`: from a trial's
    values to the fraction at which it ends. `busy`: whether what a trial would train next is being trained right now, by
    another that shares it; such a trial is not promoted yet.
    """

    def __init__(
        self,
        settings: RungSettings,
        *,
        objectives: Sequence[str] = OBJECTIVES,
        strata: Sequence[Stratum] = (),
        phase_start: Callable[[Mapping[str, Any]], int] | None = None,
        bounds: Mapping[str, float] | None = None,
        position: Callable[[float], int] | None = None,
        stop: Callable[[Mapping[str, Any]], float] = lambda values: 1.0,
        busy: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        if len(objectives) != len(settings.directions):
            raise UserError(
                f"rungs: {len(settings.directions)} directions for {len(objectives)} objectives; give each one"
            )
        if settings.relative_to == "phase" and phase_start is None:
            raise UserError("rungs: relative_to is phase, but nothing says where a trial's phase begins")
        self.rungs = Rungs(settings)
        self._objectives = tuple(objectives)
        self._strata = tuple(strata)
        self._phase_start = phase_start
        self._bounds = dict(bounds or {})
        self._position, self._stop = position, stop
        self._busy = busy
        self._values: dict[str, Mapping[str, Any]] = {}  # of trials that have not ended

    def report(self, trial_id: str, values: Mapping[str, Any], result: Mapping[str, Any]) -> Decision:
        """Enters the evaluation at the rung its `images` reached; where it ends by itself none is stopped."""
        measured = {name: result.get(name) for name in self._bounds}
        allowed = all(value is None or value <= self._bounds[name] for name, value in measured.items())
        self._values[trial_id] = values
        return self.rungs.report(
            trial_id,
            self._position(result["fraction"]) if self._position else result["images"],
            [result[name] for name in self._objectives],
            phase_start=self._phase_start(values) if self._phase_start else 0,
            stratum=tuple(each.of(values) for each in self._strata) if self._strata else None,
            feasible=allowed,
            last=result["fraction"] >= self._stop(values) - 1e-9,
        )

    def ended(self, trial_id: str) -> None:
        """See `Rungs.ended`."""
        self._values.pop(trial_id, None)
        self.rungs.ended(trial_id)

    def promotable(self, *, final: bool = False) -> list[str]:
        """See `Rungs.promotable` and, for `final`, `Rungs.lone`."""
        if final:
            return self.rungs.promotable() or self.rungs.lone()
        ready = self.rungs.promotable(exact=False)
        return ready if self._busy is None else [each for each in ready if not self.busy(each)]

    def nearest(self, count: int) -> list[str]:
        """See `Rungs.nearest`."""
        return self.rungs.nearest(count)

    def busy(self, trial_id: str) -> bool:
        """By the trial's values, once it has told them."""
        return self._busy is not None and trial_id in self._values and self._busy(self._values[trial_id])

    def reached(self, trial_id: str) -> int | None:
        """See `Rungs.reached`."""
        return self.rungs.reached(trial_id)

    def state(self) -> dict[str, Any]:
        """See `Rungs.state`."""
        return self.rungs.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Rungs.restore`."""
        brackets, most = self.rungs.settings.brackets, max(state["brackets"].values(), default=0)
        if most >= brackets:
            raise UserError(
                f"rungs: the saved state has {most + 1} brackets, not {brackets}; keep those that the sweep began with"
            )
        self.rungs = Rungs.restore(self.rungs.settings, state)


def stopping_rule(sweep: Sweep, busy: Callable[[Mapping[str, Any]], bool] | None = None) -> StoppingRule | None:
    """What `search.stopping` of a sweep asks for: rungs at every evaluated length from `grace` on, the last one apart.

    Relative to a phase, so many images after its start; a trial without a phase counts from its own start. Rungs are in
    images of `some_config`; trials of other images, or another batch, are compared at the same fraction of the training.
    `busy`: see RungRule.
    """
    stopping, config = sweep.search.stopping, sweep.some_config()
    if stopping.rule == "none":
        return None
    last = max(config.evaluation.lengths)
    levels = sorted({config.images_at(f) for f in config.evaluation.lengths if stopping.grace <= f < last})
    if not levels:
        return None
    settings = RungSettings(
        eta=stopping.eta,
        levels=tuple(levels),
        brackets=min(stopping.brackets, len(levels)),
        variant=stopping.variant,
        among=stopping.among,
        relative_to=stopping.relative_to,
    )

    def phase_start(values: Mapping[str, Any]) -> int:
        own = sweep.config_for(values)
        share = min(phase_starts(own), default=0) / own.images_at(1.0)
        step = math.floor(share * config.steps + 1e-6)
        return max(0, step - 1) * config.training.batch_size  # a step less: no rung is missed by rounding

    return RungRule(
        settings,
        strata=[Stratum(key) for key in stopping.strata],
        phase_start=phase_start if stopping.relative_to == "phase" else None,
        bounds={str(name): bound for name, bound in sweep.search.constraints.items()},
        position=config.images_at,
        stop=sweep.stop,
        busy=busy,
    )
