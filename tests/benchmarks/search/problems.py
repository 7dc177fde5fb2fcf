"""What the simulator searches: recorded curves of real trials, and functions whose fronts are known.

A problem says what a trial of some values would have measured at each length. `prefix` gives the config by whose prefix
stages are shared; problems without one share nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config
from ambient_sweep.sweep.space.distributions import Distribution

DIGITS_FILE = Path(__file__).with_name("digits.parquet")
Point = tuple[float, float]
Values = Mapping[str, Any]


@dataclass
class Problem:
    """`lengths`: fractions of a run of `images` that are evaluated. `reference`: of the hypervolume."""

    name: str
    space: dict[str, Distribution]
    lengths: tuple[float, ...]
    images: int
    reference: Point
    base: dict[str, Any] = field(default_factory=dict)
    shares = False  # whether trials have stages in common

    def points(self, values: Values, fraction: float) -> list[Point]:
        """Every candidate measured at that length, the main one first."""
        raise NotImplementedError

    def config(self, values: Values) -> Config:
        """What stages differ in, where `shares`."""
        raise NotImplementedError

    def seconds(self, values: Values, begin: float, end: float) -> float:
        """Time of training from one fraction to another, in trainings without consistency."""
        return end - begin


class Digits(Problem):
    """The recorded digits trials: `record.py`.

    The reference point lies a tenth of the front's extent beyond its ends.
    """

    shares = True

    def __init__(self, file: Path = DIGITS_FILE, widths: tuple[int, ...] | None = None, seed: int = 0) -> None:
        import record

        rows = [row for row in pq.ParquetFile(file).read().to_pylist() if row["seed"] == seed]
        rows = [row for row in rows if widths is None or row["model.width"] in widths]
        self._measured: dict[tuple[Any, ...], Point] = {}
        for row in rows:
            weight = row["consistency.weight"]
            key = (*(row[k] for k in record.TRUNK), weight, row["consistency.start"] if weight else 1.0)
            point = (row["fidelity"], row["memorization"])
            self._measured[(*key, row["ema.length"], row["fraction"], row["endpoint"])] = point
        space = {}
        for key in (*record.TRUNK, "consistency.weight", "consistency.start", "ema.length"):
            values = sorted({row[key] for row in rows} - ({1.0} if key == "consistency.start" else set()))
            if len(values) > 1:
                space[key] = Distribution("choice", tuple(values))
        on = (("consistency.weight", tuple(w for w in space["consistency.weight"].values if w > 0)),)
        space["consistency.start"] = Distribution("choice", space["consistency.start"].values, None, on)
        self._fixed = {key: rows[0][key] for key in (*record.TRUNK, "ema.length") if key not in space}
        self._trunk = tuple(record.TRUNK)
        self._base = record.BASE
        front = np.array(list(self._measured.values()))
        front = front[pareto.pareto_mask(front)]
        low, high = front.min(axis=0), front.max(axis=0)
        corner = high + 0.1 * (high - low)
        base = {"consistency.start": 0.5}
        super().__init__("digits", space, record.LENGTHS, 153_600, (float(corner[0]), float(corner[1])), base)
        self.every = list(self._measured.values())

    def points(self, values: Values, fraction: float) -> list[Point]:
        full = self._fixed | dict(values)
        weight, start = full["consistency.weight"], full.get("consistency.start", 1.0)
        if weight == 0 or fraction <= start + 1e-9:
            weight, start = 0.0, 1.0
        key = (*(full[k] for k in self._trunk), weight, start, full["ema.length"], fraction)
        return [self._measured[(*key, endpoint)] for endpoint in ("zero", "observed")]

    def config(self, values: Values) -> Config:
        return build_config(self._base, {**self._fixed, **values})

    def seconds(self, values: Values, begin: float, end: float) -> float:
        start = values.get("consistency.start", 1.0) if values["consistency.weight"] > 0 else 1.0
        return (end - begin) + 0.5 * max(0.0, end - max(begin, start))


class BraninCurrin(Problem):
    """Branin and Currin with their usual lower fidelities (Xiong et al. 2013; Kandasamy et al. 2017)."""

    def __init__(self) -> None:
        unit = Distribution("uniform", (0.0, 1.0))
        super().__init__(
            "Branin-Currin", {"x1": unit, "x2": unit}, tuple(k / 8 for k in range(1, 9)), 8000, (60.0, 12.0)
        )

    def points(self, values: Values, fraction: float) -> list[Point]:
        u, v, missing = values["x1"], values["x2"], 1 - fraction
        x, y = 15 * u - 5, 15 * v
        b = 5.1 / (4 * math.pi**2) - 0.1 * missing
        branin = (y - b * x**2 + 5 / math.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10
        above = 2300 * u**3 + 1900 * u**2 + 2092 * u + 60
        below = 100 * u**3 + 500 * u**2 + 4 * u + 20
        damping = math.exp(-1 / (2 * v)) if v > 0 else 0.0
        return [(branin, (1 - (1 - 0.1 * missing) * damping) * above / below)]


class Zdt(Problem):
    """ZDT1 to 3 (Zitzler, Deb and Thiele 2000) in five variables; g grows with what is missing of the full length."""

    def __init__(self, number: int, variables: int = 5) -> None:
        unit = Distribution("uniform", (0.0, 1.0))
        space = {f"x{i}": unit for i in range(variables)}
        self._number = number
        super().__init__(f"ZDT{number}", space, tuple(k / 8 for k in range(1, 9)), 8000, (1.1, 6.0))

    def points(self, values: Values, fraction: float) -> list[Point]:
        x = [values[key] for key in self.space]
        g = 1 + 9 * sum(x[1:]) / (len(x) - 1) + 2 * (1 - fraction)
        ratio = x[0] / g
        shape = {
            1: 1 - math.sqrt(ratio),
            2: 1 - ratio**2,
            3: 1 - math.sqrt(ratio) - ratio * math.sin(10 * math.pi * x[0]),
        }
        return [(x[0], g * shape[self._number])]


def problems() -> list[Problem]:
    return [Digits(), BraninCurrin(), Zdt(1), Zdt(2), Zdt(3)]
