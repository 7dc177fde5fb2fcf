"""How many images every measure needs."""

import math
from collections.abc import Sequence

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.memorization import NEIGHBOURHOOD, SIMILARITIES


def needs(config: EvaluationConfig) -> dict[str, tuple[int, int, int]]:
    """Generated, training and held-out images that each measure needs at least."""
    quantile = max(2, math.ceil(1 / config.quantile - 1e-9) - 1)
    return {
        **dict.fromkeys((*config.distances, "kid"), (2, 2, 2)),
        **{f"{distance}_infinity": (20, 2, 2) for distance in config.distances},
        **dict.fromkeys(("precision", "recall"), (4, 4, 4)),
        **dict.fromkeys(("density", "coverage"), (6, 6, 6)),
        **dict.fromkeys(("mem_excess", "mem_excess_flips", "mem_local_excess", "sim_excess"), (1, 2, quantile)),
        **dict.fromkeys(("mem_ratio", "mem_ratio_flips", "authpct"), (1, 2, 1)),
        **{f"sim_above_{s:g}": (1, 1, 1) for s in SIMILARITIES},
        "mem_neighbourhood": (1, NEIGHBOURHOOD, 1),
        "c_t": (20, 20, 20),
        "search_recall": (1, 2, 1),
    }


def check_counts(
    names: Sequence[str], config: EvaluationConfig, generated: ImageSet, train: ImageSet, heldout: ImageSet
) -> None:
    """Raises UserError, which says what to leave out, where there are too few images for one of the measures `names`."""
    roles = (("generated", generated), ("training", train), ("held-out", heldout))
    problems, short = [], []
    for name in names:
        missing = [
            f"{needed} {role} images, there are {len(images)}"
            for (role, images), needed in zip(roles, needs(config)[name], strict=True)
            if len(images) < needed
        ]
        if missing:
            problems.append(f"{name} needs at least {' and '.join(missing)}")
            short.append(name)
    if problems:
        lower = " or raise evaluation.quantile," if any(name.endswith("excess") for name in short) else ""
        advice = " ".join(f"--without {name}" for name in short)
        raise UserError(f"{'; '.join(problems)}: add images,{lower} or leave out what cannot be measured: {advice}")
