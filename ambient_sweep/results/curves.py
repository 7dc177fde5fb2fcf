"""Pictures beside the frontier: the hypervolume's history, and what further seeds attain."""

import io

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ambient_sweep import pareto
from ambient_sweep.results import schema
from ambient_sweep.results.candidates import candidates, frontier, objectives
from ambient_sweep.results.history import REPLICATE, History, seed_fronts

FOUND, AGAIN = "black", "#2a6f97"


def history_image(history: History, measures: tuple[str, str]) -> bytes:
    """Hypervolume over images executed and over device seconds, as PNG; `measures`: names of both objectives."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    panels = ((history.images, "images trained, over all trials"), (history.seconds, "device seconds"))
    for panel, (x, label) in zip(axes, panels, strict=True):
        panel.step(np.append(0.0, x), np.append(0.0, history.volume), where="post", color=FOUND, linewidth=1.3)
        panel.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        panel.xaxis.set_major_formatter(EngFormatter())
        _plain(panel)
    axes[0].set_ylabel("hypervolume")
    fidelity, memorization = history.reference
    figure.suptitle(
        f"reference point: {measures[0]} {fidelity:.4g}, {measures[1]} {memorization:.3g}; trials in the order of start",
        fontsize=10,
    )
    return _png(figure)


def attainment_image(evaluations: pa.Table) -> bytes | None:
    """The search's frontier beside what replicates attain, as PNG; None where there are none.

    Curves of empirical attainment: up and right of `all seeds`, every seed has a model that is as good; of `any seed`,
    one has.
    """
    fronts = seed_fronts(evaluations)
    if not fronts:
        return None
    rows = candidates(evaluations)
    searched = rows.filter(pa.array([role != REPLICATE for role in rows[schema.ROLE].to_pylist()], pa.bool_()))
    found = objectives(frontier(searched))
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = np.concatenate([*fronts.values(), found])
    right = float(values[:, 1].max()) + 0.05 * float(np.ptp(values[:, 1]) or 1)
    at = np.unique(np.append(values[:, 1], right))
    n = len(fronts)
    levels = {1 / n: ("any seed", ":"), 0.5: ("half of the seeds", "-"), 1.0: ("all seeds", "--")}
    for level, (label, style) in levels.items() if n > 1 else [(1.0, ("the further seed", "-"))]:
        attained = pareto.attainment([front[:, ::-1] for front in fronts.values()], at, level=level)
        axes.step(at, np.where(np.isfinite(attained), attained, np.nan), style, where="post", color=AGAIN, label=label)
    for marker, front in zip("o^svDPX" * n, fronts.values(), strict=False):
        axes.plot(front[:, 1], front[:, 0], marker, markersize=4, color=AGAIN, alpha=0.35)
    line = pareto.attainment([found[:, ::-1]], at, level=1.0)
    axes.step(at, np.where(np.isfinite(line), line, np.nan), where="post", color=FOUND, label="found by the search")
    if values[:, 0].min() > 0 and values[:, 0].max() > 8 * values[:, 0].min():
        axes.set_yscale("log")
    axes.set_xlabel(f"memorization ({rows[schema.MEMORIZATION_MEASURE][0]}), lower is better")
    axes.set_ylabel(f"fidelity ({rows[schema.FIDELITY_MEASURE][0]}), lower is better")
    seeds = "1 further seed" if n == 1 else f"{n} further seeds"
    axes.set_title(f"confirmed configs, trained with {seeds}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)
    return _png(figure)


def _plain(axes: Axes) -> None:
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
