"""Observations made elsewhere: images that arrive with their noise, which has to be as it was."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.pixels import Pixels
from ambient_sweep.data.sources import Source
from ambient_sweep.errors import UserError

COMPARED = 64  # observations, with their clean images
COARSE = 0.003  # on [-1, 1]: steps of 10 bits are finer, steps of 8 bits coarser


def as_observations(source: Source, sigma: float | None, where: str) -> tuple[Source, float | None]:
    """The source with all its values kept, and the lowest level of its noise above 0: `sigma`, unless images have their own.

    Raises UserError.
    """
    if source.window is None:
        raise UserError(
            f"{where}: set data.range to the values for black and white in the images before the noise, as in "
            "data.range=[-1,1]"
        )
    source, own = dataclasses.replace(source, window=dataclasses.replace(source.window, clip=False)), source.sigma
    if own is None:
        return source, sigma
    if np.isnan(own).any():
        raise UserError(f"{where}: {source.names[int(np.isnan(own).argmax())]} has no noise level")
    if not own.any():
        raise UserError(f"{where}: all noise levels are 0; prepare clean images without --observations")
    return source, float(str(own[own > 0].min()))  # 0.1 as people write it, not as float64 has float32's


def check_distance(observed: Pixels, clean: Pixels, levels: NDArray[np.float64], where: str) -> None:
    """Raises UserError where observations do not differ from the clean images by noise of their levels, [N]."""
    rows = np.linspace(0, len(observed) - 1, min(len(observed), COMPARED)).astype(np.int64)
    found = float((observed[rows] - clean[rows]).square().mean()) ** 0.5
    noise = float(np.square(levels[rows]).mean()) ** 0.5
    if not 0.8 * noise < found < 1.25 * noise:
        raise UserError(
            f"{where}: the observations differ from these images by {found:.3g}, not by noise of {noise:.3g}; give the "
            "clean images in the same order and data.range, or correct the noise level"
        )


class NoiseCheck:
    """Gathers what tells rounded and clipped observations from those whose noise is as it was."""

    def __init__(self) -> None:
        self.images = self.rounded = self.values = self.ties = 0
        self.variance = self.noise = 0.0

    def add(self, pixels: NDArray[np.float32], levels: NDArray[np.floating]) -> None:
        """Observations [n, C, H, W] on [-1, 1], and the level of their noise, [n]."""
        noisy = pixels.reshape(len(pixels), -1)[levels > 0]
        if not len(noisy):
            return
        values, levels = np.sort(noisy, axis=1), levels[levels > 0]
        gaps = np.diff(values, axis=1)
        step = np.where(gaps > 1e-6, gaps, np.inf).min(axis=1)
        multiples = gaps / step[:, None]
        on_grid = (np.abs(multiples - np.rint(multiples)) < 0.02).all(
            axis=1
        )  # all differences are multiples of one step
        ends = (values == values[:, :1]) | (values == values[:, -1:])
        self.images, self.values = self.images + len(values), self.values + values.size
        self.rounded += int((on_grid & (step > np.minimum(COARSE, levels / 4))).sum())
        self.ties += int(ends.sum()) - 2 * len(values)
        self.variance += float(values.var(axis=1, dtype=np.float64).sum())
        self.noise += float(np.square(levels, dtype=np.float64).sum())

    def refuse_altered(self, where: str) -> None:
        """Raises UserError for images that were rounded or clipped, or that vary less than their noise would make them."""
        cure = "export them as floats, before anything is rounded or clipped"
        if self.rounded > 0.01 * self.images:
            raise UserError(f"{where}: {self.rounded:,} of {self.images:,} observations look rounded; {cure}")
        if self.ties > max(self.images, 0.001 * self.values):
            share = self.ties / self.values
            raise UserError(
                f"{where}: the observations look clipped ({share:.1%} of the values lie exactly at their image's lowest or "
                f"highest); {cure}"
            )
        if self.variance < 0.5 * self.noise:
            found, level = ((total / self.images) ** 0.5 for total in (self.variance, self.noise))
            raise UserError(
                f"{where}: within an image, pixels vary by {found:.3g}, less than noise of sigma {level:.3g} alone; the "
                "level counts on [-1, 1]: multiply a level in the units of the files by 2 / (high - low) of data.range"
            )
