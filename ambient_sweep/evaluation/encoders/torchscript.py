"""Encoders that come as TorchScript files: SSCD, trusted by its hash, and the user's own, by --trust."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ambient_sweep import trust
from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, imagenet_normalised
from ambient_sweep.evaluation.encoders.weights import Weights, check_hash, find_weights

SSCD = Weights(
    distance="fd_sscd",
    content="SSCD's sscd_disc_mixup",
    file="sscd_disc_mixup.torchscript.pt",
    url="https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt",
    sha256="9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56",
)
SSCD_SIZE = 288


def sscd_encoder(folder: str | None, device: str) -> Encoder:
    """SSCD (Pizzi et al. 2022), a network trained to find copies of images: its cosine similarity reveals memorization.

    The descriptor of `sscd_disc_mixup` (ResNet-50), 512 features of length 1, of images resized to 288 px. Bilinear with
    antialiasing, ImageNet's mean and deviation. Raises UserError where the checked weights are missing.
    """
    network, layout = _load(find_weights(SSCD, folder)), torch.channels_last
    return NetworkEncoder(f"sscd@{SSCD_SIZE}", 32, network, SSCD_SIZE, "bilinear", imagenet_normalised, device, layout)


def user_encoder(settings: EvaluationConfig, device: str) -> Encoder:
    """The network in evaluation.encoder_file, which turns images float32 [N, 3, size, size] into features [N, D].

    Images are resized to encoder_size, bicubic with antialiasing, then normalised by ImageNet's mean and deviation. Raises
    UserError without --trust, and for a file that cannot be read, has another hash, or does not turn images into features.
    """
    if settings.encoder_file is None or settings.encoder_sha256 is None:
        raise UserError("evaluation.encoder_file, encoder_sha256: fd_file needs both, the file and its SHA-256")
    check_trusted(settings)
    path, size = Path(settings.encoder_file).expanduser(), settings.encoder_size
    check_hash(path, settings.encoder_sha256, "evaluation.encoder_file", "give the file of evaluation.encoder_sha256")
    try:
        network = _load(path)
    except RuntimeError:
        raise UserError(f"evaluation.encoder_file: {path} is not TorchScript; export it by torch.jit.trace") from None
    name, batch = f"file:{settings.encoder_sha256[:12]}@{size}", max(1, 32 * 224**2 // size**2)
    encoder = NetworkEncoder(name, batch, network, size, "bicubic", imagenet_normalised, device)
    asked = f"evaluation.encoder_file: {path} does not turn images [2, 3, {size}, {size}] into features [2, D]"
    try:
        with torch.inference_mode():
            shape = encoder(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device)).shape
    except (RuntimeError, AttributeError) as error:
        last = str(error).strip().splitlines()[-1].strip()[:200]
        raise UserError(f"{asked} ({last}); check evaluation.encoder_size") from None
    if len(shape) != 2 or shape[0] != 2:
        raise UserError(f"{asked} but into {list(shape)}; export the network without its later layers")
    return encoder


def check_trusted(settings: EvaluationConfig) -> None:
    """Raises UserError for an encoder of the config's own without --trust: its hash stands in the same config."""
    if settings.encoder_file is not None:
        trust.require(
            f"evaluation.encoder_file: {settings.encoder_file} is a TorchScript program, which runs when it is opened"
        )


def _load(path: Path) -> Any:
    """The network in a TorchScript file, on the CPU, for inference. Raises RuntimeError for any other file."""
    with without_torchscript_warning():
        return torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]


@contextmanager
def without_torchscript_warning() -> Iterator[None]:
    """Silences torch's warning about the age of TorchScript, the form in which some networks are published."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        yield
