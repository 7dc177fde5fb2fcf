"""From the evaluations table to one config: named rules over the candidates."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.candidates import Ints, Row, by_memorization, candidates, distinct, objectives
from ambient_sweep.results.frontier.recipes import recipe_labels
from ambient_sweep.results.tables import schema
from ambient_sweep.text import counted


@dataclass(frozen=True)
class Choice:
    """The row that a rule picked from the evaluations table, and the best row of another recipe."""

    row: Row
    runner_up: Row | None  # None where every candidate has the same recipe
    reason: str


def select(table: pa.Table, rule: str) -> Choice:
    """The row of the evaluations table that `rule` picks, with a runner-up of another recipe.

    `knee`: farthest below the line between the frontier's ends; `max-memorization=C`: the best fidelity with
    memorization <= C; `chebyshev=W`: least max(W * fidelity, (1 - W) * memorization), scaled over the frontier. Ties go
    to the lower memorization, the better fidelity, the shorter training. Raises UserError for an unknown rule, a number
    out of range, and where no row qualifies.
    """
    rows = candidates(table)
    rows = by_memorization(rows.take(pa.array(distinct(rows))))
    if rows.num_rows == 0:
        raise UserError(f"--rule {rule}: nothing to pick from; no evaluation has finite values of both objectives yet")
    front = rows.filter(pa.array(pareto.pareto_mask(objectives(rows))))
    only = "the only candidate: there is nothing to compare it with"
    if rows.num_rows > 1:
        only = f"the only point of the frontier: none of the {rows.num_rows} candidates is better in either objective"
    name, _, text = rule.partition("=")
    if rule == "knee":
        return _knee(front, only)
    if name == "max-memorization":
        return _max_memorization(rows, rule, _number(rule, text, -math.inf, math.inf))
    if name == "chebyshev":
        return _chebyshev(front, _number(rule, text, 0, 1), only)
    raise UserError(f"--rule: unknown rule {rule!r}; use knee, max-memorization=C or chebyshev=W")


def best_config(choice: Choice) -> Config:
    """The config that trains the chosen model again: the row's own, stopped at its length, with its endpoint alone.

    The schedules keep their horizon, so that training ends at the chosen checkpoint.
    """
    values = {key: choice.row[key] for key in knobs()}
    values["training.stop"] = choice.row[schema.FRACTION]
    values["evaluation.endpoints"] = [choice.row[schema.ENDPOINT]]
    return build_config(values, where=f"trial {choice.row[schema.TRIAL_ID]}")


# -- rules: ties keep the order of the rows -------------------------------------------------------------------------


def _knee(front: pa.Table, only: str) -> Choice:
    distance = pareto.knee_distance(objectives(front)).round(12)
    reason = f"the knee of the frontier: of its {front.num_rows} points, the farthest below the line between its ends"
    return _choice(front, np.argsort(-distance, kind="stable"), reason if front.num_rows > 1 else only)


def _max_memorization(rows: pa.Table, rule: str, bound: float) -> Choice:
    first = _row(rows, 0)
    fidelity, memorization = first[schema.FIDELITY_MEASURE], first[schema.MEMORIZATION_MEASURE]
    allowed = rows.filter(pa.array(objectives(rows)[:, 1] <= bound))
    if allowed.num_rows == 0:
        raise UserError(
            f"--rule {rule}: no candidate has {memorization} that low; the lowest is {first[schema.MEMORIZATION]:.4g} "
            f"(trial {first[schema.TRIAL_ID]} after {first[schema.IMAGES]} images); use a higher bound"
        )
    reason = f"the lowest {fidelity} of the {allowed.num_rows} candidates, out of {rows.num_rows},"
    if allowed.num_rows == 1:
        reason = f"the only one of {counted(rows.num_rows, 'candidate')}"
    reason += f" with {memorization} <= {bound:g}"
    return _choice(allowed, np.argsort(objectives(allowed)[:, 0], kind="stable"), reason)


def _chebyshev(front: pa.Table, weight: float, only: str) -> Choice:
    terms = pareto.scale(objectives(front)) * [weight, 1 - weight]
    reason = (
        f"the least max({weight:g} * fidelity, {1 - weight:g} * memorization), "
        f"both scaled to 0..1 over the {front.num_rows} points of the frontier"
    )
    order = np.lexsort((terms.sum(axis=1).round(12), terms.max(axis=1).round(12)))
    return _choice(front, order, reason if front.num_rows > 1 else only)


def _number(rule: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        within = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
        raise UserError(f"--rule {rule}: expected a number{within} after '='")
    return value


def _choice(rows: pa.Table, order: Ints, reason: str) -> Choice:
    recipe = recipe_labels(rows)
    other = [int(index) for index in order if recipe[index] != recipe[order[0]]]
    return Choice(_row(rows, int(order[0])), _row(rows, other[0]) if other else None, reason)


def _row(rows: pa.Table, index: int) -> Row:
    row: Row = rows.slice(index, 1).to_pylist()[0]
    return row
