"""A measured value with its 95 % interval and its number of samples."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Measure:
    """A value, the ends of its 95 % interval (None where there is none) and the number of samples behind it.

    encoder: the encoder of its features (None: pixels). seed: of the samples, or of the draw of a subset.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    encoder: str | None = None
    seed: int | None = None

    @classmethod
    def share(cls, mask: "Tensor") -> "Measure":
        """The share of True in bool [n], with Wilson's interval."""
        count, n = int(mask.sum()), len(mask)
        return cls(count / n, *wilson(count, n), n)

    @classmethod
    def mean(cls, values: "Tensor") -> "Measure":
        """The mean of [n], with the normal interval."""
        mean, half = float(values.mean()), Z95 * float(values.std()) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half, len(values))

    def minus(self, expected: float) -> "Measure":
        """The value and its interval, less what was expected."""
        low, high = (None if end is None else end - expected for end in (self.low, self.high))
        return replace(self, value=self.value - expected, low=low, high=high)


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `count` of `n` were seen (Wilson 1927, score interval)."""
    share = count / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == n else min(1.0, centre + half)
    return low, high
