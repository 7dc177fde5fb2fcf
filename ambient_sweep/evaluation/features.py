"""Features of images by the encoders of an evaluation."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.encoders import Classifier, Encoder, build_encoder, encode


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
        """Features float32 [N, D] on `device` of images uint8 [n, C, H, W]. Raises AmbientSweepError unless finite."""
        encoder = self.get(distance, device)
        features = torch.cat([encode(encoder, block, self.config.batch_size, device) for block in blocks])
        if not features.isfinite().all():
            raise AmbientSweepError(f"{distance}: the encoder {encoder.name} gives features that are not finite")
        return features

    def real(self, distance: Distance, images: ImageSet, device: str) -> Tensor:
        """Features of real images, on the CPU."""
        return torch.cat([self.encode(distance, [block], device).cpu() for block in images.blocks()])
