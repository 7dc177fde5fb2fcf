"""An encoder of the user's own: a network in a TorchScript file, trusted by its hash alone."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, load_torchscript, normalised
from ambient_sweep.evaluation.encoders.weights import check_hash


def user_encoder(settings: EvaluationConfig, device: str) -> Encoder:
    """The network in evaluation.encoder_file, which turns images float32 [N, 3, size, size] into features [N, D].

    Images are resized to encoder_size, bicubic with antialiasing, then (x / 255 - encoder_mean) / encoder_std. Raises
    UserError where the file cannot be read, has another hash, or does not turn such images into features.
    """
    if settings.encoder_file is None or settings.encoder_sha256 is None:
        raise UserError("evaluation.encoder_file, encoder_sha256: fd_file needs both, the file and its SHA-256")
    path, size = Path(settings.encoder_file).expanduser(), settings.encoder_size
    mean, std = settings.encoder_mean, settings.encoder_std
    check_hash(path, settings.encoder_sha256, "evaluation.encoder_file", "give the file of evaluation.encoder_sha256")
    try:
        network = load_torchscript(path)
    except RuntimeError:
        raise UserError(f"evaluation.encoder_file: {path} is not TorchScript; export it by torch.jit.trace") from None
    name = f"file:{settings.encoder_sha256[:12]}@{size}"
    encoder = NetworkEncoder(
        name, max(1, 32 * 224**2 // size**2), network, size, "bicubic", partial(normalised, mean=mean, std=std), device
    )
    _check_output(encoder, torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device), path)
    return encoder


def _check_output(encoder: Encoder, images: Tensor, path: Path) -> None:
    """Raises UserError where the encoder does not turn `images` into features."""
    asked = (
        f"evaluation.encoder_file: {path} does not turn images {list(images.shape)} into features [{len(images)}, D]"
    )
    try:
        with torch.inference_mode():
            shape = encoder(images).shape
    except (RuntimeError, AttributeError) as error:
        last = str(error).strip().splitlines()[-1].strip()[:200]
        raise UserError(f"{asked} ({last}); check evaluation.encoder_size") from None
    if len(shape) != 2 or len(images) != shape[0]:
        raise UserError(f"{asked} but into {list(shape)}; export the network without its later layers")
