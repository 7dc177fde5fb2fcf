"""A source of images, split by seed into training and held-out images."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import DataConfig
from ambient_sweep.data.folder import read_folder
from ambient_sweep.errors import UserError

MIN_HELDOUT = 2


@dataclass(frozen=True)
class Source:
    """All images of a source, float32 [N, H, W, C] in [0, 1], in an order that does not depend on the machine."""

    images: NDArray[np.float32]
    names: list[str]
    labels: NDArray[np.int64] | None  # [N]


@dataclass(frozen=True)
class ImageData:
    """The clean images of a run; float32 NCHW in [-1, 1]. `*_index` is an image's place in its source."""

    train: torch.Tensor
    heldout: torch.Tensor
    train_index: torch.Tensor
    heldout_index: torch.Tensor
    train_labels: torch.Tensor | None
    heldout_labels: torch.Tensor | None
    names: list[str]  # of the whole source
    fingerprint: str  # of pixels and split

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def split(self) -> dict[str, Any]:
        """Which image trains and which is held out, by name and place in the source, as plain JSON types."""
        return {
            "fingerprint": self.fingerprint,
            "train": [{"index": i, "name": self.names[i]} for i in self.train_index.tolist()],
            "heldout": [{"index": i, "name": self.names[i]} for i in self.heldout_index.tolist()],
        }


def load_data(config: DataConfig) -> ImageData:
    """Reads the source and splits it. Raises UserError for a bad folder or file, or where images are too few."""
    source = _digits() if config.source == "digits" else read_source(config)
    count = len(source.names)
    train_size = config.train_size or (count - config.heldout_size if config.heldout_size else count * 9 // 10)
    heldout_size = count - train_size if config.heldout_size is None else config.heldout_size
    if train_size + max(heldout_size, MIN_HELDOUT) > count:
        wanted = f"data.train_size={train_size}"
        wanted += f" and {MIN_HELDOUT} held out" if config.heldout_size is None else f" and {heldout_size} held out"
        raise UserError(
            f"{config.path or config.source}: {count} images are fewer than {wanted}; lower data.train_size"
        )
    order = rng.permutation("data.split", config.split_seed, 0, count)
    train_index = torch.from_numpy(order[:train_size].copy())
    heldout_index = torch.from_numpy(order[count - heldout_size :].copy())
    images = torch.from_numpy(source.images).permute(0, 3, 1, 2).contiguous() * 2 - 1
    labels = None if source.labels is None else torch.from_numpy(source.labels)
    train, heldout = images[train_index], images[heldout_index]
    return ImageData(
        train=train,
        heldout=heldout,
        train_index=train_index,
        heldout_index=heldout_index,
        train_labels=None if labels is None else labels[train_index],
        heldout_labels=None if labels is None else labels[heldout_index],
        names=source.names,
        fingerprint=_fingerprint(train, heldout, train_index, heldout_index),
    )


def read_source(config: DataConfig) -> Source:
    """The folder source of `config`."""
    if config.path is None:
        raise UserError("data.path: missing; data.source=folder needs the folder of the images")
    images, names = read_folder(config.path, config.image_size, config.channels)
    return Source(images, names, folder_labels(names))


def folder_labels(names: list[str]) -> NDArray[np.int64] | None:
    """Class numbers from the first subfolder, where every image lies in one and there are at least two; else None."""
    if not all("/" in name for name in names):
        return None
    classes = [name.split("/", 1)[0] for name in names]
    numbers = {name: number for number, name in enumerate(sorted(set(classes)))}
    return np.array([numbers[name] for name in classes], dtype=np.int64) if len(numbers) > 1 else None


def _digits() -> Source:
    """The 1,797 handwritten digits of scikit-learn, 8x8, with 17 grey levels (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    return Source(images, [f"digit-{i:04d}" for i in range(len(images))], bunch.target.astype(np.int64))


def _fingerprint(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
