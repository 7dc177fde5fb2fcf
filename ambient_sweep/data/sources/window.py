"""data.range: which values of the files stand for black and white."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.sources.decode import CorruptImage


@dataclass
class Window:
    """Scales values of the files linearly, `low` to 0 and `high` to 1, and counts what it clips; safe in threads."""

    low: float
    high: float
    depth8: bool  # whether the files hold 8 bits; deeper ones count in other units
    clip: bool = True  # False for noisy observations, which would no longer be the image plus noise
    values: int = 0  # scaled so far
    clipped: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def scaled(self, native: NDArray[Any]) -> NDArray[np.float32]:
        """float32 in [0, 1] of an image in the units of its file, [H, W, C]. Raises CorruptImage."""
        if (native.dtype == np.uint8) != self.depth8:
            other, first = ("8 bits", "deeper ones") if self.depth8 is False else ("more than 8 bits", "8 bits")
            raise CorruptImage(f"{other} among images of {first}: data.range cannot mean both; convert it")
        values = (native.astype(np.float64) - self.low) / (self.high - self.low)
        if not np.isfinite(values).all():
            raise CorruptImage("holds NaN or infinity")
        if self.clip:
            outside = int(np.count_nonzero((values < 0) | (values > 1)))
            with self._lock:
                self.values, self.clipped = self.values + values.size, self.clipped + outside
            values = values.clip(0, 1)
        return values.astype(np.float32)

    def share_clipped(self) -> float | None:
        """The share of all values read that lay outside; None where nothing is clipped."""
        return self.clipped / self.values if self.clip and self.values else None


def suggested(low: float, high: float) -> str:
    """A data.range for images that hold values from `low` to `high`; without negative ones, up to a full number of bits."""
    if not np.isfinite([low, high]).all():
        return "data.range=[0,1]"
    if low < 0:
        return f"data.range=[{low:.6g},{high:.6g}]"
    return f"data.range=[0,{2 ** max(1, int(np.ceil(high)).bit_length()) - 1}]"
