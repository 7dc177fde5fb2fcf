"""The trials of clean training, the rival that noise has to beat.

Stopping clean training early is the cheapest way to memorize less, so it is measured at twice as many lengths as noisy
training. Where searched keys act on it too (learning rate, EMA, width), it gets its share of the search: for every SHARE
searched configs, one clean training with values drawn from the space.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ambient_sweep import rng
from ambient_sweep.sweep.space import conditions

if TYPE_CHECKING:
    from ambient_sweep.sweep.space.definition import Sweep

# keys that clean training does not know or has its own of
OTHERS = ("observed.", "objective.", "consistency.", "distillation.", "seed")
SHARE = 4
UNTOUCHED = "untouched base"  # label of the trial of `untouched_values`


def baseline_values(sweep: "Sweep", seed: int) -> list[dict[str, Any]]:
    """What overlays the base in each clean training with this seed: first the base's own values, then drawn ones."""
    clean = {"objective.kind": "denoising", "observed.sigma": 0.0, "seed": seed}
    config = sweep.config_for(clean)
    given = config.evaluation.lengths
    lengths = {config.images_at(length): length for length in given}
    for ends in pairwise((0.0, *given)):
        lengths.setdefault(config.images_at(sum(ends) / 2), sum(ends) / 2)
    clean["evaluation.lengths"] = [lengths[images] for images in sorted(lengths)]
    return [clean, *(clean | drawn for drawn in _draws(sweep))]


def untouched_values(sweep: "Sweep") -> dict[str, Any]:
    """What overlays the base in the trial that measures the pretrained model: a step that leaves all weights as they are.

    LoRA weights begin as no change at all. Without this trial nobody sees what fine-tuning copied.
    """
    return {
        "objective.kind": "denoising", "observed.sigma": sweep.base["observed.base_sigma"], "optimizer.lr": 0.0,
        "training.images": sweep.base["training.batch_size"], "evaluation.lengths": [1.0],
    }  # fmt: skip


def _draws(sweep: "Sweep") -> list[dict[str, Any]]:
    """Different values of the searched keys that act on clean training, none of them the base's; for one seed of it."""
    others = (*OTHERS, "model.") if "parameters" in sweep.search.constraints else OTHERS  # no network beyond the bound
    space = {key: d for key, d in sweep.space.items() if not key.startswith(others)}
    fixed = {key: value for key, value in (("objective.kind", "denoising"),) if key in sweep.space}
    found = [{key: sweep.base[key] for key in space}]
    if not space:
        return []
    for index in range(int(min(sweep.trials, conditions.size(sweep.space))) // SHARE):
        where = rng.uniform("baseline", sweep.search.seed, index, 1, len(space))[0]
        drawn = {key: d.at(float(u)) for (key, d), u in zip(space.items(), where, strict=True)}
        drawn = {k: v for k, v in conditions.active(sweep.space, fixed | drawn).items() if k not in fixed}
        if drawn and drawn not in found:
            found.append(drawn)
    return found[1:]
