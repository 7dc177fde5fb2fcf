"""How a sweep got to its frontier: hypervolume over images trained and device time, and what further seeds attain."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ambient_sweep import pareto
from ambient_sweep.results import schema
from ambient_sweep.results.candidates import candidates, frontier, objectives

Floats = NDArray[np.float64]

REPLICATE = "replicate"
MARGIN = 0.1  # of the frontier's extent, from its worst values to the reference point


@dataclass(frozen=True)
class History:
    """The hypervolume of all candidates so far, after each one [N], in the order in which they were trained."""

    images: Floats  # executed until then, over all trials
    seconds: Floats  # device seconds until then
    volume: Floats
    reference: Floats  # [2], fidelity and memorization


def hypervolume_history(trials: pa.Table, evaluations: pa.Table, reference: Floats | None = None) -> History:
    """How the hypervolume grew; the reference point by default is the final frontier's: see `reference_point`.

    As if trials had been trained one after another, in the order of their starts, and their work spread evenly over
    their images: the tables do not tell the times of evaluations. What a trial took over from another costs it nothing.
    """
    rows = candidates(evaluations)
    corner = reference_point(evaluations) if reference is None else reference
    order = sorted(trials.to_pylist(), key=lambda trial: (trial[schema.STARTED], trial[schema.TRIAL_ID]))
    done: dict[str, tuple[int, float, float, dict[str, Any]]] = {}  # what was done before each trial
    images = seconds = 0.0
    for turn, trial in enumerate(order):
        done[trial[schema.TRIAL_ID]] = (turn, images, seconds, trial)
        images += trial[schema.IMAGES_EXECUTED]
        seconds += trial[schema.DEVICE_SECONDS]
    places = []
    columns = (rows[name].to_pylist() for name in (schema.TRIAL_ID, schema.IMAGES, schema.IMAGES_EXECUTED))
    for trial_id, length, executed in zip(*columns, strict=True):
        turn, images, seconds, trial = done[trial_id]
        share = executed / trial[schema.IMAGES_EXECUTED] if trial[schema.IMAGES_EXECUTED] else 1.0
        places.append((turn, length, images + executed, seconds + share * trial[schema.DEVICE_SECONDS]))
    turns, lengths, x_images, x_seconds = np.array(places, dtype=np.float64).reshape(-1, 4).T
    first = np.lexsort((lengths, turns))
    volume = pareto.hypervolume_history(objectives(rows)[first], corner)
    return History(x_images[first], x_seconds[first], volume, corner)


def reference_point(evaluations: pa.Table) -> Floats:
    """The frontier's worst fidelity and memorization, and a tenth of its extent beyond; [2].

    An objective in which the frontier has no extent counts as one of extent 1. NaN where there is no frontier.
    """
    front = objectives(frontier(evaluations))
    if len(front) == 0:
        return np.full(2, np.nan)
    low, high = front.min(axis=0), front.max(axis=0)
    return np.asarray(high + MARGIN * np.where(high > low, high - low, 1.0))


def seed_fronts(evaluations: pa.Table) -> dict[int, Floats]:
    """For each training seed of replicates, what they attained: fidelity and memorization [N, 2], dominated rows too.

    Replicates only: the values by which their configs were chosen are better than those of further seeds on average.
    """
    rows = candidates(evaluations)
    seeds, roles = (np.array(rows[name].to_pylist()) for name in ("seed", schema.ROLE))
    values = objectives(rows)
    chosen = roles == REPLICATE
    return {int(seed): values[chosen & (seeds == seed)] for seed in sorted(set(seeds[chosen].tolist()))}
