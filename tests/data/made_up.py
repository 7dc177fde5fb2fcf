"""A source of made-up images, and stores of them."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from ambient_sweep.config import DataConfig
from ambient_sweep.data import dataset, prepare_input
from ambient_sweep.data.prepare import Options, prepare
from ambient_sweep.data.sources import Block


@dataclass
class MadeUp:
    """What `Source` offers, of an array [N, H, W, C]; `corrupt` maps rows to reasons."""

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    sigma: np.ndarray | None = None
    corrupt: dict[int, str] = field(default_factory=dict)
    fail_at: int | None = None  # row at which reading raises `failure`
    failure: type[BaseException] = KeyboardInterrupt
    readings: int = 0
    name: str = "photo {:03d}.png"

    @property
    def names(self):
        return [self.name.format(i) for i in range(len(self))]

    @property
    def depth8(self):
        return self.images.dtype == np.uint8

    def __len__(self):
        return len(self.images)

    def blocks(self, size):
        self.readings += 1
        for start in range(0, len(self), size):
            if self.fail_at is not None and start >= self.fail_at:
                raise self.failure
            part = self.images[start : start + size].copy()
            bad = [(row, self.corrupt[row]) for row in range(start, start + len(part)) if row in self.corrupt]
            part[[row - start for row, _ in bad]] = 0
            yield Block(start, part, bad)


def pictures(count, side=8, channels=3, seed=0, dtype=np.uint8):
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return values if dtype == np.uint8 else (values / 255).astype(np.float32)


def use(monkeypatch: pytest.MonkeyPatch, source: MadeUp, **changes) -> DataConfig:
    """Makes `source` what every folder holds; returns the keys that read it."""
    for module in (dataset, prepare_input):
        monkeypatch.setattr(module, "open_source", lambda config: source)
    side, channels = source.images.shape[2:]
    return DataConfig(**{"source": "folder", "path": "/photos", "image_size": side, "channels": channels} | changes)


def store_of(out, config, **options) -> DataConfig:
    """Prepares a store at `out`; returns the keys that read it."""
    prepare(out, config, Options(**options), lambda line: None)
    changes = {"source": "store", "path": str(out), "train_size": None, "heldout_size": None, "on_corrupt": "refuse"}
    return config.model_copy(update=changes)
