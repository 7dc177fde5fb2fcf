"""SSCD, which comes as a TorchScript file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, imagenet_normalised
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

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
    with without_torchscript_warning():
        network = torch.jit.load(find_weights(SSCD, folder), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    layout = torch.channels_last
    return NetworkEncoder(f"sscd@{SSCD_SIZE}", 32, network, SSCD_SIZE, "bilinear", imagenet_normalised, device, layout)


@contextmanager
def without_torchscript_warning() -> Iterator[None]:
    """Silences torch's warning about the age of TorchScript, the form in which some networks are published."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        yield
