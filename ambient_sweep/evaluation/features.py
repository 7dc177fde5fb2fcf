"""Features of images; those of real images are computed once per (images, encoder) and may be kept on disk."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Classifier, Encoder, build_encoder, encode
from ambient_sweep.storage import new_file, sha256, write_atomic

Features = NDArray[np.float32]  # [N, D]; in memory, or mapped from a file


class Encoders:
    """The encoders of an evaluation's distances, each built once per device; `classifier` for fd_classifier."""

    def __init__(self, config: EvaluationConfig, classifier: Classifier | None = None) -> None:
        self.config, self.classifier = config, classifier
        self._built: dict[tuple[Distance, str], Encoder] = {}

    def get(self, distance: Distance, device: str) -> Encoder:
        """The encoder of `distance` on `device`. Raises UserError where its package or weights are missing."""
        if (distance, device) not in self._built:
            self._built[distance, device] = build_encoder(
                distance, self.config, device=device, classifier=self.classifier
            )
        return self._built[distance, device]

    def encode(self, distance: Distance, blocks: Iterable[Tensor], device: str) -> Tensor:
        """Features float32 [N, D] on `device` of blocks of images uint8 [n, C, H, W]."""
        encoder = self.get(distance, device)
        return torch.cat([encode(encoder, block, self.config.batch_size, device) for block in blocks])

    def real(self, distance: Distance, images: ImageSet, device: str, cache: Path | None) -> Features:
        """Features of real images, read from the folder `cache` if they are there and kept in it otherwise."""
        return cached_features(
            None if distance in ("fd_pixels", "fd_classifier") else cache,
            images.fingerprint,
            self.get(distance, device).identity,
            len(images),
            lambda: (self.encode(distance, [block], device) for block in images.blocks()),
        )


def cached_features(
    folder: Path | None, fingerprint: str, identity: str, count: int, batches: Callable[[], Iterator[Tensor]]
) -> Features:
    """The features [count, D] that `batches` yields in order, from `folder` where they have been computed before.

    fingerprint: of the images. identity: of the encoder, its weights and its resize. A file whose hash is wrong is
    replaced. With folder=None nothing is kept. Raises UserError where `folder` cannot be written.
    """
    if folder is None:
        return np.concatenate([batch.cpu().numpy() for batch in batches()])
    path = folder / f"{hashlib.sha256(f'{fingerprint} {identity} {count}'.encode()).hexdigest()[:32]}.npy"
    hash_file = path.with_suffix(".sha256")
    if path.exists() and hash_file.exists() and hash_file.read_text() == sha256(path):
        return _mapped(path)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # features tell of private images
        features = np.concatenate([batch.cpu().numpy() for batch in batches()])
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, features)
        write_atomic(hash_file, sha256(path).encode())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); free space there, or use --no-cache"
        ) from None
    return _mapped(path)


def _mapped(path: Path) -> Features:
    features: Features = np.load(path, mmap_mode="r", allow_pickle=False)
    return features


class Mapped:
    """Rows of an array as tensors, read when they are asked for: targets of `neighbours.nearest`.

    shape: of a row, where it is not the array's own.
    """

    def __init__(self, array: NDArray[np.float32], shape: tuple[int, ...] | None = None) -> None:
        self._array = array
        self._shape = array.shape[1:] if shape is None else shape

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: slice) -> Tensor:
        return torch.from_numpy(np.array(self._array[rows])).view(-1, *self._shape)
