"""A sweep: what is fixed, what is searched, what runs beside the search."""

import contextlib
import functools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ambient_sweep.config import Config, Section, build_config
from ambient_sweep.errors import UserError
from ambient_sweep.sweep import conditions
from ambient_sweep.sweep.distributions import Distribution

SAMPLERS = ("tpe", "nsga2", "gp", "random", "sobol", "qmc", "grid")  # qmc: sobol's name before
ConstraintName = Literal["fidelity", "memorization", "parameters", "device_seconds", "memory_gib"]
SAMPLED = 16  # configs that are looked at
TRIALS, PER_TRAINING = 20, 16  # searched configs, where nothing else is said
Fraction = Annotated[float, Field(ge=0, le=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class Control(Section):
    """Extra trials with fixed settings, one for each seed; without seeds one, with the base's."""

    label: str | None = None
    seeds: Seeds | None = None
    set: dict[str, Any] = Field(default_factory=dict)


class Baseline(Section):
    """Ordinary training on clean images, one trial for each seed; the base's seed by default."""

    seeds: Seeds


class Stopping(Section):
    """When a trial ends before its full length: see docs/search.md."""

    rule: Literal["none", "rungs"] = Field("rungs", description="what decides that a trial ends early")
    eta: int = Field(2, ge=2, description="rungs: one in this many goes on from a rung to the next")
    grace: Fraction = Field(0.0, description="rungs: share of a training before which there is none")
    brackets: int = Field(1, ge=1, description="rungs: brackets, each beginning one rung later")
    variant: Literal["stop", "promote"] = Field("promote", description="rungs: stop the others, or pause and promote")
    among: Literal["shorter", "rung"] = Field(
        "shorter",
        description="rungs: what trials are ranked among, those of their rung or with them all shorter checkpoints",
    )
    relative_to: Literal["start", "phase"] = Field(
        "start", description="rungs: counted from the start of training, or from that of consistency or of a wsd tail"
    )
    strata: tuple[str, ...] = Field((), description="rungs: keys whose values trials must share to be compared")


class Confirm(Section):
    """What is done with the best candidates after the search: see docs/search.md. Without this section nothing is."""

    seeds: int = Field(3, ge=0, description="fresh training seeds for each candidate")
    top: int = Field(8, ge=1, description="candidates on and near the front")
    samples: int | None = Field(
        None, ge=8, description="fresh samples for each candidate; evaluation.samples by default"
    )
    images: int | None = Field(
        None, ge=1, description="most images that the fresh trainings may take; no limit by default"
    )


class Search(Section):
    trials: int | None = Field(
        None,
        ge=1,
        description=f"searched configs, points included; default {TRIALS}; with images, {PER_TRAINING} per full training",
    )
    images: int | None = Field(
        None, ge=1, description="images to train; what is left after the last config goes to paused trials"
    )
    sampler: str = Field("tpe", description="tpe, nsga2, gp, random, sobol, grid, optuna:CLASS or hub:PACKAGE")
    sampler_args: dict[str, Any] = Field(default_factory=dict, description="arguments of the sampler's constructor")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the sampler")
    startup_trials: int | None = Field(
        None, ge=1, description="drawn trials before TPE and GP model (default 10); population of NSGA-II (default 50)"
    )
    random_share: Fraction = Field(0.5, description="share of TPE's proposals that are drawn at random")
    ask_seconds: float | None = Field(
        None,
        ge=0,
        description="the sampler's time for a draw, in a process of its own; 0: none; default: 10 for slow ones",
    )
    observations: Literal["checkpoints", "full-length"] = Field(
        "checkpoints", description="what the sampler learns from: every full evaluation, or those at full length"
    )
    constraints: dict[ConstraintName, float] = Field(
        default_factory=dict, description="upper bounds that the sampler learns to keep to"
    )
    replicates: int = Field(1, ge=1, description="trainings of each config, each with a seed of its own")
    lookahead: int = Field(2, ge=1, description="candidates among which the cheapest to train is taken, with stages")
    stages: bool = Field(True, description="share what trials have in common")
    stages_gib: float = Field(20.0, ge=0, description="what stages may take on disk before those of no further use go")
    stopping: Stopping = Stopping()
    max_failures: int = Field(2, ge=0, description="restarts of a trial after its worker died")
    max_concurrent: int | None = Field(None, ge=1, description="trials at once; as many as fit by default")

    @field_validator("sampler")
    @classmethod
    def _known(cls, name: str) -> str:
        prefix, colon, rest = name.partition(":")
        if name in SAMPLERS or (colon and prefix in ("optuna", "hub") and rest):
            return name
        raise ValueError(f"input should be {', '.join(SAMPLERS)}, optuna:CLASS or hub:PACKAGE")

    @field_validator("constraints")
    @classmethod
    def _finite(cls, bounds: dict[str, float]) -> dict[str, float]:
        for name, bound in bounds.items():
            if not math.isfinite(bound) or bound < 0:
                raise ValueError(f"{name}: expected a number of at least 0")
        return bounds


@dataclass(frozen=True)
class FixedTrial:
    """A trial outside the search: its role ("baseline" or "control"), its name, and what it changes in the base."""

    role: str
    label: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was resolved: `base` holds every knob, `baseline` is None where the base copies are noisy."""

    name: str
    base: dict[str, Any]
    space: dict[str, Distribution]
    points: tuple[dict[str, Any], ...] = ()
    controls: tuple[Control, ...] = ()
    baseline: Baseline | None = None
    search: Search = Search()  # noqa: RUF009 (frozen)
    confirm: Confirm | None = None

    def config_for(self, values: Mapping[str, Any], where: str | None = None) -> Config:
        """The config of the base overlaid by a trial's values. Raises UserError where they contradict."""
        return build_config(self.base, values, where=where or self.name)

    def some_config(self) -> Config:
        """The config of some searched trial, for what all trials share: data, evaluation, resources."""
        return self.config_for(self.active({key: d.values[0] for key, d in self.space.items()}))

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` without those of searched keys whose `when` is not met beside the others."""
        return conditions.active(self.space, values)

    def stop(self, values: Mapping[str, Any]) -> float:
        """The fraction of the run at which a trial of these values ends by itself."""
        return float(values.get("training.stop", self.base["training.stop"]))

    @functools.cached_property
    def trials(self) -> int:
        """Searched configs, at most."""
        search = self.search
        if search.trials is not None or search.images is None:
            return search.trials or TRIALS
        config = self.some_config()
        lasts_for = math.ceil(search.images / config.images_at(config.training.stop))
        return max(PER_TRAINING * lasts_for, len(self.points))

    @functools.cached_property
    def has_siblings(self) -> bool:
        """Whether the space holds configs that are one training to the end, and measured otherwise."""
        from ambient_sweep.stages.prefix import prefix_of

        for number in range(SAMPLED):
            rng = random.Random(f"siblings/{number}")
            values = self.active({key: d.at(rng.random()) for key, d in self.space.items()})
            for key in values:
                changed = {**values, key: self.space[key].at(rng.random())}
                if changed[key] != values[key] and self.active(changed).keys() == values.keys():
                    with contextlib.suppress(UserError):  # some settings contradict each other
                        if prefix_of(self.config_for(values)) == prefix_of(self.config_for(changed)):
                            return True
        return False

    def fixed_trials(self) -> tuple[FixedTrial, ...]:
        """The baseline's and the controls' trials, in the order in which they start."""
        trials = []
        for seed in self.baseline.seeds if self.baseline else ():
            clean = {"objective.kind": "denoising", "observed.sigma": 0.0, "seed": seed}
            trials.append(FixedTrial("baseline", "baseline", clean))
        for index, control in enumerate(self.controls):
            label = control.label or values_text(control.set) or f"control {index + 1}"
            seeds = [{}] if control.seeds is None else [{"seed": seed} for seed in control.seeds]
            trials += [FixedTrial("control", label, {**control.set, **seed}) for seed in seeds]
        return tuple(trials)

    def size(self) -> float:
        """How many different configs the space holds; inf where a key is a real number."""
        return conditions.size(self.space)

    def dump(self) -> dict[str, Any]:
        """The sweep file that `load_sweep` reads back to an equal sweep."""
        tree: dict[str, Any] = {
            "name": self.name,
            "base": self.base,
            "space": {key: distribution.dump() for key, distribution in self.space.items()},
            "points": list(self.points),
            "controls": [control.model_dump(mode="json", exclude_none=True) for control in self.controls],
        }
        if self.baseline is not None:
            tree["baseline"] = self.baseline.model_dump(mode="json")
        tree["search"] = self.search.model_dump(mode="json")
        if self.confirm is not None:
            tree["confirm"] = self.confirm.model_dump(mode="json")
        return tree


def values_text(values: Mapping[str, Any]) -> str:
    """Values as `key=value, key=value`."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
