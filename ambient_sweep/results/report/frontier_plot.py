"""The frontier as a picture: fidelity against memorization, a point per candidate checkpoint."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ambient_sweep.results.frontier.candidates import candidates, frontier, groups, keys, objectives
from ambient_sweep.results.tables import schema

ENDPOINTS = {"zero": ("o", "sampled down to 0"), "observed": ("^", "stopped at the observed level")}
BASELINE = "#d1495b"
LINEAR_BELOW = 0.02  # memorization: linear scale up to here, logarithmic above
TICKS = (-0.05, -0.02, 0, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


def frontier_png(table: pa.Table) -> bytes:
    """The candidates of an evaluations table and its frontier, numbered in the order of `frontier`, as a PNG file.

    Needs one candidate at least. Raises UserError where measures are mixed.
    """
    rows, buffer = candidates(table), io.BytesIO()
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    _points(axes, rows)
    _baseline(axes, rows.filter(pc.equal(rows[schema.ROLE], "baseline")))
    _scales(axes, rows)
    _staircase(axes, frontier(table))
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _points(axes: Axes, rows: pa.Table) -> None:
    """Every candidate with its interval, coloured by its noise level."""
    (y, x), sigma = objectives(rows).T, rows[schema.SIGMA].to_numpy()
    bars = []
    for name, value in ((schema.MEMORIZATION, x), (schema.FIDELITY, y)):
        low, high = (rows[end(name)].to_numpy().astype(float) for end in (schema.low, schema.high))
        bars.append(np.nan_to_num([value - low, high - value], posinf=0.0).clip(min=0.0))
    axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="none", ecolor="0.85", elinewidth=0.7, zorder=1)
    for endpoint, (marker, label) in ENDPOINTS.items():
        at = rows[schema.ENDPOINT].to_numpy() == endpoint
        if at.any():
            points = axes.scatter(
                x[at], y[at], c=sigma[at], vmin=0, vmax=sigma.max() or 1, marker=marker, s=40, edgecolors="white", zorder=3,
                label=label,
            )  # fmt: skip
    axes.figure.colorbar(points, ax=axes, label="observed noise level (observed.sigma)")
    first = rows.slice(0, 1).to_pylist()[0]
    axes.set_xlabel(f"memorization ({first[schema.MEMORIZATION_MEASURE]}), lower is better")
    axes.set_ylabel(f"fidelity ({first[schema.FIDELITY_MEASURE]}), lower is better")
    axes.set_title(f"{first[schema.SAMPLES]} samples each; bars: 95 % intervals", fontsize=10)


def _baseline(axes: Axes, rows: pa.Table) -> None:
    """Clean training at rising lengths, a line per trial and endpoint."""
    rows = rows.sort_by(schema.IMAGES)
    y, x = objectives(rows).T
    label = "baseline: clean training, at rising lengths"
    for line in groups(keys(rows, (schema.TRIAL_ID, schema.ENDPOINT))):
        axes.plot(x[line], y[line], "o--", color=BASELINE, zorder=4, label=label)
        label = ""


def _scales(axes: Axes, rows: pa.Table) -> None:
    """Symmetric logarithm for memorization, which is around 0 where the method works; logarithm for wide fidelities."""
    fidelity = objectives(rows)[:, 0]
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW, linscale=0.6)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.autoscale(axis="x")
    if fidelity.min() > 0 and fidelity.max() > 8 * fidelity.min():
        axes.set_yscale("log")


def _staircase(axes: Axes, front: pa.Table) -> None:
    y, x = objectives(front).T
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    axes.step([x[0], *x, right], [top, *y, y[-1]], "black", where="post", zorder=2, label="frontier (numbered)")
    for number, point in enumerate(zip(x, y, strict=True), start=1):
        axes.annotate(str(number), point, (-8, -9), textcoords="offset points", fontsize=8, zorder=6)
