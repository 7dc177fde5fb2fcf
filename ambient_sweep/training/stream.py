"""The endless, shuffled stream of training images."""

from dataclasses import dataclass

import numpy as np
import torch

from ambient_sweep import rng
from ambient_sweep.data.observed import ObservedImages


@dataclass(frozen=True)
class Batch:
    """The images at positions start .. start + len of the training stream."""

    start: int
    y: torch.Tensor  # [N,C,H,W]
    sigma_n: torch.Tensor  # [N]
    clean: torch.Tensor | None
    labels: torch.Tensor | None = None  # int64 [N]
    classes: int = 0

    def __len__(self) -> int:
        return len(self.y)


class Stream:
    """Maps each position to an image by keyed permutations, one per epoch, independent of batches and workers."""

    def __init__(self, observed: ObservedImages, seed: int, flip: bool) -> None:
        self.observed, self.seed, self.flip = observed, seed, flip
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, start: int, count: int) -> Batch:
        o = self.observed
        y, sigma_n, clean, labels = o.read(np.array([self._at(p) for p in range(start, start + count)]))
        if self.flip:
            mirrored = torch.from_numpy(rng.uniform("train.flip", self.seed, start, count)[:, 0] < 0.5)
            y = torch.where(mirrored[:, None, None, None], y.flip(3), y)
            clean = None if clean is None else torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        return Batch(start, y, sigma_n, clean, labels, o.classes)

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.observed))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = rng.permutation("train.epoch", self.seed, epoch, len(self.observed))
        return int(self._order[offset])
