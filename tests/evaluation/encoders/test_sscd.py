"""SSCD's encoder on a small network in its place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_images import built, imagenet, noise, randomised, scripted
from PIL import Image
from torch import Tensor, nn

from ambient_sweep.evaluation.encoders import encode
from ambient_sweep.evaluation.encoders.sscd import SSCD

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class Network(nn.Module):
    """A convolution, and the length of its features set to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 512, 16, 16, bias=False, device="meta").to_empty(device="cpu")
        randomised([self.convolution.weight.data], 0)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.convolution(x).clamp(min=0).mean((2, 3)))


def test_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    sha256 = scripted(network, tmp_path / SSCD.file)
    monkeypatch.setattr("ambient_sweep.evaluation.encoders.sscd.SSCD", replace(SSCD, sha256=sha256))
    encoder = built("fd_sscd", weights_folder=str(tmp_path))
    assert encoder.name == "sscd@288"
    images = noise(3, 1, 40)
    features = encode(encoder, images, 8)
    bilinear = [np.asarray(Image.fromarray(x.float().numpy()).resize((288, 288), Image.BILINEAR)) for x in images[:, 0]]
    x = torch.from_numpy(np.stack(bilinear) / 255)[:, None].expand(-1, 3, -1, -1).float()
    with torch.no_grad():
        torch.testing.assert_close(features, network(imagenet(x)), rtol=1e-4, atol=1e-5)
