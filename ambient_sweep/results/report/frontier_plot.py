"""The frontier as a picture: fidelity against memorization, a point per candidate checkpoint."""

import io

import numpy as np
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from ambient_sweep.results.frontier.candidates import (
    Floats,
    choosing_mask,
    clean_mask,
    frontier,
    is_value,
    objectives,
    stated_candidates,
)
from ambient_sweep.results.report.document import ONCE, first_measurements, on_fewer_samples
from ambient_sweep.results.report.window import LINEAR_BELOW, TICKS, Window, clean_line, window
from ambient_sweep.results.tables import schema
from ambient_sweep.text import counted

ENDPOINTS = {
    "zero": ("o", "sampled down to 0"),
    "observed": ("^", "stopped at the observed level"),
    "distilled": ("s", "sampled in one step"),
}
BASELINE = "#c2410c"
PALE = 0.35  # opacity of points by whose values the frontier was chosen
MANY = 1000  # points beyond which an SVG holds them as pixels
OFFSETS = ((0, -13), (-11, -11), (-14, 0), (11, -11), (-11, 11), (0, 13), (14, 0), (11, 11))  # of labels, in points


def frontier_pictures(table: pa.Table) -> dict[str, bytes]:
    """The candidates of an evaluations table and its frontier, numbered in the order of `frontier`: PNG and SVG files.

    The keys are the suffixes `png` and `svg`. Needs one candidate at least. Raises UserError where measures are mixed.
    """
    figure = frontier_figure(table)
    files = {}
    with rc_context({"svg.hashsalt": "ambient-sweep", "svg.fonttype": "none"}):  # the same each time; text as text
        for suffix, options in {"png": {"dpi": 150}, "svg": {"metadata": {"Date": None}}}.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, **options)  # type: ignore[arg-type]
            files[suffix] = buffer.getvalue()
    return files


def frontier_figure(table: pa.Table) -> Figure:
    """The figure of `frontier_pictures`; candidates beyond its axes are drawn on the edge and counted."""
    rows, front = stated_candidates(table), frontier(table)
    shown = window(rows, front if front.num_rows else rows)
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("asinh", linear_width=LINEAR_BELOW)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_xlim(shown.memorization)
    axes.set_ylim(shown.fidelity)
    axes.minorticks_off()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if rows.num_rows > MANY:  # thousands of points make an SVG that nobody can open
        axes.set_rasterization_zorder(3.5)
    beyond = _points(axes, rows, shown)
    line = clean_line(rows)
    if len(line):
        label = "clean training by length, mean over seeds"
        axes.plot(line[:, 1], line[:, 0], "--", color=BASELINE, zorder=4, label=label)
    first = rows.slice(0, 1).to_pylist()[0]
    axes.set_xlabel(f"memorization ({first[schema.MEMORIZATION_MEASURE]}), lower is better")
    axes.set_ylabel(f"fidelity ({first[schema.FIDELITY_MEASURE]}), lower is better")
    notes = [f"{counted(rows.num_rows, 'checkpoint')}, {first[schema.SAMPLES]:,} samples each; bars: 95 % intervals"]
    notes += [f"{beyond:,} beyond the axes, drawn on the edge"] if beyond else []
    fewer = sum(on_fewer_samples(first_measurements(table), rows)[ONCE].to_pylist())
    notes += [f"\n{counted(fewer, 'checkpoint')} measured once, on fewer samples, left out"] if fewer else []
    axes.set_title("; ".join(notes), fontsize=9, color="0.3")
    _staircase(axes, front)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _number(axes, objectives(front))
    return figure


def _points(axes: Axes, rows: pa.Table, shown: Window) -> int:
    """Candidates with intervals (of many, the frontier's alone), coloured by noise level. Returns how many are beyond."""
    values, sigma, clean = objectives(rows), rows[schema.SIGMA].to_numpy(), clean_mask(rows)
    alpha = np.where(choosing_mask(rows), PALE, 1.0)
    low, high = np.array(shown).T
    y, x = values.clip(low, high).T
    beyond = (values.clip(low, high) != values).any(axis=1)
    barred, bars = ~beyond, []
    if rows.num_rows > MANY:
        barred &= rows[schema.ON_FRONT].to_numpy(zero_copy_only=False)
    for name, value in ((schema.MEMORIZATION, x), (schema.FIDELITY, y)):
        ends = (rows[end(name)].to_numpy().astype(float) for end in (schema.low, schema.high))
        bars.append(np.abs(np.nan_to_num([end - value for end in ends], posinf=0.0, neginf=0.0))[:, barred])
    across, along = bars
    axes.errorbar(x[barred], y[barred], along, across, fmt="none", ecolor="0.85", elinewidth=0.7, zorder=1)
    for endpoint, (marker, label) in ENDPOINTS.items():
        at = is_value(rows, schema.ENDPOINT, endpoint) & ~clean & ~beyond
        points = axes.scatter(
            x[at], y[at], c=sigma[at], vmin=0, vmax=sigma.max() or 1, marker=marker, s=36, edgecolors="white",
            linewidths=0.6, zorder=3, alpha=alpha[at] if at.any() else None,
        )  # fmt: skip
        if at.any():
            axes.scatter([], [], color="0.45", marker=marker, label=label)
    at = clean & ~beyond
    axes.scatter(x[at], y[at], s=18, marker="D", color=BASELINE, zorder=3, alpha=alpha[at] if at.any() else None)
    if at.any():
        axes.scatter([], [], color=BASELINE, marker="D", s=18, label="clean training")
    if alpha.min() < 1:
        axes.scatter([], [], color="0.45", alpha=PALE, label="pale: values by which the frontier was chosen")
    axes.scatter(x[beyond], y[beyond], s=20, facecolors="white", edgecolors="0.45", zorder=3, clip_on=False)
    axes.figure.colorbar(points, ax=axes, label="noise level (observed.sigma)")
    return int(beyond.sum())


def _staircase(axes: Axes, front: pa.Table) -> None:
    if front.num_rows == 0:
        return
    y, x = objectives(front).T
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    best = np.minimum.accumulate(y)  # of the values that are stated, which did not choose the frontier
    axes.step([x[0], *x, right], [top, *best, best[-1]], "black", where="post", zorder=4, label="frontier (numbered)")
    axes.scatter(x, y, s=70, facecolors="none", edgecolors="black", linewidths=1.3, zorder=5)


def _number(axes: Axes, front: Floats) -> None:
    """Numbers the points, each where it covers no point of the frontier and no other number; else it is left out."""
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in axes.transData.transform(front[:, ::-1])]
    for number, (y, x) in enumerate(front, start=1):
        for offset in OFFSETS:
            label = axes.annotate(
                str(number), (x, y), offset, textcoords="offset points", ha="center", va="center", fontsize=8, zorder=6,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
            box = label.get_window_extent().padded(1)
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            Annotation.remove(label)
