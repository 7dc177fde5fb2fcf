"""SSCD (Pizzi et al. 2022), a network trained to find copies of images: its cosine similarity reveals memorization."""

import torch

from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, imagenet_normalised, load_torchscript
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

SSCD = Weights(
    distance="fd_sscd",
    content="SSCD's sscd_disc_mixup",
    file="sscd_disc_mixup.torchscript.pt",
    url="https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt",
    sha256="9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56",
)
SIZE = 288


def sscd_encoder(folder: str | None, device: str) -> Encoder:
    """The descriptor of `sscd_disc_mixup` (ResNet-50), 512 features of length 1, of images resized to 288 px.

    Bilinear with antialiasing, ImageNet's mean and deviation. Raises UserError where the checked weights are missing.
    """
    network = load_torchscript(find_weights(SSCD, folder))
    return NetworkEncoder(
        f"sscd@{SIZE}", 32, network, SIZE, "bilinear", imagenet_normalised, device, torch.channels_last
    )
