"""DINOv2's encoder on random weights, against a network whose position embedding torch resamples."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from encoder_images import built, encode, imagenet, noise, sha256_of
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import dinov2
from ambient_sweep.evaluation.encoders.weights import Weights

NAME = "vit_small_patch14_dinov2.lvd142m"


def test_features_are_timms_class_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / f"{NAME}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        published, model = (timm.create_model(NAME, img_size=side, num_classes=0) for side in (518, 224))
    weights = published.state_dict()
    for name, tensor in weights.items():
        if name.endswith("gamma"):
            tensor.fill_(0.3)  # layer scale, near 0 at first
    save_file(weights, file)
    with pytest.raises(UserError, match=rf"fd_dinov2_small: .*{NAME}.safetensors has sha256 .* give timm's {NAME}"):
        built("fd_dinov2_small", weights_folder=str(tmp_path))
    monkeypatch.setitem(dinov2._SHA256, "small", sha256_of(file))
    before = torch.get_rng_state()
    encoder = built("fd_dinov2_small", weights_folder=str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
    images = noise(2, 3, 32)
    features = encode(encoder, images, 8)
    assert encoder.name == "dinov2_small@224"

    patches = weights["pos_embed"][:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    resampled = interpolate(patches, (16, 16), mode="bicubic", antialias=True).flatten(2).mT
    model.load_state_dict(weights | {"pos_embed": torch.cat([weights["pos_embed"][:, :1], resampled], 1)})
    channels = images.flatten(0, 1).float().numpy()
    bicubic = np.stack([np.asarray(Image.fromarray(x).resize((224, 224), Image.BICUBIC)) for x in channels])
    x = torch.from_numpy(bicubic.clip(0, 255) / 255).reshape(2, 3, 224, 224)
    with torch.no_grad():
        expected = model.eval().forward_features(imagenet(x))[:, 0]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert features.std(0).mean() > 0.01  # the images tell


@pytest.mark.parametrize(("scale", "features"), [("small", 384), ("base", 768), ("large", 1024)])
def test_every_scale_is_timms(scale: str, features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(weights: Weights, folder: str | None) -> Path:
        asked.append(weights.file.removesuffix(".safetensors"))
        raise UserError("no weights")

    monkeypatch.setattr(dinov2, "find_weights", refuse)
    with pytest.raises(UserError, match="no weights"):
        built(f"fd_dinov2_{scale}")
    with torch.device("meta"):
        assert timm.create_model(asked[0], num_classes=0).num_features == features
