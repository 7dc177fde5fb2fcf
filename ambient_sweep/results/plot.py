"""The frontier as a picture: fidelity against memorization, every candidate checkpoint a point."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from ambient_sweep.results import schema
from ambient_sweep.results.candidates import candidates, frontier, objectives
from ambient_sweep.results.confidence import ERRORS, MEANS, RUNS
from ambient_sweep.storage import write_atomic

MARKERS = {"zero": "o", "observed": "^"}
ENDPOINT_LABELS = {"zero": "sampled down to 0", "observed": "stopped at the observed level"}
COLORS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.93, 256)))  # its bright end is too pale on white
BASELINE = "#d1495b"
LINEAR_BELOW = 0.02  # memorization is drawn linearly up to here, in logarithm beyond
TICKS = (-0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
NUMBERED = 20  # frontier points that get their number


def frontier_png(table: pa.Table, path: Path) -> None:
    """Writes the frontier of an evaluations table as PNG, atomically. Raises UserError where measures are mixed."""
    write_atomic(path, frontier_image(table))


def frontier_image(table: pa.Table) -> bytes:
    """The frontier of an evaluations table as PNG: 150 dpi, frontier points numbered as `frontier` orders them."""
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = candidates(table)
    if rows.num_rows == 0:
        axes.text(0.5, 0.5, "no evaluation with both objectives yet", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        _draw(figure, axes, rows)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw(figure: Figure, axes: Axes, rows: pa.Table) -> None:
    sigma = rows[schema.SIGMA].to_numpy()
    colors = ScalarMappable(Normalize(0, float(sigma.max()) or 1.0), COLORS)
    _scales(axes, rows)
    _error_bars(axes, rows)
    front = frontier(rows)
    ends = _step(axes, front)
    repeated = _means(axes, front)
    _baseline(axes, rows)
    on_front = {(r[schema.TRIAL_ID], r[schema.IMAGES], r[schema.ENDPOINT]) for r in front.to_pylist()}
    for row in rows.to_pylist():
        baseline = row[schema.ROLE] == "baseline"
        outlined = (row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.ENDPOINT]) in on_front
        axes.scatter(
            row[schema.MEMORIZATION],
            row[schema.FIDELITY],
            s=_area(row[schema.FRACTION]),
            marker=MARKERS[row[schema.ENDPOINT]],
            color=BASELINE if baseline else colors.to_rgba(row[schema.SIGMA]),
            edgecolor="black" if outlined else "white",
            linewidth=1.1 if outlined else 0.5,
            zorder=3 + outlined + 2 * baseline,
        )
    for number, (x, y) in enumerate(ends[:NUMBERED], start=1):
        label = axes.annotate(
            str(number), (x, y), (-8, -9), textcoords="offset points", fontsize=8, weight="bold", ha="center"
        )
        label.set(va="center", zorder=6, path_effects=[withStroke(linewidth=2, foreground="white")])
    if (sigma > 0).any():
        figure.colorbar(colors, ax=axes, pad=0.01, label="observed noise level (observed.sigma)")
    samples, first = int(rows[schema.SAMPLES][0].as_py()), rows.slice(0, 1).to_pylist()[0]
    axes.set_xlabel(f"memorization ({first[schema.MEMORIZATION_MEASURE]}), lower is better")
    axes.set_ylabel(f"fidelity ({first[schema.FIDELITY_MEASURE]}), lower is better")
    trials = len(set(rows[schema.TRIAL_ID].to_pylist()))
    axes.set_title(
        f"{rows.num_rows} checkpoints of {trials} trials, {samples} samples each; light bars: 95 % intervals",
        fontsize=10,
    )
    _legend(figure, rows, repeated)


def _scales(axes: Axes, rows: pa.Table) -> None:
    """Symmetric logarithm for memorization, which is around 0 where the method works; logarithm for wide fidelities."""
    fidelity, memorization = objectives(rows).T
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW, linscale=0.6)
    left, right = float(memorization.min()), float(memorization.max())
    axes.set_xlim(min(left * 1.3, 0) - 0.003, max(right * 1.25, LINEAR_BELOW))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if fidelity.min() > 0 and fidelity.max() > 8 * fidelity.min():
        axes.set_yscale("log")
        low, high = np.log10(fidelity.min()) - 0.1, np.log10(fidelity.max()) + 0.1
        axes.set_ylim(10**low, 10**high)
        marks = [m * 10.0**p for p in range(int(low) - 2, int(high) + 2) for m in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([mark for mark in marks if 10**low <= mark <= 10**high]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _error_bars(axes: Axes, rows: pa.Table) -> None:
    values = objectives(rows)
    bars = []
    for name, value in zip((schema.FIDELITY, schema.MEMORIZATION), values.T, strict=True):
        ends = np.stack([rows[column(name)].to_numpy().astype(float) for column in (schema.low, schema.high)])
        bars.append(np.clip(np.where(np.isfinite(ends), [value - ends[0], ends[1] - value], 0.0), 0.0, None))
    axes.errorbar(
        values[:, 1], values[:, 0], bars[0], bars[1], fmt="none", ecolor="0.5", elinewidth=0.7, alpha=0.3, zorder=1
    )


def _step(axes: Axes, front: pa.Table) -> NDArray[np.float64]:
    """The frontier's staircase; returns its points as (memorization, fidelity)."""
    points = objectives(front)[:, ::-1]
    top, right = axes.get_ylim()[1], axes.get_xlim()[1]
    x = np.concatenate([points[:1, 0], points[:, 0], [right]])
    y = np.concatenate([[top], points[:, 1], points[-1:, 1]])
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    axes.step(x, y, where="post", color="black", linewidth=1.2, zorder=2)
    return points


def _means(axes: Axes, front: pa.Table) -> bool:
    """Where frontier points were trained with several seeds: the means over these, each tied to its point."""
    if RUNS not in front.column_names:
        return False
    rows = [row for row in front.to_pylist() if row[RUNS] > 1]
    for row in rows:
        (y, x), (dy, dx) = (tuple(row[name] for name in names) for names in (MEANS, ERRORS))
        axes.plot([row[schema.MEMORIZATION], x], [row[schema.FIDELITY], y], color="0.35", linewidth=0.8, zorder=5)
        axes.errorbar(x, y, dy, dx, fmt="x", color="0.2", markersize=5, elinewidth=0.8, zorder=5)
    return bool(rows)


def _baseline(axes: Axes, rows: pa.Table) -> None:
    """Clean training at rising lengths, a line per trial."""
    lines: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for row in rows.to_pylist():
        if row[schema.ROLE] == "baseline":
            point = (row[schema.IMAGES], row[schema.MEMORIZATION], row[schema.FIDELITY])
            lines.setdefault((row[schema.TRIAL_ID], row[schema.ENDPOINT]), []).append(point)
    for number, points in enumerate(lines.values()):
        _, x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, color=BASELINE, linewidth=1.6, linestyle=(0, (4, 2)), zorder=4.5)
        if number == 0:
            text = axes.annotate(
                "clean training",
                (x[0], y[0]),
                (8, 16),
                textcoords="offset points",
                color=BASELINE,
                fontsize=9,
                zorder=6,
            )
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _area(fraction: float) -> float:
    return 18 + 62 * fraction


def _legend(figure: Figure, rows: pa.Table, repeated: bool) -> None:
    entries = [Line2D([], [], color="black", linewidth=1.2, label="frontier (numbered)")]
    if repeated:
        label = "its mean over seeds, with standard error"
        entries.append(Line2D([], [], color="0.2", marker="x", markersize=5, linewidth=0.8, label=label))
    if "baseline" in rows[schema.ROLE].to_pylist():
        entries.append(
            Line2D(
                [],
                [],
                color=BASELINE,
                linestyle=(0, (4, 2)),
                marker="o",
                label="baseline: clean training, at rising lengths",
            )
        )
    for endpoint in sorted(set(rows[schema.ENDPOINT].to_pylist()), reverse=True):
        entries.append(_dot(MARKERS[endpoint], 0.5, ENDPOINT_LABELS[endpoint]))
    fractions = sorted(set(rows[schema.FRACTION].to_pylist()))
    for fraction in sorted({fractions[0], fractions[-1]}):
        entries.append(_dot("o", fraction, f"{100 * fraction:.3g} % of the training"))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _dot(marker: str, fraction: float, label: str) -> Line2D:
    size = float(np.sqrt(_area(fraction)))
    return Line2D(
        [], [], linestyle="none", marker=marker, markersize=size, color="0.5", markeredgecolor="w", label=label
    )
