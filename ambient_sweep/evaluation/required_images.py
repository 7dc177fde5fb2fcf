"""Which measures an evaluation has, and how many images each of them needs."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.memorization import NEIGHBOURHOOD, SIMILARITIES

Role = Literal["generated", "training", "held-out"]
EXTRA_COPIES = "mem_neighbourhood"
EXTRA_SIMILARITY = tuple(f"sim_above_{s:g}" for s in SIMILARITIES)


def trial_measures(config: EvaluationConfig) -> tuple[str, ...]:
    """What the trials of a sweep are measured by."""
    return tuple(name for name in all_measures(config) if name not in (EXTRA_COPIES, *EXTRA_SIMILARITY))


def all_measures(config: EvaluationConfig, without: Sequence[str] = ()) -> tuple[str, ...]:
    """All measures but those in `without`, in the order of a report. Raises UserError for an unknown name in it."""
    copies = ("mem_excess", "mem_local_excess", "mem_ratio", "mem_excess_flips", "mem_ratio_flips", EXTRA_COPIES)
    similar = ("sim_excess", *EXTRA_SIMILARITY) if config.similarity else ()
    names = (*config.distances, *config.extras, *copies, *similar)
    unknown = {*without} - {*names}
    if unknown:
        raise UserError(f"--without: {min(unknown)} is not measured; the measures are {', '.join(names)}")
    return tuple(name for name in names if name not in without)


def check_counts(names: Sequence[str], config: EvaluationConfig, counts: Mapping[Role, int]) -> None:
    """Raises UserError, which says what to leave out, where there are too few images for one of the measures `names`."""
    problems, short = [], []
    for name in names:
        required = _required(name, config)
        missing = [f"{required[role]} {role} images, there are {n}" for role, n in counts.items() if n < required[role]]
        if missing:
            problems.append(f"{name} needs at least {' and '.join(missing)}")
            short.append(name)
    if problems:
        quantile = " raise evaluation.quantile," if any(name.endswith("excess") for name in short) else ""
        advice = " ".join(f"--without {name}" for name in short)
        raise UserError(
            f"{'; '.join(problems)}: add images,{quantile} or leave out what cannot be measured (in a sweep by "
            f"evaluation.extras): {advice}"
        )


def _required(name: str, config: EvaluationConfig) -> dict[Role, int]:
    """Images that a measure needs at least."""
    generated, train, heldout = 1, 2, 1
    if name in ("density", "coverage", "precision", "recall"):
        generated, heldout = 4, 6
    elif name in (*config.distances, "kid"):
        generated, heldout = 2, 2
    elif "excess" in name:
        heldout = max(2, math.ceil(1 / config.quantile - 1e-9) - 1)
    elif name == EXTRA_COPIES:
        train = NEIGHBOURHOOD
    return {"generated": generated, "training": train, "held-out": heldout}


def with_similarity(config: EvaluationConfig) -> EvaluationConfig:
    """`config` with a similarity encoder: that of its fidelity, where none is given."""
    return config if config.similarity else config.model_copy(update={"similarity": config.fidelity})
