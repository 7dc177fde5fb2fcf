"""Which measures an evaluation has, and how many images each of them needs."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.memorization.copies import heldout_needed, smallest_quantile
from ambient_sweep.evaluation.memorization.measures import Nearness, is_measurable

Role = Literal["generated", "training", "held-out"]
COPIES = ("mem_excess", "mem_local_excess", "mem_ratio", "mem_excess_flips", "mem_ratio_flips")


def all_measures(config: EvaluationConfig, without: Sequence[str] = ()) -> tuple[str, ...]:
    """All measures but those in `without`, in the order of a report. Raises UserError for an unknown name in it."""
    names = (*config.distances, *config.extras, *COPIES, *(("sim_excess",) if config.similarity else ()))
    unknown = {*without} - {*names}
    if unknown:
        raise UserError(f"--without: {min(unknown)} is not measured; the measures are {', '.join(names)}")
    return tuple(name for name in names if name not in without)


def trial_measures(config: EvaluationConfig, heldout: Nearness) -> tuple[str, ...]:
    """What the trials of a sweep measure: all, but beside the objective only what `heldout` is enough for."""
    return tuple(
        name
        for name in all_measures(config)
        if name == config.memorization or is_measurable(name, heldout, config.quantile)
    )


def check_counts(names: Sequence[str] | None, config: EvaluationConfig, counts: Mapping[Role, int]) -> None:
    """Raises UserError, with the cure, where there are too few images for one of the measures `names`.

    None stands for those that the keys of `config` name.
    """
    problems = {}
    for name in (*config.distances, *config.extras, config.memorization) if names is None else names:
        required = _required(name, config)
        missing = [f"{required[role]} {role} images, there are {n}" for role, n in counts.items() if n < required[role]]
        if missing:
            problems[name] = f"{name} needs at least {' and '.join(missing)}"
    if not problems:
        return
    keys = []
    if "held-out" in counts and any("excess" in name for name in problems):
        keys.append(f"evaluation.quantile={smallest_quantile(counts['held-out'])}")
    if names is None and not problems.keys().isdisjoint(config.extras):
        keys.append(f"evaluation.extras=[{','.join(name for name in config.extras if name not in problems)}]")
    which = " (data.train_size, data.heldout_size)" if names is None else ""
    cure = f"add images{which}{', or set ' if keys else ''}{' and '.join(keys)}"
    if names is not None:
        cure += f", or leave out what cannot be measured: {' '.join(f'--without {name}' for name in problems)}"
    raise UserError(f"{'; '.join(problems.values())}: {cure}")


def _required(name: str, config: EvaluationConfig) -> dict[Role, int]:
    """Images that a measure needs at least; of training images as many as of generated ones, for its floor."""
    generated, heldout = 1, 1
    if name in ("density", "coverage", "precision", "recall"):
        generated, heldout = 4, 6
    elif name in (*config.distances, "kid"):
        generated, heldout = 2, 2
    elif "excess" in name:
        heldout = heldout_needed(config.quantile)
    return {"generated": generated, "training": generated, "held-out": heldout}


def unresolved(config: EvaluationConfig) -> list[str]:
    """A warning where the samples count memorization in steps too coarse for its axis."""
    n, enough = config.samples, math.ceil(1 / config.quantile - 1e-9)
    if n >= enough:
        return []
    return [
        f"warning: evaluation.samples={n} resolves {config.memorization} in steps of 1/{n} = {1 / n:.2g}, coarser than "
        f"evaluation.quantile={config.quantile:g}; set evaluation.samples={enough} or more"
    ]


def resolved(heldout: int) -> str:
    """What so many held-out images allow, for the user who has just split them off."""
    default = EvaluationConfig().quantile
    if heldout == 0:
        return "all held-out images are copies of training images: mem_excess cannot be measured"
    line = f"{heldout:,} held-out images resolve memorization (mem_excess) to about 1/{heldout} = {1 / heldout:.2g}"
    if heldout >= heldout_needed(default):
        return line
    return f"{line}; set evaluation.quantile={smallest_quantile(heldout)}, since {default:g} needs {heldout_needed(default)}"


def with_similarity(config: EvaluationConfig) -> EvaluationConfig:
    """`config` with a similarity encoder: that of its fidelity, where none is given."""
    return config if config.similarity else config.model_copy(update={"similarity": config.fidelity})
