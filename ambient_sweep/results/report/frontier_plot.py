"""The frontier as a picture: fidelity against memorization, a point per candidate checkpoint."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from ambient_sweep.results.frontier.candidates import Floats, Mask, candidates, frontier, groups, objectives
from ambient_sweep.results.tables import schema

MARKERS = {"zero": "o", "observed": "^"}
ENDPOINT_LABELS = {"zero": "sampled down to 0", "observed": "stopped at the observed level"}
COLORS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.93, 256)))  # its bright end is too pale on white
BASELINE = "#d1495b"
DASHES = (0, (4, 2))
LINEAR_BELOW = 0.02  # memorization: linear scale up to here, logarithmic above
TICKS = (-0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
NUMBERED = 20  # frontier points that get their number


def frontier_png(table: pa.Table) -> bytes:
    """The candidates of an evaluations table and its frontier, numbered in the order of `frontier`, as a PNG file.

    Needs one candidate at least. Raises UserError where measures are mixed.
    """
    figure, buffer = Figure(figsize=(8.4, 5.6), layout="constrained"), io.BytesIO()
    _draw(figure, figure.add_subplot(), candidates(table), frontier(table))
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw(figure: Figure, axes: Axes, rows: pa.Table, front: pa.Table) -> None:
    is_baseline = _is(rows, schema.ROLE, "baseline")
    baseline, others = (rows.filter(pa.array(mask)) for mask in (is_baseline, ~is_baseline))
    sigma = rows[schema.SIGMA].to_numpy()
    colors = ScalarMappable(Normalize(0, float(sigma.max()) or 1.0), COLORS)
    _scales(axes, rows)
    _error_bars(axes, rows)
    _scatter(axes, others, colors.to_rgba(sigma[~is_baseline]), zorder=3)
    _scatter(axes, baseline, np.tile(to_rgba(BASELINE), (baseline.num_rows, 1)), zorder=5)
    _lengths(axes, baseline)
    _staircase(axes, front)
    if (sigma > 0).any():
        figure.colorbar(colors, ax=axes, pad=0.01, label="observed noise level (observed.sigma)")
    first = rows.slice(0, 1).to_pylist()[0]
    axes.set_xlabel(f"memorization ({first[schema.MEMORIZATION_MEASURE]}), lower is better")
    axes.set_ylabel(f"fidelity ({first[schema.FIDELITY_MEASURE]}), lower is better")
    counts = f"{rows.num_rows} checkpoints of {len(rows[schema.TRIAL_ID].unique())} trials"
    axes.set_title(f"{counts}, {first[schema.SAMPLES]} samples each; bars: 95 % intervals", fontsize=10)
    _legend(figure, rows)


def _scales(axes: Axes, rows: pa.Table) -> None:
    """Symmetric logarithm for memorization, which is around 0 where the method works; logarithm for wide fidelities."""
    fidelity, memorization = objectives(rows).T
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW, linscale=0.6)
    left, right = float(memorization.min()), float(memorization.max())
    axes.set_xlim(min(left * 1.3, 0) - 0.003, max(right * 1.25, LINEAR_BELOW))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    if fidelity.min() > 0 and fidelity.max() > 8 * fidelity.min():
        axes.set_yscale("log")
        axes.set_ylim(0.8 * fidelity.min(), 1.25 * fidelity.max())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _error_bars(axes: Axes, rows: pa.Table) -> None:
    values = objectives(rows)
    bars = []
    for name, value in zip((schema.FIDELITY, schema.MEMORIZATION), values.T, strict=True):
        low, high = (rows[end(name)].to_numpy().astype(float) for end in (schema.low, schema.high))
        bars.append(np.nan_to_num([value - low, high - value], posinf=0.0).clip(min=0.0))
    x, y = values[:, 1], values[:, 0]
    axes.errorbar(x, y, bars[0], bars[1], fmt="none", ecolor="0.5", elinewidth=0.7, alpha=0.3, zorder=1)


def _scatter(axes: Axes, rows: pa.Table, colors: Floats, zorder: int) -> None:
    fidelity, memorization = objectives(rows).T
    for endpoint, marker in MARKERS.items():
        at = _is(rows, schema.ENDPOINT, endpoint)
        area = _area(rows[schema.FRACTION].to_numpy()[at])
        style: dict[str, Any] = {"marker": marker, "edgecolors": "white", "linewidths": 0.5, "zorder": zorder}
        axes.scatter(memorization[at], fidelity[at], area, colors[at], **style)


def _lengths(axes: Axes, rows: pa.Table) -> None:
    """The baseline at rising lengths, a line per trial and endpoint."""
    order = np.argsort(rows[schema.IMAGES].to_numpy(), kind="stable")
    points = objectives(rows)[order]
    keys = list(zip(rows[schema.TRIAL_ID].to_pylist(), rows[schema.ENDPOINT].to_pylist(), strict=True))
    for line in groups([keys[i] for i in order]):
        axes.plot(points[line, 1], points[line, 0], color=BASELINE, linewidth=1.6, linestyle=DASHES, zorder=4)


def _staircase(axes: Axes, front: pa.Table) -> None:
    y, x = objectives(front).T
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    axes.step([x[0], *x, right], [top, *y, y[-1]], where="post", color="black", linewidth=1.2, zorder=2)
    for number, point in enumerate(zip(x[:NUMBERED], y[:NUMBERED], strict=True), start=1):
        label = axes.annotate(str(number), point, (-8, -9), textcoords="offset points", fontsize=8, weight="bold")
        label.set(ha="center", va="center", zorder=6, path_effects=[withStroke(linewidth=2, foreground="white")])


def _legend(figure: Figure, rows: pa.Table) -> None:
    entries = [Line2D([], [], color="black", linewidth=1.2, label="frontier (numbered)")]
    if _is(rows, schema.ROLE, "baseline").any():
        label = "baseline: clean training, at rising lengths"
        entries.append(Line2D([], [], color=BASELINE, linestyle=DASHES, marker="o", label=label))
    for endpoint in sorted(set(rows[schema.ENDPOINT].to_pylist()), reverse=True):
        entries.append(_dot(MARKERS[endpoint], 0.5, ENDPOINT_LABELS[endpoint]))
    fractions = rows[schema.FRACTION].to_pylist()
    for fraction in sorted({min(fractions), max(fractions)}):
        entries.append(_dot("o", fraction, f"{100 * fraction:.3g} % of the training"))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _dot(marker: str, fraction: float, label: str) -> Line2D:
    size = float(np.sqrt(_area(np.array(fraction))))
    return Line2D([], [], linestyle="none", marker=marker, markersize=size, color="0.5", label=label)


def _area(fraction: Floats) -> Floats:
    return 18 + 62 * fraction


def _is(rows: pa.Table, column: str, value: str) -> Mask:
    return np.array([each == value for each in rows[column].to_pylist()], dtype=np.bool_)
