"""Features of images; those of real images are computed once per (images, encoder) and may be kept on disk."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.evaluation.encoders import Classifier, Encoder, build_encoder, encode
from ambient_sweep.storage import new_file, sha256, write_atomic


class Encoders:
    """The encoders of an evaluation's distances, each built once per device; `classifier` for fd_classifier."""

    def __init__(self, config: EvaluationConfig, classifier: Classifier | None = None) -> None:
        self.config, self.classifier = config, classifier
        self._built: dict[tuple[Distance, str], Encoder] = {}

    def get(self, distance: Distance, device: str) -> Encoder:
        """The encoder of `distance` on `device`. Raises UserError where its weights are missing."""
        key = distance, device
        if key not in self._built:
            self._built[key] = build_encoder(distance, self.config, device=device, classifier=self.classifier)
        return self._built[key]

    def encode(self, distance: Distance, blocks: Iterable[Tensor], device: str) -> Tensor:
        """Features float32 [N, D] on `device` of blocks of images uint8 [n, C, H, W].

        Raises AmbientSweepError where they are not finite.
        """
        encoder = self.get(distance, device)
        features = torch.cat([encode(encoder, block, self.config.batch_size, device) for block in blocks])
        if not features.isfinite().all():
            raise AmbientSweepError(f"{distance}: the encoder {encoder.name} gives features that are not finite")
        return features

    def real(self, distance: Distance, images: ImageSet, device: str, cache: Path | None) -> Tensor:
        """Features of real images on the CPU, read from the folder `cache` if they are there and kept in it otherwise."""

        def encoded() -> Tensor:
            return torch.cat([self.encode(distance, [block], device).cpu() for block in images.blocks()])

        if cache is None or distance in ("fd_pixels", "fd_classifier"):
            return encoded()
        return cached_features(cache, images.fingerprint, self.get(distance, device).identity, encoded)


def cached_features(folder: Path, fingerprint: str, identity: str, encoded: Callable[[], Tensor]) -> Tensor:
    """The features [N, D] that `encoded` gives, mapped from `folder`, where they may have been kept before.

    fingerprint: of the images. identity: of the encoder, its weights and its resize. A file whose hash is wrong is
    replaced. Raises UserError where `folder` cannot be written.
    """
    path = folder / f"{hashlib.sha256(f'{fingerprint} {identity}'.encode()).hexdigest()[:32]}.npy"
    hash_file = path.with_suffix(".sha256")
    try:
        if not (path.exists() and hash_file.exists() and hash_file.read_text() == sha256(path)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # features tell of private images
            with new_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, encoded().numpy())
            write_atomic(hash_file, sha256(path).encode())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); free space, or use --no-cache") from None
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))  # writable, as torch wants
