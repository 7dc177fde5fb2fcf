"""An encoder of the user's own, fd_file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_images import noise, scripted, sha256_of
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


def settings(module: nn.Module, folder: Path, **others: Any) -> EvaluationConfig:
    path = folder / "encoder.pt"
    sha256 = scripted(module, path)
    return EvaluationConfig(**{"encoder_file": str(path), "encoder_sha256": sha256, "encoder_size": 16} | others)


def built(config: EvaluationConfig) -> Encoder:
    return build_encoder("fd_file", config)


def refused(config: EvaluationConfig) -> str:
    with pytest.raises(UserError) as caught:
        built(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_torchscript_gets_images_of_its_size_normalised(tmp_path: Path) -> None:
    config = settings(Means(), tmp_path, encoder_mean=(0.5, 0.25, 0.0), encoder_std=(0.5, 0.25, 2.0))
    images = noise(5, 3, 16)
    features = encode(built(config), images, 2)
    x = images.double().mean((2, 3)) / 255
    expected = (x - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([0.5, 0.25, 2.0])
    torch.testing.assert_close(features, expected.float(), rtol=1e-5, atol=1e-6)
    assert encode(built(config), noise(2, 1, 40), 2).shape == (2, 3)
    assert encode(built(settings(Halves(), tmp_path)), images, 2).dtype == torch.float32


def test_its_name_and_identity_tell_file_size_and_normalisation(tmp_path: Path) -> None:
    config = settings(Means(), tmp_path)
    encoder = built(config)
    assert encoder.name == f"file:{str(config.encoder_sha256)[:12]}@16"
    assert encoder.identity != built(config.model_copy(update={"encoder_size": 17})).identity
    assert encoder.identity != built(config.model_copy(update={"encoder_mean": (0.5, 0.5, 0.5)})).identity
    assert encoder.identity == built(config).identity


def test_the_hash_is_checked_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user, "load_torchscript", lambda _: pytest.fail("read unchecked"))
    config = settings(Means(), tmp_path, encoder_sha256="0" * 64)
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
        (Counts(), "not finite real numbers"),
        (Ratios(), "not finite real numbers"),
    ],
)
def test_other_output_is_refused_at_once(module: nn.Module, said: str, tmp_path: Path) -> None:
    assert said in refused(settings(module, tmp_path))


def test_another_input_size_is_refused(tmp_path: Path) -> None:
    assert built(settings(Wide(), tmp_path))
    assert "does not take images [N, 3, 20, 20]" in refused(settings(Wide(), tmp_path, encoder_size=20))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("unpickled",)

    path = tmp_path / "encoder.pt"
    torch.save({"weights": Bomb()}, path)
    config = EvaluationConfig(encoder_file=str(path), encoder_sha256=sha256_of(path))
    assert "encoder.pt is not TorchScript; export it by torch.jit.trace" in refused(config)
