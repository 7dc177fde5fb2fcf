"""What is done after the search, so that the frontier is more than luck: which candidates are measured and trained again.

Pure planning, from the evaluations table: no Ray, no files. A plan depends on what the search found alone, not on what
was confirmed since: planned anew after an interruption it is the same, ids of trials included.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, dump, knobs
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.results.frontier.candidates import Row, candidates, groups
from ambient_sweep.results.frontier.recipes import Recipes
from ambient_sweep.results.tables import schema
from ambient_sweep.sweep.space.definition import Confirm, Role, SweepTrial

Cost = Callable[[Config], int]  # images that a config takes to train

REPLICATE: Role = "replicate"
CONFIRMING = re.compile(r".+\.seed-\d+")  # ids of trials that a plan asks for
MARGIN = 0.1  # of a front's extent, from its worst values to the reference point of contributions


@dataclass(frozen=True)
class Candidate:
    """A config and its training length, by a trial that holds its checkpoint; the objectives are its better endpoint's."""

    trial_id: str
    images: int
    rank: int  # nondominated rank among all recipes; 0: on the front
    fidelity: float
    memorization: float


@dataclass(frozen=True)
class ReEvaluation:
    """A checkpoint to be measured once more, at all its endpoints, on samples of a fresh seed."""

    trial_id: str
    images: int
    checkpoint: str  # relative to the sweep's folder
    seed: int  # of the samples: evaluation.seed
    values: dict[str, Any]  # of the checkpoint's config, with that seed


@dataclass(frozen=True)
class Replicate:
    """A trial with a fresh training seed, up to the length that is to be confirmed."""

    trial: SweepTrial  # its values are those that differ from the sweep's base
    seed: int
    images: int  # where it ends
    cost: int  # images to train


@dataclass(frozen=True)
class Plan:
    """What a confirmation is to do, best candidates first."""

    candidates: tuple[Candidate, ...]
    reevaluations: tuple[ReEvaluation, ...]
    replicates: tuple[Replicate, ...]
    images: int  # to train, for all replicates
    left_out: int  # replicates that the budget of images has no room for

    def lines(self) -> list[str]:
        """What is said before it begins."""
        front = sum(candidate.rank == 0 for candidate in self.candidates)
        lines = [
            f"confirming {len(self.candidates)} candidates, {front} of them on the frontier: "
            f"{len(self.reevaluations)} measurements on fresh samples, {len(self.replicates)} trainings with fresh "
            f"seeds, {self.images:,} images to train"
        ]
        if self.left_out:
            lines.append(f"{self.left_out} trainings left out, for which confirm.images has no room")
        return lines


def most_images(settings: Confirm, images: int) -> int:
    """The most images that a confirmation may train, where a trial is `images` long; said before the search."""
    most = settings.top * settings.seeds * images
    return most if settings.images is None else min(most, settings.images)


def plan(
    evaluations: pa.Table, settings: Confirm, *, base: Mapping[str, Any] | None = None, cost: Cost | None = None
) -> Plan:
    """The confirmation of what a search found.

    Candidates are the first `settings.top` different (config, length), by nondominated rank, then by contribution to the
    hypervolume within their rank; a recipe that the search trained with several seeds is taken at its mean. Each is
    measured on `settings.samples` fresh samples, in sets of evaluation.samples (only sets of one size compare), and
    trained with `settings.seeds` fresh seeds, the same for all, so that what they share is trained once; seed by seed, best
    candidates first, while `settings.images` lasts. A config wanted at several lengths is trained once, to the longest.

    `base`: the sweep's, left out of the values; `cost`: images that are left to train, where not all are (stages). Raises
    UserError where the table mixes measures.
    """
    searched = evaluations.filter(pa.array([not _confirming(pair) for pair in _pairs(evaluations)], pa.bool_()))
    found = candidates(searched)
    if found.num_rows == 0:
        return Plan((), (), (), 0, 0)
    chosen = _chosen(found, settings.top)
    configs = [build_config({key: row[key] for key in knobs()}, where=row[schema.TRIAL_ID]) for _, row in chosen]
    seeds = _fresh(set(searched["seed"].to_pylist()), settings.seeds)
    replicates, left_out, left = [], 0, settings.images
    trainings = _trainings([row for _, row in chosen], configs)
    for seed in seeds:
        for trial_id, config in trainings:
            fresh = config.model_copy(update={"seed": seed})
            images = fresh.images_at(fresh.training.stop)
            price = images if cost is None else cost(fresh)
            if left is not None and price > left:
                left_out += 1
                continue
            left = None if left is None else left - price
            values = {k: v for k, v in dump(fresh).items() if base is None or k not in base or base[k] != v}
            name = f"{trial_id}.{images}.seed-{seed}"
            replicates.append(Replicate(SweepTrial(REPLICATE, values, trial_id, name), seed, images, price))
    again = [each for (_, row), config in zip(chosen, configs, strict=True) for each in _again(row, config, settings)]
    images = sum(replicate.cost for replicate in replicates)
    return Plan(tuple(each for each, _ in chosen), tuple(again), tuple(replicates), images, left_out)


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


def _chosen(found: pa.Table, top: int) -> list[tuple[Candidate, Row]]:
    """The candidates with the row of a trial that holds each; endpoints of one checkpoint are one candidate."""
    recipes, pairs = Recipes.of(found), _pairs(found)
    rows = groups(recipes.labels.tolist())
    holders = [min(group, key=lambda i: (pairs[i][1] == REPLICATE, pairs[i][0])) for group in rows]
    means = recipes.mean[recipes.labels[holders]]
    order, ranks = order_candidates(means)
    images = found[schema.IMAGES].to_pylist()
    chosen: dict[tuple[str, int], tuple[Candidate, Row]] = {}
    for index in order:
        holder = int(holders[index])
        key = (pairs[holder][0], images[holder])
        if key not in chosen and len(chosen) < top:
            fidelity, memorization = means[index].tolist()
            row = found.slice(holder, 1).to_pylist()[0]
            chosen[key] = (Candidate(*key, int(ranks[index]), fidelity, memorization), row)
    return list(chosen.values())


def _trainings(rows: Sequence[Row], configs: Sequence[Config]) -> list[tuple[str, Config]]:
    """The trial to be trained again and its config, stopped where it is wanted last; the best candidates' first."""
    stopped = [_stopped(config, row[schema.FRACTION]) for row, config in zip(rows, configs, strict=True)]
    kinds = groups([json.dumps({**dump(each), "seed": 0, "training.stop": 0}, sort_keys=True) for each in stopped])
    found = []
    for kind in kinds:
        longest = max(kind, key=lambda i: rows[i][schema.IMAGES])
        passed = evaluated_lengths(stopped[longest])
        alone = [i for i in kind if i != longest and rows[i][schema.IMAGES] not in passed]
        wanted = {rows[i][schema.IMAGES]: i for i in reversed([longest, *alone])}
        first = min(kind)
        found += [(first, rows[i][schema.TRIAL_ID], stopped[i]) for i in sorted(wanted.values())]
    return [(trial_id, config) for _, trial_id, config in sorted(found, key=lambda each: each[0])]


def _stopped(config: Config, fraction: float) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"stop": fraction})})


def _again(row: Row, config: Config, settings: Confirm) -> list[ReEvaluation]:
    """Sets of fresh samples of a candidate's checkpoint."""
    size, first = config.evaluation.samples, row[schema.SAMPLES_SEED] + 1
    sets = 1 if settings.samples is None else max(1, -(-settings.samples // size))
    place = (row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.CHECKPOINT])
    return [ReEvaluation(*place, seed, dump(config) | {"evaluation.seed": seed}) for seed in range(first, first + sets)]


def _fresh(used: set[int], count: int) -> list[int]:
    """The least seeds that no evaluated trial of the search has."""
    return [seed for seed in range(len(used) + count) if seed not in used][:count]


def _pairs(rows: pa.Table) -> list[tuple[str, str]]:
    return list(zip(rows[schema.TRIAL_ID].to_pylist(), rows[schema.ROLE].to_pylist(), strict=True))


def _confirming(pair: tuple[str, str]) -> bool:
    return pair[1] == REPLICATE and CONFIRMING.fullmatch(pair[0]) is not None
