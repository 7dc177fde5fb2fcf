"""The encoders of published TorchScript files, on small networks in their place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from encoder_images import built, encode, imagenet, noise, scripted
from PIL import Image
from torch import Tensor, nn

from ambient_sweep.evaluation.encoders import inception, torchscript
from ambient_sweep.evaluation.encoders.inception import INCEPTION
from ambient_sweep.evaluation.encoders.torchscript import SSCD

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


def convolution(features: int, size: int) -> nn.Conv2d:
    layer = nn.Conv2d(3, features, size, size, bias=False, device="meta").to_empty(device="cpu")
    layer.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return layer


class StandIn(nn.Module):
    """Has what clean-fid's wrapper calls: `layers`, images [N, 3, 299, 299] to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(2048, 30), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Normalised(nn.Module):
    """A convolution, and the length of its features set to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = convolution(512, 16)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.convolution(x).clamp(min=0).mean((2, 3)))


def test_inception_is_clean_fids_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inception_url == INCEPTION.url
    sha256 = scripted(StandIn(), tmp_path / INCEPTION.file)
    monkeypatch.setattr(inception, "INCEPTION", replace(INCEPTION, sha256=sha256))
    encoder = built("fid", weights_folder=str(tmp_path))
    assert encoder.name == "inception"
    theirs, resize = InceptionV3W(str(tmp_path), download=False), build_resizer("clean")
    for channels, side in ((3, 32), (1, 20), (3, 320)):
        images = noise(3, channels, side)
        features = encode(encoder, images, 500)
        assert features.shape == (3, 2048)
        arrays = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        with torch.no_grad():
            expected = theirs(torch.from_numpy(np.stack([resize(array) for array in arrays])).permute(0, 3, 1, 2))
        assert torch.equal(features, expected)


def test_sscd_gets_images_of_288_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Normalised()
    monkeypatch.setattr(torchscript, "SSCD", replace(SSCD, sha256=scripted(network, tmp_path / SSCD.file)))
    encoder = built("fd_sscd", weights_folder=str(tmp_path))
    assert encoder.name == "sscd@288"
    images = noise(3, 1, 40)
    features = encode(encoder, images, 8)
    bilinear = [np.asarray(Image.fromarray(x.float().numpy()).resize((288, 288), Image.BILINEAR)) for x in images[:, 0]]
    x = torch.from_numpy(np.stack(bilinear) / 255)[:, None].expand(-1, 3, -1, -1).float()
    with torch.no_grad():
        torch.testing.assert_close(features, network(imagenet(x)), rtol=1e-4, atol=1e-5)
