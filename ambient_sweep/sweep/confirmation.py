"""What is done after the search, so that the frontier is more than luck: which candidates are measured and trained again.

Pure planning, from the evaluations table: no Ray, no files. A plan depends on what the search found alone, not on what
was confirmed since: planned anew after an interruption it is the same, ids of trials included.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, dump, knobs
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.results.frontier.candidates import Row, candidates, groups
from ambient_sweep.results.frontier.recipes import Recipes
from ambient_sweep.results.tables import schema
from ambient_sweep.sweep.space.definition import Confirm, Role, SweepTrial
from ambient_sweep.text import counted

REPLICATE: Role = "replicate"

MARGIN = 0.1  # of a front's extent, from its worst values to the reference point of contributions


@dataclass(frozen=True)
class Remeasurement:
    """A checkpoint to be measured once more, at all its endpoints, on samples of a fresh seed."""

    trial_id: str
    images: int
    checkpoint: str  # relative to the sweep's folder
    seed: int  # of the samples: evaluation.seed


@dataclass(frozen=True)
class Plan:
    """What a confirmation is to do, best candidates first."""

    candidates: int = 0
    on_front: int = 0  # of these
    remeasurements: tuple[Remeasurement, ...] = ()
    replicates: tuple[SweepTrial, ...] = ()  # with their values that differ from the sweep's base
    images: int = 0  # to train, for all replicates

    def line(self) -> str:
        """For people, before it begins."""
        return (
            f"confirming {counted(self.candidates, 'candidate')}, {self.on_front} of them on the frontier: "
            f"{counted(len(self.remeasurements), 'measurement')} on fresh samples, "
            f"{counted(len(self.replicates), 'training')} with fresh seeds, {self.images:,} images to train"
        )


def plan(evaluations: pa.Table, settings: Confirm, base: Mapping[str, Any]) -> Plan:
    """The confirmation of what a search found, in the table of a sweep whose base is `base`.

    Candidates are the first `settings.top` different (config, length), by nondominated rank, then by contribution to the
    hypervolume within their rank; a recipe with several seeds is taken at its mean. Each is measured on
    `settings.samples` fresh samples, in sets of evaluation.samples (only sets of one size compare), and trained with
    `settings.seeds` fresh seeds, the same for all, so that what they share is trained once; seed by seed, best candidates
    first. A config wanted at several lengths is trained once, to the longest.

    Raises UserError where the table mixes measures.
    """
    searched = evaluations.filter(pc.not_equal(evaluations[schema.ROLE], REPLICATE))
    found = candidates(searched)
    if found.num_rows == 0:
        return Plan()
    rows, on_front = _chosen(found, settings.top)
    configs = [build_config({key: row[key] for key in knobs()}, where=row[schema.TRIAL_ID]) for row in rows]
    used = set(searched["seed"].to_pylist())
    seeds = [seed for seed in range(len(used) + settings.seeds) if seed not in used][: settings.seeds]
    replicates = []
    trainings = _trainings(rows, configs)
    for seed in seeds:
        for trial_id, config in trainings:
            fresh = dump(config.model_copy(update={"seed": seed}))
            values = {key: value for key, value in fresh.items() if key not in base or base[key] != value}
            replicates.append(SweepTrial(REPLICATE, values, trial_id, f"{trial_id}.{config.length}.seed-{seed}"))
    images = len(seeds) * sum(config.length for _, config in trainings)
    again = [each for row, config in zip(rows, configs, strict=True) for each in _remeasurements(row, config, settings)]
    return Plan(len(rows), on_front, tuple(again), tuple(replicates), images)


def order_candidates(points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order of points [N, 2], the most worth confirming first, and their nondominated ranks.

    Within a rank by exclusive hypervolume, against the rank's worst values and a tenth of its extent beyond.
    """
    ranks = pareto.nondominated_rank(points)
    worth = np.zeros(len(points))
    for rank in range(int(ranks.max(initial=-1)) + 1):
        front = points[ranks == rank]
        low, high = front.min(axis=0), front.max(axis=0)
        extent = np.where(high > low, high - low, 1.0)
        worth[ranks == rank] = pareto.contributions((front - low) / extent, (high - low) / extent + MARGIN)
    return np.lexsort((*points.T, -worth.round(12), ranks)), ranks


def _chosen(found: pa.Table, top: int) -> tuple[list[Row], int]:
    """A row of a trial that holds each candidate, and how many are on the front; endpoints of one checkpoint are one."""
    recipes, ids, images = Recipes.of(found), found[schema.TRIAL_ID].to_pylist(), found[schema.IMAGES].to_pylist()
    holders = [min(group, key=lambda i: ids[i]) for group in groups(recipes.labels.tolist())]
    order, ranks = order_candidates(recipes.mean[recipes.labels[holders]])
    chosen: dict[tuple[str, int], int] = {}
    for index in order:
        chosen.setdefault((ids[holders[index]], images[holders[index]]), int(index))
    kept = list(chosen.values())[:top]
    return [found.slice(int(holders[i]), 1).to_pylist()[0] for i in kept], sum(int(ranks[i]) == 0 for i in kept)


def _trainings(rows: Sequence[Row], configs: Sequence[Config]) -> list[tuple[str, Config]]:
    """The trials to be trained again and their configs, stopped where they are wanted last; the best candidates first."""
    stopped = [_with_stop(config, row[schema.FRACTION]) for row, config in zip(rows, configs, strict=True)]
    recipes = [_with_stop(config, 1.0).model_copy(update={"seed": 0}) for config in configs]
    passed: dict[Config, set[int]] = defaultdict(set)  # lengths at which some training of a recipe is evaluated
    trained = []
    for i in sorted(range(len(rows)), key=lambda i: rows[i][schema.IMAGES], reverse=True):
        if rows[i][schema.IMAGES] not in passed[recipes[i]]:
            passed[recipes[i]].update(evaluated_lengths(stopped[i]))
            trained.append(i)
    trained.sort(key=lambda i: (recipes.index(recipes[i]), i))
    return [(rows[i][schema.TRIAL_ID], stopped[i]) for i in trained]


def _with_stop(config: Config, fraction: float) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"stop": fraction})})


def _remeasurements(row: Row, config: Config, settings: Confirm) -> list[Remeasurement]:
    """Sets of fresh samples of a candidate's checkpoint."""
    size, first = config.evaluation.samples, row[schema.SAMPLES_SEED] + 1
    sets = 1 if settings.samples is None else max(1, -(-settings.samples // size))
    place = (row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.CHECKPOINT])
    return [Remeasurement(*place, seed) for seed in range(first, first + sets)]
