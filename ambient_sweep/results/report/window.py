"""Which part of the plane of both objectives a picture of the frontier shows, and the line that it has to beat."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import Floats, clean_mask, objectives
from ambient_sweep.results.tables import schema

LINEAR_BELOW = 0.02  # memorization is drawn as asinh(value / LINEAR_BELOW): linear around 0, logarithmic far from it
TICKS = (-0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # of memorization
MARGIN = 0.05  # of a range, on either side


class Window(NamedTuple):
    """The ranges of both objectives that are shown; what lies beyond is drawn on the edge."""

    fidelity: tuple[float, float]
    memorization: tuple[float, float]


def window(rows: pa.Table, front: pa.Table) -> Window:
    """The window on candidates and their frontier, each of one row at least.

    It reaches above the frontier, with its intervals, by the frontier's own extent, so that a few useless models do not
    squeeze the rest; and it holds the frontier of clean training and half of the candidates in each objective.
    """
    clean = rows.filter(pa.array(clean_mask(rows)))
    clean = clean.filter(pa.array(pareto_mask(objectives(clean))))
    ranges = (
        _range(rows, front, clean, name, width)
        for name, width in ((schema.FIDELITY, None), (schema.MEMORIZATION, LINEAR_BELOW))
    )
    return Window(*ranges)


def _range(rows: pa.Table, front: pa.Table, clean: pa.Table, name: str, width: float | None) -> tuple[float, float]:
    """width: of the linear part of an axis that is drawn as asinh."""
    values = rows[name].to_numpy()
    ends = np.concatenate(
        [front[each].to_numpy().astype(float) for each in (name, schema.low(name), schema.high(name))]
    )
    ends = ends[np.isfinite(ends)]
    low, high = float(ends.min()), float(ends.max())
    rivals = clean[name].to_numpy()
    reach = max(high + (high - low), float(np.median(values)), rivals.max(initial=high))
    low, high = rivals.min(initial=low), min(reach, max(high, float(values.max())))
    if width is not None:
        low, high = np.arcsinh(low / width), np.arcsinh(high / width)
    margin = MARGIN * (high - low) or abs(low) / 2 or 1.0
    low, high = low - margin, high + margin
    return (low, high) if width is None else (width * float(np.sinh(low)), width * float(np.sinh(high)))


def clean_line(rows: pa.Table) -> Floats:
    """Clean training among the candidates: mean fidelity and memorization over seeds at rising lengths, [L, 2]."""
    rows = rows.filter(pc.field(schema.ROLE) == "baseline").sort_by(schema.IMAGES)
    lengths, values = rows[schema.IMAGES].to_numpy(), objectives(rows)
    means = [values[lengths == images].mean(axis=0) for images in np.unique(lengths)]
    return np.array(means, dtype=np.float64).reshape(-1, 2)
