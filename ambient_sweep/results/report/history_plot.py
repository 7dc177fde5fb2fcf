"""The hypervolume's history as a picture."""

import numpy as np
from matplotlib.ticker import EngFormatter

from ambient_sweep.results.frontier.history import History
from ambient_sweep.results.report.figures import new_figure, plain, png


def history_image(history: History, measures: tuple[str, str]) -> bytes:
    """Hypervolume over images trained and over device seconds, as PNG; `measures`: names of both objectives."""
    figure = new_figure(8.4, 3.2)
    axes = figure.subplots(1, 2, sharey=True)
    panels = ((history.images, "images trained, over all trials"), (history.seconds, "device seconds"))
    for panel, (x, label) in zip(axes, panels, strict=True):
        panel.step(np.append(0.0, x), np.append(0.0, history.volume), where="post", color="black", linewidth=1.3)
        panel.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        panel.xaxis.set_major_formatter(EngFormatter())
        plain(panel)
    axes[0].set_ylabel("hypervolume")
    fidelity, memorization = history.reference
    title = f"reference point: {measures[0]} {fidelity:.4g}, {measures[1]} {memorization:.3g}; trials in order of start"
    figure.suptitle(title, fontsize=10)
    return png(figure)
