from pathlib import Path
from typing import get_args

import pytest
import torch
from encoder_images import built, noise
from torch import Tensor

from ambient_sweep.config import Distance
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import encode


def test_every_distance_of_the_config_has_its_encoder(tmp_path: Path) -> None:
    identities = set()
    for distance in get_args(Distance):
        if distance in ("fd_pixels", "fd_lite0@32", "fd_lite0@64", "fd_lite0@224"):
            encoder = built(distance)
            assert encoder.identity.startswith(f"{encoder.name}/")
            identities.add(encoder.identity)
        elif distance != "fd_classifier":  # its file is missing
            with pytest.raises(UserError, match=r"absent is not a folder|encoder_file"):
                built(distance, weights_folder=str(tmp_path / "absent"))
    assert len(identities) == 4


def test_pixels() -> None:
    images = torch.tensor([[[[0, 255], [51, 204]]]], dtype=torch.uint8)
    torch.testing.assert_close(built("fd_pixels")(images), torch.tensor([[-1.0, 1.0, -0.6, 0.6]]))
    with pytest.raises(UserError, match="fd_pixels takes at most 12288 values per image, these have 12675"):
        built("fd_pixels")(noise(1, 3, 65))


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
