"""The frontier as a picture: fidelity against memorization, a point per candidate checkpoint."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ambient_sweep.results.frontier.candidates import Floats, Mask, candidates, frontier, groups, objectives
from ambient_sweep.results.report.figures import new_figure, plain, png
from ambient_sweep.results.tables import schema
from ambient_sweep.storage import write_atomic

MARKERS = {"zero": "o", "observed": "^"}
ENDPOINT_LABELS = {"zero": "sampled down to 0", "observed": "stopped at the observed level"}
COLORS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.93, 256)))  # its bright end is too pale on white
BASELINE = "#d1495b"
DASHES = (0, (4, 2))
LINEAR_BELOW = 0.02  # memorization: linear scale up to here, logarithmic above
TICKS = (-0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
NUMBERED = 20  # frontier points that get their number


def frontier_png(table: pa.Table, path: Path) -> None:
    """Writes the frontier of an evaluations table as PNG, atomically. Raises UserError where measures are mixed."""
    write_atomic(path, frontier_image(table))


def frontier_image(table: pa.Table) -> bytes:
    """The frontier of an evaluations table as PNG; its points are numbered in the order of `frontier`."""
    figure = new_figure(8.4, 5.6)
    axes = figure.add_subplot()
    rows = candidates(table)
    if rows.num_rows == 0:
        axes.text(0.5, 0.5, "no evaluation with both objectives yet", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        _draw(figure, axes, rows)
    return png(figure)


def _draw(figure: Figure, axes: Axes, rows: pa.Table) -> None:
    is_baseline = _is(rows, schema.ROLE, "baseline")
    baseline, others = (rows.filter(pa.array(mask)) for mask in (is_baseline, ~is_baseline))
    sigma = rows[schema.SIGMA].to_numpy()
    colors = ScalarMappable(Normalize(0, float(sigma.max()) or 1.0), COLORS)
    _scales(axes, rows)
    _error_bars(axes, rows)
    _scatter(axes, others, colors.to_rgba(sigma[~is_baseline]), zorder=3)
    _scatter(axes, baseline, np.tile(to_rgba(BASELINE), (baseline.num_rows, 1)), zorder=5)
    _lengths(axes, baseline)
    front = frontier(rows)
    _staircase(axes, front)
    if (sigma > 0).any():
        figure.colorbar(colors, ax=axes, pad=0.01, label="observed noise level (observed.sigma)")
    first = rows.slice(0, 1).to_pylist()[0]
    axes.set_xlabel(f"memorization ({first[schema.MEMORIZATION_MEASURE]}), lower is better")
    axes.set_ylabel(f"fidelity ({first[schema.FIDELITY_MEASURE]}), lower is better")
    trials = len(set(rows[schema.TRIAL_ID].to_pylist()))
    title = (
        f"{rows.num_rows} checkpoints of {trials} trials, {first[schema.SAMPLES]} samples each; bars: 95 % intervals"
    )
    axes.set_title(title, fontsize=10)
    _legend(figure, rows)


def _scales(axes: Axes, rows: pa.Table) -> None:
    """Symmetric logarithm for memorization, which is around 0 where the method works; logarithm for wide fidelities."""
    fidelity, memorization = objectives(rows).T
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW, linscale=0.6)
    left, right = float(memorization.min()), float(memorization.max())
    axes.set_xlim(min(left * 1.3, 0) - 0.003, max(right * 1.25, LINEAR_BELOW))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    scaled: list[Axis] = [axes.xaxis]
    if fidelity.min() > 0 and fidelity.max() > 8 * fidelity.min():
        axes.set_yscale("log")
        low, high = np.log10(fidelity.min()) - 0.1, np.log10(fidelity.max()) + 0.1
        axes.set_ylim(10**low, 10**high)
        marks = [m * 10.0**p for p in range(int(low) - 2, int(high) + 2) for m in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([mark for mark in marks if 10**low <= mark <= 10**high]))
        scaled.append(axes.yaxis)
    for axis in scaled:
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plain(axes)


def _error_bars(axes: Axes, rows: pa.Table) -> None:
    values = objectives(rows)
    bars = []
    for name, value in zip((schema.FIDELITY, schema.MEMORIZATION), values.T, strict=True):
        low, high = (rows[end(name)].to_numpy().astype(float) for end in (schema.low, schema.high))
        bars.append(np.nan_to_num([value - low, high - value], posinf=0.0).clip(min=0.0))
    x, y = values[:, 1], values[:, 0]
    axes.errorbar(x, y, bars[0], bars[1], fmt="none", ecolor="0.5", elinewidth=0.7, alpha=0.3, zorder=1)


def _scatter(axes: Axes, rows: pa.Table, colors: Floats, zorder: int) -> None:
    """A point per row: marker by endpoint, area by length."""
    fidelity, memorization = objectives(rows).T
    for endpoint, marker in MARKERS.items():
        at = _is(rows, schema.ENDPOINT, endpoint)
        axes.scatter(
            memorization[at],
            fidelity[at],
            s=_area(rows[schema.FRACTION].to_numpy()[at]),
            c=colors[at],
            marker=marker,
            edgecolors="white",
            linewidths=0.5,
            zorder=zorder,
        )


def _lengths(axes: Axes, rows: pa.Table) -> None:
    """The baseline at rising lengths, a line per trial and endpoint."""
    order = np.argsort(rows[schema.IMAGES].to_numpy(), kind="stable")
    points = objectives(rows)[order]
    keys = list(zip(rows[schema.TRIAL_ID].to_pylist(), rows[schema.ENDPOINT].to_pylist(), strict=True))
    for line in groups([keys[i] for i in order]):
        axes.plot(points[line, 1], points[line, 0], color=BASELINE, linewidth=1.6, linestyle=DASHES, zorder=4)


def _staircase(axes: Axes, front: pa.Table) -> None:
    """The frontier, its first points numbered."""
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
