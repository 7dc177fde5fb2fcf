"""A sweep: what is fixed, what is searched, what runs beside the search."""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt

from ambient_sweep.config import Config, build_config
from ambient_sweep.config.sections import Section, Seed
from ambient_sweep.config.values import read_number
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.baseline import UNTOUCHED, baseline_values, untouched_values
from ambient_sweep.sweep.space.distributions import Distribution

ConstraintName = Literal["fidelity", "memorization", "parameters", "device_seconds"]
Role = Literal["baseline", "control", "search", "replicate"]
TRIALS, PER_TRAINING = 20, 16  # default of search.trials; where search.images is given, for each full training

NUMBER = BeforeValidator(read_number)
NONE_IS_EMPTY = BeforeValidator(lambda value: {} if value is None else value)  # a key with nothing below it


def _read_argument(value: Any) -> Any:
    """A whole number as such, however it is written: 1e1 is 10."""
    number = read_number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


Argument = Annotated[
    StrictBool | StrictInt | StrictFloat | bool | Any,
    Field(union_mode="left_to_right"),
    BeforeValidator(_read_argument),
]
Bound = Annotated[float, NUMBER, Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


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

    rule: Literal["none", "rungs"] = Field("rungs", description="rungs: MO-ASHA; none: every trial runs to its end")
    eta: int = Field(2, ge=2, description="rungs: one trial in this many goes on from a rung to the next")


def _read_multiple(value: Any) -> str:
    if not re.fullmatch(r"0|([2-9]|[1-9]\d{1,2})x", str(value)):
        raise ValueError("write a multiple of evaluation.samples, from 2x to 999x, or 0 for no confirmation")
    return str(value)


class Confirm(Section):
    """How the frontier is confirmed after the search. See docs/search.md."""

    samples: Annotated[str, BeforeValidator(_read_multiple)] = Field(
        "4x",
        description="fresh samples, as a multiple of evaluation.samples, for what could be on the frontier; 0: off",
    )
    seeds: int = Field(0, ge=0, le=1000, description="fresh training seeds for each of the best")
    top: int = Field(8, ge=1, description="how many of the best are trained with fresh seeds")

    @property
    def factor(self) -> int:
        """By how much more samples are measured; 0: none."""
        return int(self.samples.removesuffix("x"))


class Search(Section):
    """How configs are searched and how much is trained for it. See docs/search.md."""

    trials: int | None = Field(None, ge=1, description="searched configs, points included; see `Sweep.trials`")
    images: int | None = Field(None, ge=1, description="caps the images trained; paused trials get what is left")
    hours: float | None = Field(None, gt=0, description="of all sessions; then nothing begins or is promoted")
    sampler: str = Field("tpe", description="tpe, random, sobol, grid, nsga2, gp, or a class of optuna.samplers")
    sampler_args: Annotated[dict[str, Argument], NONE_IS_EMPTY] = Field(
        default_factory=dict, description="arguments of its constructor"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the sampler")
    constraints: Annotated[dict[ConstraintName, Bound], NONE_IS_EMPTY] = Field(
        default_factory=dict, description="upper bounds"
    )
    stopping: Stopping = Stopping()
    stages: bool = Field(True, description="train once what trials have in common")
    stages_gib: float = Field(20.0, ge=0, description="disk space of stages, beyond which unneeded ones are removed")
    keep: Literal["frontier", "all"] = Field("frontier", description="all: also stages and training states")
    tracker: Literal["mlflow", "wandb"] | None = Field(None, description="also log every trial there, if installed")
    max_failures: int = Field(2, ge=0, description="restarts of a trial that runs out of memory or raises an error")
    patience: float = Field(
        60.0, ge=1, description="minutes without room, or of restarts without progress, that a lost machine may cost"
    )
    max_concurrent: int | None = Field(None, ge=1, description="trials at once; as many as fit by default")


@dataclass(frozen=True)
class SweepTrial:
    """One config on its way through a sweep: proposed, trained, measured, repeated.

    values: what overlays the sweep's base, under dotted keys. label: the name of a fixed trial; for a replicate, the id of
    the trial that it repeats. number: in Optuna's study, for searched trials.
    """

    role: Role
    values: dict[str, Any]
    label: str = ""
    trial_id: str = ""  # once it is to be trained
    number: int | None = None

    @property
    def replicate_of(self) -> str | None:
        return self.label if self.role == "replicate" else None

    @property
    def name(self) -> str:
        """What the trial is, in short, for people: the last parts of its keys where these are unique."""
        if self.role != "search":
            return f"{self.label} (seed {self.values['seed']})" if "seed" in self.values else self.label
        short = [key.rpartition(".")[2] for key in self.values]
        keys = short if len(set(short)) == len(short) else list(self.values)
        texts = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in self.values.values())
        return ", ".join(f"{key}={text}" for key, text in zip(keys, texts, strict=True))


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
    confirm: Confirm = Confirm()  # noqa: RUF009 (frozen)
    where: str = field(default="sweep", compare=False)  # its file, for messages

    def config_for(self, values: Mapping[str, Any]) -> Config:
        """The config of the base overlaid by a trial's values. Raises UserError where they contradict."""
        return build_config(self.base, values, where=self.where)

    def some_config(self) -> Config:
        """The config of some searched trial, for what all trials share: data, evaluation, resources."""
        return self.config_for(self.active({key: d.values[0] for key, d in self.space.items()}))

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` without those of searched keys whose `when` is not met beside the others."""
        return conditions.active(self.space, values)

    @functools.cached_property
    def trials(self) -> int:
        """Searched configs, at most."""
        search = self.search
        if search.trials is not None or search.images is None:
            return search.trials or TRIALS
        trainings = math.ceil(search.images / self.some_config().length)
        return max(PER_TRAINING * trainings, len(self.points))

    @property
    def rung_levels(self) -> tuple[float, ...]:
        """The fractions of a training at which trials are compared: all evaluated lengths but the last."""
        lengths = sorted(self.base["evaluation.lengths"])
        return tuple(lengths[:-1]) if self.search.stopping.rule == "rungs" else ()

    @property
    def has_siblings(self) -> bool:
        """Whether some configs of the space are one training to the end, and differ in how they are measured alone."""
        power = self.base["ema.kind"] == "power"
        return any(key.startswith("sampling.") or (power and key == "ema.length") for key in self.space)

    def fixed_trials(self) -> tuple[SweepTrial, ...]:
        """The baseline's trials, of LoRA the untouched base, and the controls', in the order in which they start."""
        trials = []
        for seed in self.baseline.seeds if self.baseline else ():
            trials += [SweepTrial("baseline", values, "baseline") for values in baseline_values(self, seed)]
        if self.base.get("model.kind") == "lora":
            trials.append(SweepTrial("control", untouched_values(self), UNTOUCHED))
        for index, control in enumerate(self.controls):
            label = control.label or values_text(control.set) or f"control {index + 1}"
            seeds = [{}] if control.seeds is None else [{"seed": seed} for seed in control.seeds]
            trials += [SweepTrial("control", {**control.set, **seed}, label) for seed in seeds]
        return tuple(trials)

    def size(self) -> float:
        """How many different configs the space holds; inf where a key is a real number."""
        return conditions.size(self.space)

    def dump(self) -> dict[str, Any]:
        """The sweep file that `load_sweep` reads back to an equal sweep."""
        sections = {"baseline": self.baseline, "search": self.search, "confirm": self.confirm}
        return {
            "name": self.name,
            "base": self.base,
            "space": {key: distribution.dump() for key, distribution in self.space.items()},
            "points": list(self.points),
            "controls": [control.model_dump(mode="json", exclude_none=True) for control in self.controls],
            **{name: section.model_dump(mode="json") for name, section in sections.items() if section is not None},
        }


def values_text(values: Mapping[str, Any]) -> str:
    """Values as `key=value, key=value`."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
