"""SSCD (Pizzi et al. 2022), a network trained to find copies of images: its cosine similarity tells memorization."""

import torch
from torch import Tensor

from ambient_sweep.evaluation.encoders.base import IMAGENET_MEAN, IMAGENET_STD, load_torchscript, normalised, resized
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

SSCD = Weights(
    distance="fd_sscd",
    content="SSCD's sscd_disc_mixup",
    file="sscd_disc_mixup.torchscript.pt",
    url="https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt",
    sha256="9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56",
)
SIZE = 288
VERSION = 1


class SscdEncoder:
    """The descriptor of `sscd_disc_mixup` (ResNet-50), 512 features of length 1.

    Images resized to 288 px, bilinear with antialiasing, ImageNet's mean and deviation; grey is repeated. Raises
    UserError where the checked weights are missing.
    """

    name = f"sscd@{SIZE}"
    batch = 32

    def __init__(self, folder: str | None, device: str) -> None:
        path, sha256 = find_weights(SSCD, folder)
        self.identity = f"{self.name}/{sha256}/{VERSION}"
        self.model = load_torchscript(path).to(device).to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        x = normalised(resized(images, SIZE, "bilinear"), IMAGENET_MEAN, IMAGENET_STD)
        features: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return features
