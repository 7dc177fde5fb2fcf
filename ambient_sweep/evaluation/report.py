"""What an evaluation of generated images reports: a row per measure, and the mean over several generated sets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.similarity import Histograms

Kind = Literal["fidelity", "memorization"]


@dataclass(frozen=True)
class Row:
    """One measure of a generated set."""

    name: str
    kind: Kind
    measure: Measure
    null: Measure | None = None
    sets: int = 1  # generated sets, one per seed, that it is the mean over

    def seeded(self, seed: int) -> "Row":
        """With the seed of the samples, of floors and of subsets, in both values."""
        null = None if self.null is None else replace(self.null, seed=seed, encoder=self.measure.encoder)
        return replace(self, measure=replace(self.measure, seed=seed), null=null)

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        null = None if self.null is None else vars(self.null)
        return {"name": self.name, "kind": self.kind, **vars(self.measure), "sets": self.sets, "null": null}


@dataclass(frozen=True)
class Report:
    """All measures of one generated set."""

    rows: tuple[Row, ...]
    histograms: Mapping[str, Histograms]  # of similarities to the nearest training image, by encoder
    warnings: tuple[str, ...]
    nearest: tuple[NDArray[np.int64], NDArray[np.int64]]  # generated images, nearest first; their training images

    def __getitem__(self, name: str) -> Measure:
        return next(row.measure for row in self.rows if row.name == name)


def across(reports: Sequence[Report]) -> list[Row]:
    """The mean of each measure over several generated sets (seeds, say), n images each.

    The interval is the wider of Student's, from the spread of the sets, and that of their own intervals averaged; a share
    stays within its range.
    """
    from scipy.stats import t

    count, rows = len(reports), []
    for row in reports[0].rows:
        measures = [report[row.name] for report in reports]
        values = np.array([measure.value for measure in measures])
        spread = float(t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count))
        own = [(m.high - m.low) / 2 for m in measures if m.low is not None and m.high is not None]
        half = max(spread, math.hypot(*own) / count)
        mean, (least, most) = float(values.mean()), _range(row.name)
        low, high = max(least, mean - half), min(most, mean + half)
        measure = replace(row.measure, value=mean, low=low, high=high, n=min(m.n for m in measures))
        rows.append(replace(row, measure=measure, sets=count))
    return rows


def _range(name: str) -> tuple[float, float]:
    """The least and the greatest value of a measure."""
    if name == "kid":
        return -math.inf, math.inf
    if "excess" in name:
        return -1.0, 1.0
    return 0.0, math.inf if name.startswith("f") or name == "density" else 1.0
