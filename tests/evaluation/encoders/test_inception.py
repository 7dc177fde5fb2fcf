"""Inception's encoder on a small network in its place, against clean-fid's own wrapper and resize."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from encoder_images import noise
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.evaluation.encoders import ENCODERS, Encoder, build_encoder, encode, inception
from ambient_sweep.evaluation.encoders.inception import INCEPTION

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class Convolution(nn.Module):
    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(features)
        self.stride = stride
        self.weight = nn.Parameter(torch.randn(features, channels, 3, 3, generator=generator) / channels**0.5)
        self.beta = nn.Parameter(torch.randn(features, generator=generator))
        self.register_buffer("mean", torch.randn(features, generator=generator))
        self.register_buffer("var", 0.5 + torch.rand(features, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight.to(x.dtype), stride=self.stride)
        return F.relu(F.batch_norm(x, self.mean, self.var, bias=self.beta, eps=1e-3))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(3, 16, 4), Convolution(16, 32, 4), Convolution(32, 2048, 4), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "a name of the user's.pt"
    torch.jit.script(Network().eval()).save(str(path))
    return path


@pytest.fixture
def encoder(network: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "INCEPTION", replace(INCEPTION, sha256=sha256))
    encoder = build_encoder("fid", settings=EvaluationConfig(inception_weights=str(network)))
    assert sha256 in encoder.identity
    return encoder


def test_pinned_hash_and_address() -> None:
    assert inception_url == INCEPTION.url
    assert INCEPTION.sha256 == "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 20), (3, 320)])
def test_features_are_those_of_clean_fid_to_the_bit(
    encoder: Encoder, network: Path, channels: int, side: int, tmp_path: Path
) -> None:
    images = noise(3, channels, side)
    features = encode(encoder, images, 500)
    assert encoder.name == ENCODERS["fid"]
    assert features.shape == (3, 2048)
    resize = build_resizer("clean")
    arrays = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    resized = torch.from_numpy(np.stack([resize(array) for array in arrays])).permute(0, 3, 1, 2)
    (tmp_path / INCEPTION.file).symlink_to(network)
    with torch.no_grad():
        expected = InceptionV3W(str(tmp_path), download=False)(resized)
    assert torch.equal(features, expected)


def test_features_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    images = noise(7, 3, 16)
    features = encode(encoder, images, 7)
    torch.testing.assert_close(encode(encoder, images, 2), features, rtol=1e-5, atol=1e-6)
    assert torch.equal(encode(encoder, images, 7), features)
