"""What is done after the search, so that the frontier is more than luck: checkpoints measured and trained again.

Every checkpoint that could be on the frontier is measured on several times as many fresh samples, and so are the other
runs of its recipe, whose mean would else be that of the lucky ones; these measurements alone compete. Those on the frontier
are then measured once more, on as many fresh samples: the best of many measurements are lucky ones, the second are not, and
these are the values that are stated (results/frontier/candidates.py). The same holds for clean training, the rival of noise.
With `confirm.seeds`, the best are trained again as well.

Pure planning, from the evaluations table: no Ray, no files. A plan depends on what is in the table alone: planned anew
after an interruption it goes on, with the same ids of trials.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri

from ambient_sweep import pareto, rng
from ambient_sweep.config import Config, build_config, dump, knobs
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.candidates import (
    PLACE,
    Floats,
    Ints,
    Mask,
    Row,
    candidates,
    clean_mask,
    distinct,
    errors,
    is_value,
    measured_mask,
    objectives,
    own_mask,
    untouched_mask,
)
from ambient_sweep.results.frontier.standings import recipe_labels
from ambient_sweep.results.tables import schema
from ambient_sweep.sweep.space.definition import Confirm, Role, SweepTrial
from ambient_sweep.text import counted

REPLICATE: Role = "replicate"

MARGIN = 0.1  # of a front's extent, from its worst values to the reference point of contributions
DRAWS = 500  # Monte Carlo error of a probability: 0.013 at LEAST
LEAST = 0.1  # probability of being on the true frontier from which a candidate is measured again


@dataclass(frozen=True)
class Remeasurement:
    """A checkpoint to be measured once more, at all its endpoints, on fresh samples."""

    trial_id: str
    images: int
    checkpoint: str  # relative to the sweep's folder
    seed: int  # of the samples: evaluation.seed
    samples: int


@dataclass(frozen=True)
class Plan:
    """The next step of a confirmation: checkpoints to be measured, or trials to be trained, the best first."""

    line: str = ""  # for people, before it begins
    remeasurements: tuple[Remeasurement, ...] = ()
    replicates: tuple[SweepTrial, ...] = ()  # with their values that differ from the sweep's base


def plan(evaluations: pa.Table, settings: Confirm, base: Mapping[str, Any], ended: Iterable[str] = ()) -> Plan:
    """What is to be done next, in the table of a sweep whose base is `base`; empty at the end.

    ended: trials that are not to be trained again. Raises UserError where the table mixes measures, and where more samples
    were measured already than `settings` asks for, which would compete alone.
    """
    replicate = is_value(evaluations, schema.ROLE, REPLICATE)
    own = evaluations.filter(pa.array(own_mask(evaluations) & ~replicate))
    found = candidates(own)
    if found.num_rows == 0:
        return Plan()
    if settings.factor:
        most = pc.max(pc.divide(evaluations[schema.SAMPLES], evaluations[schema.SAMPLES_ASKED])).as_py()
        if most > settings.factor:
            raise UserError(f"confirm.samples={settings.samples}: {most}x were measured already; give that or more")
        could = found.take(
            pa.array(_rows(found, lambda rows: front_probability(objectives(rows), errors(rows)) >= LEAST))
        )
        reference = own.filter(pa.array(untouched_mask(own) & measured_mask(own)))
        again = _remeasurements(evaluations, pa.concat_tables([could, reference]), settings, 1)
        if again:
            return Plan(f"measuring what could be on the frontier again, {_of(again)}", again)
        found = candidates(evaluations)
        front = found.take(pa.array(_rows(found, lambda rows: pareto.pareto_mask(objectives(rows)))))
        again = _remeasurements(evaluations, front, settings, 2)
        if again:
            return Plan(f"measuring the frontier once more, for the values to state, {_of(again)}", again)
    best = _best(found, settings.top if settings.seeds else 0)
    done = set(ended)
    left = tuple(trial for trial in _replicates(best, own, settings.seeds, base) if trial.trial_id not in done)
    if left:
        return Plan(f"training the best again with fresh seeds, {counted(len(left), 'training')}", replicates=left)
    lengths = pa.array([row[schema.IMAGES] for row in best], pa.int64())
    trained = evaluations.filter(pa.array(replicate & own_mask(evaluations)))
    again = _remeasurements(evaluations, trained.filter(pc.is_in(trained[schema.IMAGES], lengths)), settings, 1)
    return Plan(f"measuring what was trained again, {_of(again)}", again) if again else Plan()


def front_probability(points: Floats, errors: Floats) -> Floats:
    """The share of DRAWS in which each point is on the front, with normal noise drawn around all of them.

    points [N, 2]: measured values, both minimised; errors [N, 2]: their standard errors, from 0. A point's share does not
    depend on its place among the rows.
    """
    order = np.lexsort((*errors.T, *points.T))
    points, errors, hits = points[order], errors[order], np.zeros(len(points))
    for normal in ndtri(rng.uniform("front", 0, 0, DRAWS, points.size)):
        hits += pareto.pareto_mask(points + errors * normal.reshape(points.shape))
    return np.asarray(hits[np.argsort(order)] / DRAWS)


def order_candidates(points: Floats) -> Ints:
    """Order of points [N, 2], the most worth training again first: by nondominated rank.

    Within a rank by exclusive hypervolume, against the rank's worst values and a tenth of its extent beyond.
    """
    ranks = pareto.nondominated_rank(points)
    worth = np.zeros(len(points))
    for rank in range(int(ranks.max(initial=-1)) + 1):
        front = points[ranks == rank]
        low, high = front.min(axis=0), front.max(axis=0)
        extent = np.where(high > low, high - low, 1.0)
        worth[ranks == rank] = pareto.contributions((front - low) / extent, (high - low) / extent + MARGIN)
    return np.asarray(np.lexsort((*points.T, -worth.round(12), ranks)))


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


def _of(again: Sequence[Remeasurement]) -> str:
    return f"{counted(len(again), 'checkpoint')} on {again[0].samples:,} samples each" if again else ""


def _rows(found: pa.Table, kept: Callable[[pa.Table], Mask]) -> Ints:
    """Row numbers of the different models that `kept` marks, among all candidates or among those of clean training, and of
    the other runs of their recipes."""
    rows = distinct(found)
    clean = rows[clean_mask(found)[rows]]
    marked = [i for some in (rows, clean) if len(some) for i in some[kept(found.take(pa.array(some)))]]
    recipes = recipe_labels(found)
    return rows[np.isin(recipes[rows], recipes[marked])]


def _remeasurements(table: pa.Table, rows: pa.Table, settings: Confirm, offset: int) -> tuple[Remeasurement, ...]:
    """The checkpoints of `rows` that are not yet measured on samples of the seed that follows theirs by `offset`."""
    names = (schema.TRIAL_ID, schema.IMAGES, schema.ENDPOINT, schema.EVALUATION_SEED, schema.SAMPLES)
    measured = set(zip(*(table[name].to_pylist() for name in names), strict=True))
    again = dict[Remeasurement, None]()
    for row in rows.to_pylist() if settings.factor else []:
        seed, samples = row[schema.SAMPLES_SEED] + offset, row[schema.SAMPLES_ASKED] * settings.factor
        if (*(row[name] for name in PLACE), seed, samples) not in measured:
            again[Remeasurement(row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.CHECKPOINT], seed, samples)] = None
    return tuple(again)


def _best(found: pa.Table, top: int) -> list[Row]:
    """The first `top` different checkpoints, the most worth training again first."""
    found = found.take(pa.array(distinct(found)))
    order = order_candidates(objectives(found))
    chosen: dict[tuple[str, int], Row] = {}
    for row in found.take(pa.array(order)).to_pylist():
        chosen.setdefault((row[schema.TRIAL_ID], row[schema.IMAGES]), row)  # by the better of its endpoints
    return list(chosen.values())[:top]


def _replicates(best: Sequence[Row], own: pa.Table, seeds: int, base: Mapping[str, Any]) -> list[SweepTrial]:
    """The best, each with the same fresh seeds, so that what they share is trained once; seed by seed."""
    moved = {key: base[key] for key in ("model.base",) if key in base}
    configs = [build_config({key: row[key] for key in knobs()}, moved, where=row[schema.TRIAL_ID]) for row in best]
    used = set(own[schema.SEED].to_pylist())
    fresh = [seed for seed in range(len(used) + seeds) if seed not in used][:seeds]
    replicates = []
    for seed in fresh:
        for trial_id, config in _trainings(best, configs):
            whole = dump(config.model_copy(update={"seed": seed}))
            values = {key: value for key, value in whole.items() if key not in base or base[key] != value}
            replicates.append(SweepTrial(REPLICATE, values, trial_id, f"{trial_id}.{config.length}.seed-{seed}"))
    return replicates
