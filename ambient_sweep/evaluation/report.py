"""What an evaluation of generated images reports: a row per measure."""

from collections.abc import Mapping
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

    def seeded(self, seed: int) -> "Row":
        """With the seed of the samples, of floors and of subsets, in both values."""
        null = None if self.null is None else replace(self.null, seed=seed, encoder=self.measure.encoder)
        return replace(self, measure=replace(self.measure, seed=seed), null=null)

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        null = None if self.null is None else vars(self.null)
        return {"name": self.name, "kind": self.kind, **vars(self.measure), "null": null}


@dataclass(frozen=True)
class Report:
    """All measures of one generated set."""

    rows: tuple[Row, ...]
    histograms: Mapping[str, Histograms]  # of similarities to the nearest training image, by encoder
    warnings: tuple[str, ...]
    nearest: tuple[NDArray[np.int64], NDArray[np.int64]]  # generated images, nearest first; their training images
