"""A source of made-up images, and stores of them."""

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module

import numpy as np
import pytest

from ambient_sweep.config import DataConfig
from ambient_sweep.data.prepare import prepare
from ambient_sweep.data.sources.decode import CorruptImage
from ambient_sweep.data.sources.source import Source


@dataclass
class MadeUp:
    """An array [N, H, W, C], to be read by a `Source`; `corrupt` maps rows to reasons."""

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    sigma: np.ndarray | None = None
    corrupt: dict[int, str] = field(default_factory=dict)
    fail_at: int | None = None  # row at which reading raises `failure`
    failure: type[BaseException] = KeyboardInterrupt
    readings: int = 0
    name: str = "photo {:03d}.png"

    def source(self) -> Source:
        count, side, _, channels = self.images.shape
        names, depth8 = [self.name.format(i) for i in range(count)], self.images.dtype == np.uint8
        return Source(names, self.loaders, side, channels, depth8, self.labels, self.classes, self.sigma)

    def loaders(self):
        self.readings += 1
        for row in range(len(self.images)):
            if row == self.fail_at:
                raise self.failure
            yield partial(self.load, row)

    def load(self, row):
        if row in self.corrupt:
            raise CorruptImage(self.corrupt[row])
        return self.images[row]


def pictures(count, side=8, channels=3, seed=0, dtype=np.uint8):
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return values if dtype == np.uint8 else (values / 255).astype(np.float32)


def use(monkeypatch: pytest.MonkeyPatch, made_up: MadeUp, block: int = 4096, **changes) -> DataConfig:
    """Makes `made_up` what every folder holds, read `block` images at a time; returns the keys that read it."""
    for module in ("dataset", "prepare"):
        monkeypatch.setattr(f"ambient_sweep.data.{module}.open_source", lambda config: made_up.source())
    monkeypatch.setattr(
        import_module("ambient_sweep.data.sources.source"), "BLOCK_BYTES", block * made_up.images[0].size
    )
    side, channels = made_up.images.shape[2:]
    return DataConfig(**{"source": "folder", "path": "/photos", "image_size": side, "channels": channels} | changes)


def store_of(out, config, **options) -> DataConfig:
    """Prepares a store at `out`; returns the keys that read it."""
    prepare(out, config, lambda line: None, **options)
    changes = {"source": "store", "path": str(out), "train_size": None, "heldout_size": None, "on_corrupt": "refuse"}
    return config.model_copy(update=changes)
