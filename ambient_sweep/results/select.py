"""From the evaluations table to the frontier and to one config: candidates, views and named rules.

Every evaluated checkpoint is a candidate, so training length and sampling endpoint are chosen with the config. Values
of different measures, references or numbers of samples are never ranked together.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.results import schema

VIEWS = ("checkpoints", "full-length", "per-trial")
RULES = ("knee", "max-memorization=C", "chebyshev=W")
COMPARABLE = (schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, schema.REFERENCE_KEY)

Row = dict[str, Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """What a rule picked from the evaluations table, and the next best by the same rule."""

    row: Row
    rule: str
    runner_up: Row | None  # None where there is no other
    reason: str


def candidates(table: pa.Table) -> pa.Table:
    """The rows that may be ranked: both objectives finite, on all the samples asked for, and as many as any such row.

    The role does not matter (the baseline competes), nor how the trial ended (a checkpoint outlives it). Raises
    UserError for a table that mixes measures or references.
    """
    for name in COMPARABLE:
        values = sorted(set(table[name].to_pylist()))
        if len(values) > 1:
            raise UserError(
                f"{name}: the table mixes {' and '.join(values)}, which do not compare; keep the rows of one"
            )
    return table.filter(pa.array(_candidate_mask(table)))


def front_mask(table: pa.Table) -> Mask:
    """Which rows are on the frontier over all candidates that compare with them; for the column `on_front`."""
    keys = list(zip(*(table[name].to_pylist() for name in COMPARABLE), strict=True))
    result = np.zeros(table.num_rows, dtype=bool)
    for key in set(keys):
        group = np.array([other == key for other in keys])
        rows = table.filter(pa.array(group))
        mask = _candidate_mask(rows)
        mask[mask] = pareto.pareto_mask(objectives(rows.filter(pa.array(mask))))
        result[group] = mask
    return result


def frontier(table: pa.Table, view: str = "checkpoints") -> pa.Table:
    """The candidates of `view` that no other one beats in both objectives, by rising memorization.

    Views: `checkpoints`: all; `full-length`: those at their trial's full length; `per-trial`: of each trial, the
    longest at its main endpoint. Raises UserError as `candidates`, and for an unknown view.
    """
    rows = _viewed(candidates(table), view)
    front = rows.filter(pa.array(pareto.pareto_mask(objectives(rows))))
    return front.take(pa.array(_order(front, objectives(front)[:, 1])))


def select(table: pa.Table, rule: str, view: str = "checkpoints") -> Choice:
    """The row of the evaluations table that `rule` picks, with the runner-up.

    `knee`: farthest below the line between the frontier's ends; `max-memorization=C`: the best fidelity with
    memorization <= C; `chebyshev=W`: least max(W * fidelity, (1 - W) * memorization), scaled over the frontier. Ties go
    to the lower memorization, the better fidelity, the shorter training. Raises UserError for an unknown rule or a
    number out of range, and where no row qualifies.
    """
    name, _, text = rule.partition("=")
    rows = _viewed(candidates(table), view)
    if rows.num_rows == 0:
        raise UserError(f"{rule}: nothing to pick from; no evaluation has finite values of both objectives yet")
    if rule == "knee":
        return _knee(frontier(rows, view), rule)
    if name == "max-memorization":
        return _max_memorization(rows, rule, _number(rule, text, 0, 1, closed=True))
    if name == "chebyshev":
        return _chebyshev(frontier(rows, view), rule, _number(rule, text, 0, 1, closed=False))
    raise UserError(f"unknown rule {rule!r}; use {', '.join(RULES[:-1])} or {RULES[-1]}")


def best_config(choice: Choice) -> Config:
    """The config that trains the chosen model: the row's own, stopped at the chosen length, with its one endpoint.

    The schedules keep their horizon, so that training passes through the chosen checkpoint and ends there.
    """
    values = {key: choice.row[key] for key in knobs()}
    values["training.stop"] = choice.row[schema.FRACTION]
    values["evaluation.endpoints"] = [choice.row[schema.ENDPOINT]]
    return build_config(values, where=f"trial {choice.row[schema.TRIAL_ID]}")


def objectives(rows: pa.Table) -> NDArray[np.float64]:
    """Fidelity and memorization, [N, 2]; both are minimised; a missing value is NaN."""
    columns = [rows[name].to_numpy() for name in (schema.FIDELITY, schema.MEMORIZATION)]
    return np.stack(columns, axis=1).astype(np.float64)


# -- rules ----------------------------------------------------------------------------------------------------------


def _knee(front: pa.Table, rule: str) -> Choice:
    distance = pareto.knee_distance(objectives(front)).round(12)
    reason = f"the frontier's knee: of its {front.num_rows} points, farthest below the line between its ends"
    return _choice(front, _order(front, -distance, objectives(front)[:, 1]), rule, reason)


def _max_memorization(rows: pa.Table, rule: str, bound: float) -> Choice:
    values = objectives(rows)
    allowed = rows.filter(pa.array(values[:, 1] <= bound))
    fidelity, memorization = _measures(rows)
    if allowed.num_rows == 0:
        least = _row(rows, int(_order(rows, values[:, 1])[0]))
        raise UserError(
            f"{rule}: no candidate memorizes so little; the least {memorization} is {least[schema.MEMORIZATION]:.4g} "
            f"(trial {least[schema.TRIAL_ID]} after {least[schema.IMAGES]} images); use a higher bound"
        )
    reason = (
        f"the lowest {fidelity} of the {allowed.num_rows} candidates, out of {rows.num_rows}, "
        f"with {memorization} <= {bound:g}"
    )
    return _choice(allowed, _order(allowed, *objectives(allowed).T), rule, reason)


def _chebyshev(front: pa.Table, rule: str, weight: float) -> Choice:
    terms = pareto.scale(objectives(front), objectives(front)) * [weight, 1 - weight]
    fidelity, memorization = _measures(front)
    reason = (
        f"the least max({weight:g} * {fidelity}, {1 - weight:g} * {memorization}), "
        f"both scaled to 0..1 over the {front.num_rows} points of the frontier"
    )
    order = _order(front, terms.max(axis=1).round(12), terms.sum(axis=1).round(12), objectives(front)[:, 1])
    return _choice(front, order, rule, reason)


def _number(rule: str, text: str, low: float, high: float, *, closed: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (low <= value <= high if closed else low < value < high):
        raise UserError(f"{rule}: expected a number {'from' if closed else 'strictly between'} {low} "
                        f"{'to' if closed else 'and'} {high} after '='")  # fmt: skip
    return value


# -- rows -----------------------------------------------------------------------------------------------------------


def _candidate_mask(table: pa.Table) -> Mask:
    finite = np.isfinite(objectives(table)).all(axis=1)
    samples = table[schema.SAMPLES].to_numpy()
    full = finite & (samples >= table[schema.SAMPLES_ASKED].to_numpy())
    return np.asarray(full & (samples == samples[full].max(initial=0)))


def _viewed(rows: pa.Table, view: str) -> pa.Table:
    if view == "checkpoints":
        return rows
    if view == "full-length":
        return rows.filter(pa.array(rows[schema.IMAGES].to_numpy() >= rows[schema.IMAGES_ASKED].to_numpy()))
    if view == "per-trial":
        longest: dict[str, tuple[int, int]] = {}
        columns = (rows[name].to_pylist() for name in (schema.TRIAL_ID, schema.MAIN_ENDPOINT, schema.IMAGES))
        for index, (trial_id, main, images) in enumerate(zip(*columns, strict=True)):
            if main and images > longest.get(trial_id, (0, 0))[0]:
                longest[trial_id] = (images, index)
        return rows.take(pa.array(sorted(index for _, index in longest.values()), pa.int64()))
    raise UserError(f"unknown view {view!r}; use {', '.join(VIEWS[:-1])} or {VIEWS[-1]}")


def _order(rows: pa.Table, *keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row numbers by `keys`, the first one first, then by whatever makes the order complete."""
    ids, endpoints = (np.array(rows[name].to_pylist(), dtype=str) for name in (schema.TRIAL_ID, schema.ENDPOINT))
    last = (objectives(rows)[:, 1], objectives(rows)[:, 0], rows[schema.IMAGES].to_numpy(), ids, endpoints)
    return np.asarray(np.lexsort((*keys, *last)[::-1]), dtype=np.int64)


def _choice(rows: pa.Table, order: NDArray[np.int64], rule: str, reason: str) -> Choice:
    runner_up = _row(rows, int(order[1])) if len(order) > 1 else None
    return Choice(_row(rows, int(order[0])), rule, runner_up, reason)


def _row(rows: pa.Table, index: int) -> Row:
    row: Row = rows.slice(index, 1).to_pylist()[0]
    return row


def _measures(rows: pa.Table) -> tuple[str, str]:
    return rows[schema.FIDELITY_MEASURE][0].as_py(), rows[schema.MEMORIZATION_MEASURE][0].as_py()
