"""Observations made elsewhere: images that arrive with their noise, which has to be as it was."""

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.data.sources import Source, open_source
from ambient_sweep.errors import UserError

COMPARED = 64  # observations, with their clean images
COARSE = 0.003  # on [-1, 1]: steps of 10 bits are finer, steps of 8 bits coarser
VALUES, SAME = 256, 1e-6  # compared in a channel of an image; a gap below which two are equal


def open_observations(config: DataConfig, sigma: float | None) -> tuple[Source, float | None]:
    """The source that `config` names, to be read without clipping, and the lowest level of its noise above 0.

    sigma: the level of all images, unless data.sigma_column names their own. Raises UserError.
    """
    where = f"--observations: {config.path}"
    if config.range is None:
        raise UserError(f"{where}: set data.range to the values for black and white before the noise, as [-1,1]")
    source = open_source(config, clip=False)
    if (own := source.sigma) is None:
        return source, sigma
    if np.isnan(own).any() or not own.any():
        raise UserError(f"{where}: {config.sigma_column} must give every image its noise level, not 0 for all")
    return source, float(str(own[own > 0].min()))  # 0.1 as people write it, not as float64 has float32's


def check_distance(observed: Pixels, clean: Pixels, levels: NDArray[np.float32] | float, where: str) -> None:
    """Raises UserError where observations do not differ from the clean images by noise of their level, or levels, [N]."""
    rows = np.linspace(0, len(observed) - 1, min(len(observed), COMPARED)).astype(np.int64)
    found = float((observed[rows] - clean[rows]).square().mean()) ** 0.5
    noise = float(np.square(np.broadcast_to(levels, len(observed))[rows]).mean()) ** 0.5
    if not 0.8 * noise < found < 1.25 * noise:
        raise UserError(
            f"{where}: the observations differ from these images by {found:.3g}, not by noise of {noise:.3g}, "
            "counted on [-1, 1]; give the clean images in the same order and data.range, or correct the noise level"
        )


class NoiseCheck:
    """Gathers what tells rounded and clipped observations from those whose noise is as it was, by channels of an image."""

    def __init__(self, sigma: float) -> None:
        self.coarse = min(COARSE, sigma / 4)
        self.images = self.rounded = self.values = self.ties = 0

    def add(self, pixels: NDArray[np.float32]) -> None:
        """Noisy images [n, C, H, W] on [-1, 1].

        Of n values in a step of rounding, on average, a share of 1 - (1 - exp(-n)) / n equals the next value.
        """
        values = pixels.reshape(-1, int(np.prod(pixels.shape[2:])))  # a channel of an image per row
        gaps = np.diff(np.sort(values[:, :: -(-values.shape[1] // VALUES)], axis=1), axis=1)
        amid = gaps[:, gaps.shape[1] // 4 : -(gaps.shape[1] // 4)]
        span, widest = amid.sum(axis=1), amid.max(axis=1)
        span -= np.where(widest > span / 2, widest, 0)  # the gap between dark and bright parts
        held = self.coarse / np.maximum(span / amid.shape[1], SAME)
        share = 1 - (1 - np.exp(-held)) / held
        rounded = (amid < SAME).mean(axis=1) > share + 2 * np.sqrt(share * (1 - share) / amid.shape[1])
        ends = (values == values.min(axis=1, keepdims=True)) | (values == values.max(axis=1, keepdims=True))
        self.images, self.values = self.images + len(pixels), self.values + values.size
        self.rounded += int(rounded.reshape(pixels.shape[:2]).any(axis=1).sum())
        self.ties += int(ends.sum()) - 2 * len(values)

    def refuse_altered(self, where: str) -> None:
        """Raises UserError where more than single images were rounded or clipped."""
        cure = "export them as floats, before anything is rounded or clipped"
        if self.rounded > 2 + 0.01 * self.images:
            raise UserError(f"{where}: {self.rounded:,} of {self.images:,} observations look rounded; {cure}")
        if self.ties > max(self.images, 0.001 * self.values):
            share = f"{self.ties / self.values:.1%} of the values lie exactly at their image's lowest or highest"
            raise UserError(f"{where}: the observations look clipped ({share}); {cure}")
