"""An encoder of the user's own, fd_file."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from encoder_images import noise
from safetensors.torch import save_file
from torch import Tensor, nn

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Encoder, build_encoder, encode, user

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class Means(nn.Module):
    """The mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).half()


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :2, :2]


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).sum((2, 3))


class Ratios(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.mean((2, 3)) / 0


class Wide(nn.Module):
    """Takes images of 16 pixels only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 3 * 16 * 16)


def settings(path: Path, **others: Any) -> EvaluationConfig:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return EvaluationConfig(**{"encoder_file": str(path), "encoder_sha256": sha256, "encoder_size": 16} | others)


def scripted(module: nn.Module, folder: Path, **others: Any) -> EvaluationConfig:
    path = folder / "encoder.pt"
    torch.jit.script(module.eval()).save(str(path))
    return settings(path, **others)


def built(config: EvaluationConfig) -> Encoder:
    return build_encoder("fd_file", settings=config)


def refused(config: EvaluationConfig) -> str:
    with pytest.raises(UserError) as caught:
        built(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- TorchScript ----------------------------------------------------------------------------------------------------


def test_torchscript_gets_images_of_its_size_normalised(tmp_path: Path) -> None:
    config = scripted(Means(), tmp_path, encoder_mean=(0.5, 0.25, 0.0), encoder_std=(0.5, 0.25, 2.0))
    images = noise(5, 3, 16)
    features = encode(built(config), images, 2)
    x = images.double().mean((2, 3)) / 255
    expected = (x - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([0.5, 0.25, 2.0])
    torch.testing.assert_close(features, expected.float(), rtol=1e-5, atol=1e-6)
    assert encode(built(config), noise(2, 1, 40), 2).shape == (2, 3)


def test_features_are_made_float32(tmp_path: Path) -> None:
    assert encode(built(scripted(Halves(), tmp_path)), noise(2, 3, 16), 2).dtype == torch.float32


def test_its_name_and_identity_tell_file_size_and_normalisation(tmp_path: Path) -> None:
    config = scripted(Means(), tmp_path)
    encoder = built(config)
    assert encoder.name == f"file:{str(config.encoder_sha256)[:12]}@16"
    assert encoder.identity != built(config.model_copy(update={"encoder_size": 17})).identity
    assert encoder.identity != built(config.model_copy(update={"encoder_mean": (0.5, 0.5, 0.5)})).identity
    assert encoder.identity == built(config).identity


def test_the_hash_is_checked_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user, "load_torchscript", lambda _: pytest.fail("read unchecked"))
    config = scripted(Means(), tmp_path, encoder_sha256="0" * 64)
    assert "evaluation.encoder_sha256: " in refused(config)
    assert "not 000000000000..." in refused(config)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = EvaluationConfig(encoder_file=str(tmp_path / "absent.pt"), encoder_sha256="0" * 64)
    assert "absent.pt: cannot be read: No such file" in refused(config)
    assert "fd_file needs both" in refused(EvaluationConfig())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Maps(), "gives [2, 3, 2, 2] for 2 images, not features [2, D]"),
        (Pairs(), "gives tuple for 2 images"),
        (Counts(), "no finite real numbers"),
        (Ratios(), "no finite real numbers"),
    ],
)
def test_other_output_is_refused_at_once(module: nn.Module, said: str, tmp_path: Path) -> None:
    assert said in refused(scripted(module, tmp_path))


def test_another_input_size_is_refused(tmp_path: Path) -> None:
    assert built(scripted(Wide(), tmp_path))
    assert "does not take images [N, 3, 20, 20]" in refused(scripted(Wide(), tmp_path, encoder_size=20))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("unpickled",)

    path = tmp_path / "encoder.pt"
    torch.save({"weights": Bomb()}, path)
    assert "encoder.pt is no TorchScript; export it by torch.jit.trace" in refused(settings(path))


# -- safetensors ----------------------------------------------------------------------------------------------------


def saved(architecture: str, folder: Path, **options: Any) -> tuple[nn.Module, Path]:
    """A network of timm's with random weights and normalisation, saved with its last layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(architecture, pretrained=False, **options).train()
        model(torch.randn(4, 3, 160, 160))
    path = folder / "encoder.safetensors"
    save_file(model.state_dict(), path)
    return model.eval(), path


@pytest.mark.parametrize("architecture", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_safetensors_go_into_timms_architecture(architecture: str, tmp_path: Path) -> None:
    model, path = saved(architecture, tmp_path)
    config = settings(path, encoder_model=architecture, encoder_size=160)
    images = noise(3, 3, 160)
    before = torch.get_rng_state()
    features = encode(built(config), images, 3)
    assert torch.equal(torch.get_rng_state(), before)
    x = images.float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)  # type: ignore[operator]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encode(built(config), images, 2), features, rtol=1e-4, atol=1e-5)


def test_safetensors_must_fit_exactly(tmp_path: Path) -> None:
    model, path = saved("test_vit", tmp_path)
    assert "timm " in refused(settings(path, encoder_model="no_such_model"))
    assert "does not hold the weights of test_resnet" in refused(settings(path, encoder_model="test_resnet"))
    message = refused(settings(path, encoder_model="test_vit", encoder_size=80))
    assert "does not hold the weights of test_vit at 80 px (size mismatch for pos_embed" in message
    tensors = model.state_dict()
    save_file({name: tensor for name, tensor in tensors.items() if name != "norm.bias"}, path)
    assert "norm.bias" in refused(settings(path, encoder_model="test_vit", encoder_size=160))
    path.write_bytes(b"nothing of the kind")
    assert "is no safetensors" in refused(settings(path, encoder_model="test_vit"))
