"""A sweep: what is fixed, what is searched, what runs beside the search."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from ambient_sweep.config import Config, Section, build_config
from ambient_sweep.sweep.distributions import Distribution

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class Control(Section):
    """Extra trials with fixed settings, one for each seed; without seeds one, with the base's."""

    label: str | None = None
    seeds: Seeds | None = None
    set: dict[str, Any] = Field(default_factory=dict)


class Baseline(Section):
    """Ordinary training on clean images, one trial for each seed; the base's seed by default."""

    seeds: Seeds


class Search(Section):
    trials: int = Field(20, ge=1, description="searched trials, points included")
    sampler: Literal["tpe", "nsga2", "random", "qmc"] = Field("tpe", description="Optuna's sampler")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the sampler")
    startup_trials: int | None = Field(
        None, ge=1, description="random trials before TPE models (default 10); population of NSGA-II (default 50)"
    )
    max_failures: int = Field(2, ge=0, description="restarts of a trial after its worker died")
    max_concurrent: int | None = Field(None, ge=1, description="trials at once; as many as fit by default")


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

    def config_for(self, values: Mapping[str, Any], where: str | None = None) -> Config:
        """The config of the base overlaid by a trial's values. Raises UserError where they contradict."""
        return build_config(self.base, values, where=where or self.name)

    def some_config(self) -> Config:
        """The config of some searched trial, for what all trials share: data, evaluation, resources."""
        return self.config_for({key: distribution.values[0] for key, distribution in self.space.items()})

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
        return math.prod(distribution.size for distribution in self.space.values())

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
        return tree


def values_text(values: Mapping[str, Any]) -> str:
    """Values as `key=value, key=value`."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
