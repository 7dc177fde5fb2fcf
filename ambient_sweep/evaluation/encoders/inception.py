"""clean-fid's Inception-v3 (Parmar et al. 2022), whose Frechet distance is what papers call FID."""

import numpy as np
import torch
from torch import Tensor

from ambient_sweep.evaluation.encoders.torchscript import without_torchscript_warning
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

INCEPTION = Weights(
    distance="fid",
    content="clean-fid's Inception",
    file="inception-2015-12-05.pt",  # the name that clean-fid knows
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)


class InceptionEncoder:
    """The 2048 features of clean-fid's Inception, images resized by its mode `clean`. Raises UserError."""

    name = "inception"
    batch = 50

    def __init__(self, folder: str | None, device: str) -> None:
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        path = find_weights(INCEPTION, folder)
        self.resize = build_resizer("clean")
        with without_torchscript_warning():
            self.model = InceptionV3W(str(path.parent), download=False).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        arrays = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([self.resize(array) for array in arrays]))
        features: Tensor = self.model(resized.permute(0, 3, 1, 2).to(images.device))
        return features
