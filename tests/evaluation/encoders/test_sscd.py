"""SSCD's encoder on a small network in its place."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_images import noise
from PIL import Image
from torch import Tensor, nn

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.evaluation.encoders import ENCODERS, build_encoder, encode, sscd
from ambient_sweep.evaluation.encoders.sscd import SSCD

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class Network(nn.Module):
    """A convolution, normalised, and the length of its features set to 1."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convolution, self.norm = nn.Conv2d(3, 512, 16, 16), nn.BatchNorm2d(512)
        nn.init.normal_(self.convolution.weight, std=0.1, generator=generator)
        nn.init.normal_(self.norm.running_mean, generator=generator)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.norm(self.convolution(x)).clamp(min=0).mean((2, 3)))


def test_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        network = Network().eval()
    path = tmp_path / SSCD.file
    torch.jit.script(network).save(str(path))
    monkeypatch.setattr(sscd, "SSCD", replace(SSCD, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    encoder = build_encoder("fd_sscd", settings=EvaluationConfig(weights_folder=str(tmp_path)))
    assert encoder.name == ENCODERS["fd_sscd"]
    images = noise(3, 1, 40)
    features = encode(encoder, images, 8)
    assert features.shape == (3, 512)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encode(encoder, images, 1), features, rtol=1e-4, atol=1e-6)

    bilinear = [np.asarray(Image.fromarray(x.float().numpy()).resize((288, 288), Image.BILINEAR)) for x in images[:, 0]]
    x = torch.from_numpy(np.stack(bilinear) / 255)[:, None].expand(-1, 3, -1, -1).float()
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(features, network(x), rtol=1e-4, atol=1e-5)
