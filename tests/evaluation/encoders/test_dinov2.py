"""DINOv2's encoder on random weights, against timm's own way to load them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from encoder_images import noise
from PIL import Image
from safetensors.torch import load_file, save_file

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import ENCODERS, Encoder, build_encoder, dinov2, encode
from ambient_sweep.evaluation.encoders.dinov2 import architecture, dinov2_weights

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
    sha256 = hashlib.sha256((folder / f"{NAME}.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(dinov2._SHA256, "small", sha256)
    return folder


def built(folder: Path) -> Encoder:
    return build_encoder("fd_dinov2_small", settings=EvaluationConfig(weights_folder=str(folder)))


def test_features_are_timms_class_token(known: Path) -> None:
    images = noise(2, 3, 32)
    encoder = built(known)
    features = encode(encoder, images, 8)
    assert encoder.name == ENCODERS["fd_dinov2_small"]
    assert features.shape == (2, 384)
    overlay = {"file": str(known / f"{NAME}.safetensors")}
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(
            NAME, pretrained=True, pretrained_cfg_overlay=overlay, img_size=224, num_classes=0
        ).eval()
    channels = images.flatten(0, 1).float().numpy()
    bicubic = np.stack([np.asarray(Image.fromarray(x).resize((224, 224), Image.BICUBIC)) for x in channels])
    x = torch.from_numpy(bicubic.clip(0, 255) / 255).reshape(2, 3, 224, 224)
    data = timm.data.resolve_data_config(model=model)
    x = (x - torch.tensor(data["mean"])[:, None, None]) / torch.tensor(data["std"])[:, None, None]
    with torch.no_grad():
        expected = model.forward_features(x)[:, 0]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert features.std(0).mean() > 0.01  # the images tell


def test_grey_is_rgb_and_the_batch_does_not_matter(known: Path) -> None:
    grey = noise(3, 1, 28)
    encoder = built(known)
    features = encode(encoder, grey, 3)
    torch.testing.assert_close(encode(encoder, grey.expand(-1, 3, -1, -1), 2), features, rtol=1e-4, atol=1e-5)
    assert torch.equal(encode(encoder, grey, 3), features)


def test_loading_draws_nothing_from_the_global_generator(known: Path) -> None:
    before = torch.get_rng_state()
    built(known)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_weights_are_refused_before_they_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2, "load_file", lambda *_, **__: pytest.fail("read unchecked"))
    with pytest.raises(UserError, match=rf"fd_dinov2_small: .*{NAME}.safetensors is not timm's {NAME}"):
        built(folder)


@pytest.mark.parametrize("change", ["lost", "renamed", "no safetensors"])
def test_weights_of_another_shape_are_refused(
    change: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{NAME}.safetensors"
    tensors = load_file(folder / f"{NAME}.safetensors")
    if change == "lost":
        del tensors["norm.weight"]
    elif change == "renamed":
        tensors["positions"] = tensors.pop("pos_embed")
    save_file(tensors, path)
    if change == "no safetensors":
        path.write_bytes(b"nothing of the kind")
    monkeypatch.setitem(dinov2._SHA256, "small", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=rf"{NAME}.safetensors: does not hold the weights of {NAME} as timm .* names"):
        built(tmp_path)


@pytest.mark.parametrize(
    ("scale", "features", "bytes_"),
    [("small", 384, 88_240_510), ("base", 768, 346_334_872), ("large", 1024, 1_217_502_758), ("giant", 1536, None)],
)
def test_scales(scale: str, features: int, bytes_: int | None) -> None:
    """The published files' sizes are those of timm's weights in float32 and some kilobytes of names."""
    weights = dinov2_weights(scale)
    assert (weights.sha256 is None) == (bytes_ is None)
    with torch.device("meta"):
        model = timm.create_model(architecture(scale), num_classes=0)
    assert model.num_features == features
    if bytes_ is not None:
        assert 0 < bytes_ - 4 * sum(tensor.numel() for tensor in model.state_dict().values()) < 64_000
