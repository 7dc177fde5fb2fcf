"""From the evaluations table to one config: named rules over the candidates.

Rules compare candidates by their first full measurement. The rows that they return are the candidates' last, whose values
were not chosen for being good (see candidates.py).

Of a file, only the columns that rules need are read (`read_candidates`), then the rows that they pick (`complete`).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, knobs, write_config
from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.candidates import (
    BY_MEMORIZATION,
    COMPARABLE,
    MODEL,
    ORDER,
    PLACE,
    RECIPE,
    Floats,
    Ints,
    Row,
    candidate_mask,
    clean_mask,
    distinct,
    objectives,
    present,
    stated,
    untouched_mask,
)
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import read_rows, read_table
from ambient_sweep.text import counted, sampled

NEEDED = (
    *COMPARABLE, *PLACE, schema.ROLE, schema.SAMPLES, schema.EVALUATION_SEED, schema.SAMPLES_ASKED, schema.SAMPLES_SEED,
    schema.SEED, schema.SIGMA, schema.OBJECTIVE, schema.LEARNING_RATE, schema.ON_FRONT,
    *(end(name) for name in (schema.FIDELITY, schema.MEMORIZATION) for end in (str, schema.low, schema.high)),
)  # fmt: skip
ROW = "row"  # the column of a row's number in its file


@dataclass(frozen=True)
class Choice:
    """The row that a rule picked from the evaluations table, and why it and not another."""

    row: Row
    reason: str
    others: tuple[tuple[Row, str], ...]  # on the frontier, the next best first, and how each does by the rule
    warning: str | None = None  # where no candidate meets the rule's bound


@dataclass(frozen=True)
class Ranking:
    """Candidates by a rule, the best first, and how each does by it."""

    order: Ints  # positions
    scores: dict[int, str]  # of the positions on the frontier
    reason: str
    warning: str | None = None


@dataclass(frozen=True)
class Candidates:
    """The different candidates of a table, at least one, by rising memorization: what competes, and what is stated."""

    table: pa.Table
    stated: Ints  # row numbers of their last measurements, [N]
    compared: Floats  # [N, 2], of their first measurement
    values: Floats  # [N, 2], of their last

    @classmethod
    def of(cls, table: pa.Table) -> "Candidates":
        """Raises UserError where there is none or measures are mixed."""
        mask = candidate_mask(table)
        if not mask.any():
            raise UserError("nothing to pick from; no evaluation has finite values of both objectives yet")
        few = table.select(present(table, (*ORDER, *MODEL, *RECIPE)))
        rows = np.flatnonzero(mask)[distinct(few.filter(pa.array(mask)))]
        rows = rows[pc.sort_indices(few.select(ORDER).take(pa.array(rows)), BY_MEMORIZATION)]
        last, values = stated(table, rows), objectives(table)
        return cls(table, last, values[rows], values[last])

    @cached_property
    def front(self) -> Ints:
        """Positions of the candidates on the frontier."""
        return np.flatnonzero(pareto.pareto_mask(self.compared))

    @cached_property
    def scaled(self) -> Floats:
        """Objectives of the frontier's candidates [F, 2], from 0 to 1 over it and the frontier of clean training together.

        So differences count by what they are worth: a frontier of near-equal memorization is not stretched.
        """
        clean = self.compared[clean_mask(self.table)[self.stated]]
        return pareto.scale(np.concatenate([self.compared[self.front], clean[pareto.pareto_mask(clean)]]))[
            : len(self.front)
        ]

    @cached_property
    def by(self) -> str:
        """What follows a compared value in a text, where others are stated."""
        return "" if np.array_equal(self.compared, self.values) else ", by the samples that made the choice"

    def row(self, position: int) -> Row:
        found: Row = self.table.slice(self.stated[position], 1).to_pylist()[0]
        return found


def select(table: pa.Table, rule: str) -> Choice:
    """The row of the evaluations table that `rule` picks.

    `knee`: farthest below the line between the ends of the frontier and of clean training's frontier together;
    `max-memorization=C`: the best fidelity with memorization <= C; `max-fidelity=F`: the least memorization with fidelity
    <= F; where no candidate meets a bound, the one that misses it least, with a warning; `chebyshev=W1,W2`: least
    max(W1 * fidelity, W2 * memorization), scaled over the same frontiers. Ties go to the lower memorization, the better
    fidelity, the shorter training. Raises UserError for an unknown rule, a number out of range, and where nothing was
    measured.
    """
    name, equals, text = rule.partition("=")
    if name not in ("knee", "max-memorization", "max-fidelity", "chebyshev") or bool(equals) == (name == "knee"):
        known = "knee, max-memorization=C, max-fidelity=F or chebyshev=W1,W2"
        raise UserError(f"--rule: unknown rule {rule!r}; use {known}")
    bounds = _numbers(rule, text, 2 if name == "chebyshev" else 1) if equals else []
    found = Candidates.of(table)
    if name == "knee":
        ranking = _knee(found)
    elif name == "chebyshev":
        ranking = _chebyshev(found, bounds)
    else:
        ranking = _bounded(found, int(name == "max-memorization"), bounds[0])
    left = ranking.order[1:]
    others = tuple((found.row(i), ranking.scores[i]) for i in left[np.isin(left, found.front)].tolist())
    return Choice(found.row(ranking.order[0]), ranking.reason, others, ranking.warning)


def read_candidates(path: Path, within: str = "") -> pa.Table:
    """Of an evaluations table, the columns that `select` needs, and ROW. Raises UserError as `read_table`.

    within: a folder; the rows of checkpoints in it are kept.
    """
    folder = (schema.CHECKPOINT,) if within else ()
    table = read_table(path, (*NEEDED, *folder), varying=(*schema.MEASURES, *RECIPE))
    if schema.ON_FRONT not in table.column_names:
        raise UserError(f"{path}: not a table of evaluations; give evaluations.parquet or the folder of a run")
    table = table.append_column(ROW, pa.array(np.arange(table.num_rows)))
    if not within:
        return table
    return table.filter(pc.starts_with(pc.binary_join_element_wise(table[schema.CHECKPOINT], "", "/"), f"{within}/"))


def complete(choice: Choice, path: Path) -> Choice:
    """A choice from `read_candidates(path)`, its row with all columns."""
    return replace(choice, row=read_rows(path, [choice.row[ROW]]).to_pylist()[0])


def best_config(choice: Choice) -> Config:
    """The config that trains and measures the chosen model again, to the values that the table states.

    It is the row's own, stopped at its length, with its endpoint alone (a generator has no other), on the row's samples.
    The schedules keep their horizon, so that training ends at the chosen checkpoint.
    """
    row = choice.row
    values = {key: row[key] for key in knobs()}
    values["training.stop"] = row[schema.FRACTION]
    if row[schema.ENDPOINT] != "distilled":
        values["evaluation.endpoints"] = [row[schema.ENDPOINT]]
    values[schema.SAMPLES_ASKED], values[schema.SAMPLES_SEED] = row[schema.SAMPLES], row[schema.EVALUATION_SEED]
    return build_config(values, where=f"trial {row[schema.TRIAL_ID]}")


def point(row: Row) -> str:
    """A row of the evaluations table: what it is, and its objectives with their 95 % intervals."""
    teacher = "teacher of " * (row["objective.kind"] == "ambient_distilled" and row["endpoint"] != "distilled")
    return (
        f"trial {row['trial_id']} ({row['role']}), {teacher}{row['objective.kind']} at sigma {row['observed.sigma']:.3g}, "
        f"{row['images']:,} images, {sampled(row['endpoint'])}: {_values(row)}{', unusable' * bool(row['problem'])}"
    )


def untouched_line(table: pa.Table) -> str:
    """What the untouched base of a sweep of LoRA measures, on the most samples; empty where it was not measured."""
    rows = table.filter(pa.array(untouched_mask(table) & np.isfinite(objectives(table)).all(axis=1)))
    if not rows.num_rows:
        return ""
    row = rows.sort_by([(schema.SAMPLES, "descending"), *BY_MEMORIZATION]).slice(0, 1).to_pylist()[0]
    what = f"Untouched base: {_values(row)} on {row[schema.SAMPLES]:,} samples"
    return f"{what}; memorization beyond this is what fine-tuning copied."


def _values(row: Row) -> str:
    """The objectives of a row with their 95 % intervals."""
    return ", ".join(
        f"{row[f'{name}_measure']} {row[name]:.4g}"
        + (f" [{row[f'{name}_low']:.4g}, {row[f'{name}_high']:.4g}]" if row[f"{name}_low"] is not None else "")
        for name in (schema.FIDELITY, schema.MEMORIZATION)
    )


def write_best(choice: Choice, rule: str, run: str, path: Path) -> None:
    """Writes the config of a complete choice from the run of that name, with what it is and why above it."""
    write_config(best_config(choice), path, f"{run}, {rule}: {choice.reason}\n{point(choice.row)}")


# -- rules: ties keep the order of the candidates ------------------------------------------------------------------------


def _knee(found: Candidates) -> Ranking:
    front = found.front
    distance = ((1 - found.scaled.sum(axis=1)) / math.sqrt(2)).round(12)
    reason = (
        f"the knee of the frontier: of its {len(front)} points, the farthest below the line between the ends of it and of "
        "clean training"
    )
    order = np.argsort(-distance, kind="stable")
    scores = {int(front[i]): f"{distance[i]:.2f} below the line, against {distance.max():.2f}{found.by}" for i in order}
    return Ranking(front[order], scores, reason if len(front) > 1 else _alone(found))


def _chebyshev(found: Candidates, weights: list[float]) -> Ranking:
    front = found.front
    terms = found.scaled * weights
    largest = terms.max(axis=1).round(12)
    order = np.lexsort((terms.sum(axis=1).round(12), largest))
    reason = (
        f"the least max({weights[0]:g} * fidelity, {weights[1]:g} * memorization), both scaled to 0..1 over the "
        f"frontier ({len(front)} points) and clean training"
    )
    scores = {int(front[i]): f"{largest[i]:.2f}, against {largest.min():.2f}{found.by}" for i in order}
    return Ranking(front[order], scores, reason if len(front) > 1 else _alone(found))


def _bounded(found: Candidates, bounded: int, bound: float) -> Ranking:
    """The best in one objective with the other at most `bound`, in both measurements; else what misses the bound least."""
    names = [found.table[name][0].as_py() for name in (schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE)]
    values = np.maximum(found.compared, found.values)[:, bounded]
    by = np.where(values > found.values[:, bounded], found.by, "")
    missed = (values - bound).clip(min=0.0)
    order = np.lexsort((found.compared[:, 1 - bounded], missed))
    met, wanted = int((missed == 0).sum()), f"{names[bounded]} <= {bound:g}"
    best = found.compared[order[0], 1 - bounded]
    scores = {
        i: f"{names[bounded]} {values[i]:.4g} > {bound:g}{by[i]}"
        if missed[i]
        else f"{names[1 - bounded]} {found.compared[i, 1 - bounded]:.4g}, against {best:.4g}{found.by}"
        for i in found.front.tolist()
    }
    if met == 0:
        reason = f"the nearest to {wanted} of {counted(len(values), 'candidate')}"
        nearest = f"{values[order[0]]:.4g}{by[order[0]]}"
        return Ranking(order, scores, reason, f"no candidate has {wanted}; the nearest has {nearest}")
    reason = f"the lowest {names[1 - bounded]} of the {met} candidates, out of {len(values)}, with {wanted}"
    if met == 1:
        reason = f"the only one of {counted(len(values), 'candidate')} with {wanted}"
    return Ranking(order, scores, reason)


def _alone(found: Candidates) -> str:
    if len(found.compared) == 1:
        return "the only candidate: there is nothing to compare it with"
    return f"the only point of the frontier: none of the {len(found.compared)} candidates is better in either objective"


def _numbers(rule: str, text: str, count: int) -> list[float]:
    """The numbers after '='; two of them are weights, from 0, not both 0."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    weights = count == 1 or (min(values, default=-1) >= 0 and sum(values) > 0)
    if len(values) != count or not all(map(math.isfinite, values)) or not weights:
        expected = "a number after '='" if count == 1 else "two weights after '=', as in 0.5,0.5"
        raise UserError(f"--rule {rule}: expected {expected}")
    return values
