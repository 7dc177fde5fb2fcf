"""data.range: which values of the files stand for black and white."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.sources.decode import CorruptImage


@dataclass
class Window:
    """Scales values of the files linearly, `low` to 0 and `high` to 1, and clips the others; safe in threads."""

    low: float
    high: float
    depth8: bool  # whether the files hold 8 bits; deeper ones count in other units
    clip: bool = True  # False for noisy observations, which would no longer be the image plus noise
    clipped: list[float] = field(default_factory=list)  # the share of values outside, per image read so far

    def scaled(self, native: NDArray[Any]) -> NDArray[np.float32]:
        """float32 in [0, 1] of an image in the units of its file, [H, W, C]. Raises CorruptImage."""
        if (native.dtype == np.uint8) != self.depth8:
            raise CorruptImage("of 8 bits among deeper images, or the other way around: data.range cannot mean both")
        values = (native.astype(np.float64) - self.low) / (self.high - self.low)
        if not np.isfinite(values).all():
            raise CorruptImage("holds NaN or infinity")
        if self.clip:
            self.clipped.append(float(np.mean((values < 0) | (values > 1))))
            values = values.clip(0, 1)
        return values.astype(np.float32)

    def note(self) -> str:
        """For people, after the images were read."""
        share = np.mean(self.clipped or [0.0])
        outside = f"; {share:.2%} of the values lay outside and are clipped" if self.clip else ", and not clipped"
        return f"scaled from [{self.low:g}, {self.high:g}]{outside}"


def suggested(low: float, high: float) -> str:
    """A data.range for images that hold values from `low` to `high`; without negative ones, up to a full number of bits."""
    if not np.isfinite([low, high]).all():
        return "data.range=[0,1]"
    if low < 0:
        return f"data.range=[{low:.6g},{high:.6g}]"
    return f"data.range=[0,{2 ** max(1, int(np.ceil(high)).bit_length()) - 1}]"
