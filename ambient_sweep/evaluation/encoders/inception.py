"""clean-fid's Inception-v3 (Parmar et al. 2022), whose Frechet distance is what papers call FID."""

import torch
from torch import Tensor

from ambient_sweep.evaluation.encoders.base import resized
from ambient_sweep.evaluation.encoders.torchscript import load_torchscript
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

INCEPTION = Weights(
    distance="fid",
    content="clean-fid's Inception",
    file="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    key="evaluation.inception_weights",
)
SIZE = 299
VERSION = 2  # 1: Pillow's own resize


class InceptionEncoder:
    """The 2048 features of clean-fid's Inception, images resized as by clean-fid's mode `clean`.

    Input (x - 128) / 128 for x in 0..255; grey is repeated. Raises UserError where the checked weights are missing.
    """

    name = "inception"
    batch = 50

    def __init__(self, given: str | None, folder: str | None, device: str) -> None:
        path, sha256 = find_weights(INCEPTION, folder, given)
        self.identity = f"{self.name}/{sha256}/{VERSION}"
        self.layers = load_torchscript(path).layers.to(device).to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        x = (resized(images, SIZE, "bicubic") - 128) / 128
        features: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last)).flatten(1)
        return features
