"""What turns images uint8 [N, C, H, W] into features float32 [N, D], one module per encoder, with its own resize."""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.encoders.base import Encoder, PixelEncoder
from ambient_sweep.evaluation.encoders.classifier import (
    Classifier,
    ClassifierEncoder,
    classes_of,
    empty_classifier,
    train_classifier,
)
from ambient_sweep.evaluation.encoders.dinov2 import dinov2_encoder
from ambient_sweep.evaluation.encoders.inception import InceptionEncoder
from ambient_sweep.evaluation.encoders.lite0 import lite0_encoder
from ambient_sweep.evaluation.encoders.torchscript import sscd_encoder, user_encoder
from ambient_sweep.terminal import advance
from ambient_sweep.training.compute import exact_float32

__all__ = ["Classifier", "Encoder", "Encoders", "classes_of", "empty_classifier", "train_classifier"]


class Encoders:
    """The encoders of an evaluation's distances, each built once per device; `classifier` for fd_classifier."""

    def __init__(self, config: EvaluationConfig, classifier: Classifier | None = None) -> None:
        self.config, self.classifier = config, classifier
        self._built: dict[tuple[Distance, str], Encoder] = {}

    def get(self, distance: Distance, device: str) -> Encoder:
        """The encoder of `distance` on `device`. Raises UserError where its weights are missing: never another one."""
        key = distance, device
        if key not in self._built:
            self._built[key] = self._build(distance, device)
        return self._built[key]

    def _build(self, distance: Distance, device: str) -> Encoder:
        folder, (kind, _, size) = self.config.weights_folder, distance.partition("@")
        match kind:
            case "fd_pixels":
                return PixelEncoder()
            case "fd_classifier" if self.classifier is not None:
                return ClassifierEncoder(self.classifier, device)
            case "fd_lite0":
                return lite0_encoder(int(size), device)
            case "fid":
                return InceptionEncoder(folder, device)
            case "fd_sscd":
                return sscd_encoder(folder, device)
            case "fd_file":
                return user_encoder(self.config, device)
            case "fd_dinov2_small" | "fd_dinov2_base" | "fd_dinov2_large":
                return dinov2_encoder(kind.removeprefix("fd_dinov2_"), folder, device)
        raise ValueError(f"{distance}: no such encoder, or no classifier given")

    def encode(self, distance: Distance, blocks: Iterable[Tensor], count: int, device: str, to: str = "") -> Tensor:
        """Features float32 [N, D] on `to`, or `device`, of `count` images uint8 [n, C, H, W] in blocks.

        The same on every call. Raises AmbientSweepError unless finite.
        """
        encoder, found, done = self.get(distance, device), list[Tensor](), 0
        size = min(self.config.batch_size, encoder.batch)
        with torch.inference_mode(), exact_float32():
            for batch in itertools.chain.from_iterable(torch.split(block, size) for block in blocks):
                found.append(encoder(batch.to(device)).to(to or device))
                done += len(batch)
                advance(f"encoding by {distance}", done, count)
        features = torch.cat(found)
        if not features.isfinite().all():
            raise AmbientSweepError(f"{distance}: the encoder {encoder.name} gives features that are not finite")
        return features

    def real(self, distance: Distance, images: ImageSet, device: str) -> Tensor:
        """Features of real images, on the CPU."""
        return self.encode(distance, images.blocks(), len(images), device, to="cpu")
