"""An encoder of the user's own: a network in a TorchScript file, trusted by its hash alone."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, load_torchscript, normalised
from ambient_sweep.storage import sha256

VERSION = 1


def user_encoder(settings: EvaluationConfig, device: str) -> Encoder:
    """What the network in evaluation.encoder_file makes of images float32 [N, 3, size, size]: features [N, D].

    Images are resized to encoder_size, bicubic with antialiasing, then (x / 255 - encoder_mean) / encoder_std. Raises
    UserError where the hash is another, the file cannot be read, does not take such images or gives no finite features.
    """
    if settings.encoder_file is None or settings.encoder_sha256 is None:
        raise UserError("evaluation.encoder_file, encoder_sha256: fd_file needs both, the file and its SHA-256")
    path, size = Path(settings.encoder_file).expanduser(), settings.encoder_size
    mean, std = settings.encoder_mean, settings.encoder_std
    _check_hash(path, settings.encoder_sha256)
    try:
        network = _CheckedNetwork(load_torchscript(path), path)
    except RuntimeError:
        raise UserError(f"evaluation.encoder_file: {path} is not TorchScript; export it by torch.jit.trace") from None
    name = f"file:{settings.encoder_sha256[:12]}@{size}"
    encoder = NetworkEncoder(
        name, f"{name}/{settings.encoder_sha256}/{mean}/{std}/{VERSION}", max(1, 32 * 224**2 // size**2), network,
        size, "bicubic", partial(normalised, mean=mean, std=std), device,
    )  # fmt: skip
    with torch.inference_mode():
        encoder(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device))
    return encoder


class _CheckedNetwork(nn.Module):
    """Images float32 [N, 3, size, size] -> features float32 [N, D]. Raises UserError for any other output."""

    def __init__(self, network: Any, path: Path) -> None:
        super().__init__()
        self.network, self.path = network, path

    def forward(self, x: Tensor) -> Tensor:
        try:
            features = self.network(x)
        except RuntimeError as error:
            raise UserError(
                f"evaluation.encoder_file: {self.path} does not take images [N, 3, {x.shape[2]}, {x.shape[3]}] "
                f"({str(error).strip().splitlines()[-1].strip()[:200]}); check evaluation.encoder_size"
            ) from None
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(x):
            found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"evaluation.encoder_file: {self.path} gives {found} for {len(x)} images, not features [{len(x)}, D]; "
                "export the network without its later layers"
            )
        if not features.is_floating_point() or not features.isfinite().all():
            raise UserError(f"evaluation.encoder_file: {self.path} gives values that are not finite real numbers")
        return features.float()


def _check_hash(path: Path, wanted: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"evaluation.encoder_file: {path}: cannot be read: {error.strerror}") from None
    if found != wanted:
        raise UserError(
            f"evaluation.encoder_sha256: {path} has {found[:12]}..., not {wanted[:12]}...; give the file meant"
        )
