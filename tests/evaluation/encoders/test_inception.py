"""Inception's encoder on a small network in its place, against clean-fid's own wrapper and resize."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from encoder_images import built, noise, scripted, sha256_of
from torch import Tensor, nn

from ambient_sweep.evaluation.encoders import Encoder, encode, inception
from ambient_sweep.evaluation.encoders.inception import INCEPTION

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class Network(nn.Module):
    """Has what the wrapper calls: `layers`, images [N, 3, 299, 299] to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 16, 3, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2048, 3, 8), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "a name of the user's.pt"
    scripted(Network(), path)
    return path


@pytest.fixture
def encoder(network: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    sha256 = sha256_of(network)
    monkeypatch.setattr(inception, "INCEPTION", replace(INCEPTION, sha256=sha256))
    encoder = built("fid", inception_weights=str(network))
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
    assert encoder.name == "inception"
    assert features.shape == (3, 2048)
    resize = build_resizer("clean")
    arrays = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    resized = torch.from_numpy(np.stack([resize(array) for array in arrays])).permute(0, 3, 1, 2)
    (tmp_path / INCEPTION.file).symlink_to(network)
    with torch.no_grad():
        expected = InceptionV3W(str(tmp_path), download=False)(resized)
    assert torch.equal(features, expected)
