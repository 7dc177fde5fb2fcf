"""DINOv2's encoder on random weights, against timm's own way to load them."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from encoder_images import built, imagenet, noise, sha256_of
from PIL import Image
from safetensors.torch import load_file, save_file

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Encoder, dinov2, encode
from ambient_sweep.evaluation.encoders.weights import Weights

NAME = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for 518 px, as timm publishes them."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(NAME, pretrained=False, num_classes=0)
        for name, tensor in model.state_dict().items():
            if name.endswith("gamma"):
                tensor.fill_(0.3)  # layer scale, near 0 at first
    save_file(model.state_dict(), folder / f"{NAME}.safetensors")
    return folder


@pytest.fixture
def known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(dinov2._SHA256, "small", sha256_of(folder / f"{NAME}.safetensors"))
    return folder


def small(folder: Path) -> Encoder:
    return built("fd_dinov2_small", weights_folder=str(folder))


def test_features_are_timms_class_token(known: Path) -> None:
    images = noise(2, 3, 32)
    before = torch.get_rng_state()
    encoder = small(known)
    assert torch.equal(torch.get_rng_state(), before)
    features = encode(encoder, images, 8)
    assert encoder.name == "dinov2_small@224"
    overlay = {"file": str(known / f"{NAME}.safetensors")}
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(
            NAME, pretrained=True, pretrained_cfg_overlay=overlay, img_size=224, num_classes=0
        ).eval()
    channels = images.flatten(0, 1).float().numpy()
    bicubic = np.stack([np.asarray(Image.fromarray(x).resize((224, 224), Image.BICUBIC)) for x in channels])
    x = torch.from_numpy(bicubic.clip(0, 255) / 255).reshape(2, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_features(imagenet(x))[:, 0]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert features.std(0).mean() > 0.01  # the images tell


def test_other_weights_are_refused_before_they_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2, "load_file", lambda *_, **__: pytest.fail("read unchecked"))
    with pytest.raises(UserError, match=rf"fd_dinov2_small: .*{NAME}.safetensors is not timm's {NAME}"):
        small(folder)


@pytest.mark.parametrize("change", ["renamed", "no safetensors"])
def test_weights_of_another_shape_are_refused(
    change: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{NAME}.safetensors"
    tensors = load_file(folder / f"{NAME}.safetensors")
    tensors["positions"] = tensors.pop("pos_embed")
    save_file(tensors, path)
    if change == "no safetensors":
        path.write_bytes(b"nothing of the kind")
    monkeypatch.setitem(dinov2._SHA256, "small", sha256_of(path))
    with pytest.raises(UserError, match=rf"{NAME}.safetensors: does not hold the weights of {NAME} as timm .* names"):
        small(tmp_path)


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
