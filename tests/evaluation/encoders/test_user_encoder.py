"""An encoder of the user's own, fd_file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_images import built, encode, noise, sha256_of
from torch import Tensor

from ambient_sweep import trust
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import torchscript

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.VARIABLE, "1")


def means(x: Tensor) -> Tensor:
    """The mean of each channel."""
    return x.mean((2, 3))


def settings(network: Callable[[Tensor], Any], folder: Path, **others: Any) -> dict[str, Any]:
    """Settings with the network in a file, traced on images of 16x16."""
    path = folder / "encoder.pt"
    torch.jit.trace(network, torch.rand(2, 3, 16, 16), check_trace=False).save(str(path))
    return {"encoder_file": str(path), "encoder_sha256": sha256_of(path), "encoder_size": 16} | others


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        built("fd_file", **config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_torchscript_gets_images_of_its_size_normalised(tmp_path: Path) -> None:
    config = settings(means, tmp_path)
    images = noise(5, 3, 16)
    encoder = built("fd_file", **config)
    assert encoder.name == f"file:{config['encoder_sha256'][:12]}@16"
    features = encode(encoder, images, 2)
    x = images.double().mean((2, 3)) / 255
    expected = (x - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(features, expected.float(), rtol=1e-5, atol=1e-6)
    assert encode(built("fd_file", **config), noise(2, 1, 40), 2).shape == (2, 3)
    halves = settings(lambda x: means(x).half(), tmp_path)
    assert encode(built("fd_file", **halves), images, 2).dtype == torch.float32


def test_it_is_opened_by_consent_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(means, tmp_path)
    monkeypatch.delenv(trust.VARIABLE)
    monkeypatch.setattr(torchscript, "_load", lambda _: pytest.fail("opened"))
    assert refused(config) == (
        f"evaluation.encoder_file: {tmp_path}/encoder.pt is a TorchScript program, which runs when it is opened; if "
        "you trust where it comes from, give --trust"
    )


def test_the_hash_is_checked_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, "_load", lambda _: pytest.fail("read unchecked"))
    message = refused(settings(means, tmp_path, encoder_sha256="0" * 64))
    assert message.startswith("evaluation.encoder_file: ")
    assert "not 000000000000..." in message
    absent = {"encoder_file": str(tmp_path / "absent.pt"), "encoder_sha256": "0" * 64}
    assert "absent.pt: cannot be read (No such file" in refused(absent)
    assert "fd_file needs both" in refused({})


@pytest.mark.parametrize(
    ("network", "size", "said"),
    [
        (lambda x: x[:, :, :2, :2], 16, "into features [2, D] but into [2, 3, 2, 2]; export"),
        (lambda x: (means(x), x), 16, "into features [2, D] ('tuple' object has no attribute 'float')"),
        (
            lambda x: x.reshape(2, 3 * 16 * 16),
            20,
            "does not turn images [2, 3, 20, 20] into features [2, D] (RuntimeErr",
        ),
    ],
)
def test_other_output_is_refused_at_once(network: Callable[..., Any], size: int, said: str, tmp_path: Path) -> None:
    assert said in refused(settings(network, tmp_path, encoder_size=size))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("unpickled",)

    path = tmp_path / "encoder.pt"
    torch.save({"weights": Bomb()}, path)
    message = refused({"encoder_file": str(path), "encoder_sha256": sha256_of(path)})
    assert "encoder.pt is not TorchScript; export it by torch.jit.trace" in message
