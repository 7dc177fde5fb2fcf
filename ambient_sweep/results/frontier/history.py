"""How the frontier grew: hypervolume over images trained and over device time."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ambient_sweep import pareto
from ambient_sweep.results.frontier.candidates import Floats, candidates, frontier, objectives
from ambient_sweep.results.tables import schema

MARGIN = 0.1  # of the frontier's extent, from its worst values to the reference point


@dataclass(frozen=True)
class History:
    """The hypervolume of all candidates so far, after each one [N], in the order in which they were trained."""

    images: Floats  # trained until then, over all trials
    seconds: Floats  # device seconds until then
    volume: Floats
    reference: Floats  # [2], fidelity and memorization


def hypervolume_history(trials: pa.Table, evaluations: pa.Table) -> History:
    """How the hypervolume grew, measured from the final frontier's `reference_point`.

    As if trials had been trained one after another, in the order of their starts, and their work spread evenly over
    their images, since the tables do not hold the times of evaluations. A stage costs only the trial that trained it.
    """
    rows, corner = candidates(evaluations), reference_point(evaluations)
    order = sorted(trials.to_pylist(), key=lambda trial: (trial[schema.STARTED], trial[schema.TRIAL_ID]))
    executed = np.array([trial[schema.IMAGES_EXECUTED] for trial in order], dtype=np.float64)
    seconds = np.array([trial[schema.DEVICE_SECONDS] for trial in order], dtype=np.float64)
    turns = {trial[schema.TRIAL_ID]: turn for turn, trial in enumerate(order)}
    turn = np.array([turns[trial_id] for trial_id in rows[schema.TRIAL_ID].to_pylist()], dtype=np.int64)
    own = rows[schema.IMAGES_EXECUTED].to_numpy().astype(np.float64)  # of its trial's images, until the evaluation
    share = np.divide(own, executed[turn], out=np.ones(len(own)), where=executed[turn] > 0)
    images_until = (executed.cumsum() - executed)[turn] + own
    seconds_until = (seconds.cumsum() - seconds)[turn] + share * seconds[turn]
    first = np.lexsort((rows[schema.IMAGES].to_numpy(), turn))
    volume = pareto.hypervolume_history(objectives(rows)[first], corner)
    return History(images_until[first], seconds_until[first], volume, corner)


def reference_point(evaluations: pa.Table) -> Floats:
    """The frontier's worst fidelity and memorization, and a tenth of its extent beyond; [2].

    An objective in which the frontier has no extent counts as one of extent 1. Raises ValueError where there is no
    frontier.
    """
    front = objectives(frontier(evaluations))
    low, high = front.min(axis=0), front.max(axis=0)
    return np.asarray(high + MARGIN * np.where(high > low, high - low, 1.0))
