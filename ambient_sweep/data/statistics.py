"""How the pixels of a set are spread."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from ambient_sweep.data.pixels import Pixels

MOST_VALUES, BLOCK_VALUES = 2**28, 2**24  # measured of a set, in images evenly spaced over it; read at once
LEAST_USED, SIGMA_FACTOR = 0.25, 3


class PixelStatistics(BaseModel, frozen=True):
    """Of pixels on [-1, 1]."""

    low: float
    high: float
    mean: float
    std: float
    clipped: float | None = None  # share of values outside data.range, where that is set
    noise: float = 0.0  # that they hold already, as its root mean square

    @classmethod
    def of(cls, pixels: Pixels, levels: NDArray[np.floating], clipped: float | None = None) -> "PixelStatistics":
        """Statistics of all pixels, in a large set of some of them; levels: of the noise that each image holds, [N]."""
        each = int(np.prod(pixels.shape))
        chosen = pixels.subset(np.arange(0, len(pixels), max(1, len(pixels) * each // MOST_VALUES)))
        rows = []
        for block in chosen.blocks(max(1, BLOCK_VALUES // each)):
            values = block.numpy()
            rows.append(
                (values.min(), values.max(), values.sum(dtype=np.float64), np.square(values, dtype=np.float64).sum())
            )
        low, high, total, squares = np.array(rows).T
        mean = float(total.sum()) / (len(chosen) * each)
        variance = max(0.0, float(squares.sum()) / (len(chosen) * each) - mean**2)
        noise = float(np.square(levels, dtype=np.float64).mean()) ** 0.5
        return cls(low=low.min(), high=high.max(), mean=mean, std=variance**0.5, clipped=clipped, noise=noise)

    def lines(self, sigma_data: float) -> list[str]:
        """For people, with warnings of images that use little of the range, or spread unlike the model's sigma_data."""
        text = f"pixels on [-1, 1]: from {self.low:.3g} to {self.high:.3g}, mean {self.mean:.3g}, "
        text += f"standard deviation {self.std:.3g}{' with the noise' if self.noise else ''}"
        lines = [text if self.clipped is None else f"{text}; {self.clipped:.2%} of the values clipped to data.range"]
        clean = max(0.0, self.std**2 - self.noise**2) ** 0.5
        used = (self.high - self.low) / 2
        if not self.noise and used < LEAST_USED:
            lines.append(
                f"warning: the images use {used:.1%} of the range from black to white; set data.range=[low,high] to theirs, "
                "in the units of the files"
            )
        if not sigma_data / SIGMA_FACTOR <= clean <= sigma_data * SIGMA_FACTOR:
            lines.append(
                f"warning: their standard deviation{' without the noise' if self.noise else ''}, {clean:.3g}, is far from "
                f"model.sigma_data={sigma_data:g}; scale them by data.range=[low,high], or set model.sigma_data"
            )
        return lines
