from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from encoder_images import built, encode, noise
from PIL import Image
from torch import Tensor

from ambient_sweep.config import Distance
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.evaluation.encoders.base import resized


def test_every_distance_of_the_config_has_its_encoder(tmp_path: Path) -> None:
    names = set()
    for distance in get_args(Distance):
        if distance in ("fd_pixels", "fd_lite0@32", "fd_lite0@64", "fd_lite0@224"):
            names.add(built(distance).name)
        elif distance != "fd_classifier":  # its file is missing
            with pytest.raises(UserError, match=r"absent is not a folder|encoder_file"):
                built(distance, weights_folder=str(tmp_path / "absent"))
    assert len(names) == 4


def test_pixels() -> None:
    images = torch.tensor([[[[0, 255], [51, 204]]]], dtype=torch.uint8)
    torch.testing.assert_close(built("fd_pixels")(images), torch.tensor([[-1.0, 1.0, -0.6, 0.6]]))
    with pytest.raises(UserError, match="fd_pixels takes at most 12288 values per image, these have 12675"):
        built("fd_pixels")(noise(1, 3, 65))


class Recorder:
    """An encoder that notes its batches, and how torch is set while it encodes."""

    name = "recorder"
    batch = 3

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:
        cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
        self.seen.append((len(images), precision, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic))
        return images.flatten(1).float()


@pytest.mark.parametrize(("batch_size", "batches"), [(2, [2, 2, 2, 1]), (500, [3, 3, 1])])
def test_encoding_is_in_full_float32_in_batches_the_encoder_can_take(batch_size: int, batches: list[int]) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    try:
        recorder, images = Recorder(), noise(7, 1, 4)
        assert torch.equal(encode(recorder, images, batch_size), images.flatten(1).float())
        assert recorder.seen == [(n, "highest", False, False, True) for n in batches]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", before[1])
    finally:
        torch.set_float32_matmul_precision(before[0])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 48), (299, 299), (200, 400), (310, 500)])
def test_bicubic_is_clean_fids_resize(height: int, width: int) -> None:
    images = noise(2, 3, 512)[..., :height, :width].contiguous()
    resize = build_resizer("clean")
    expected = torch.from_numpy(np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images]))
    torch.testing.assert_close(resized(images, 299, "bicubic"), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-4)


def test_bilinear_is_pillows() -> None:
    images = noise(3, 1, 50)
    expected = np.stack(
        [np.asarray(Image.fromarray(image[0].float().numpy()).resize((17, 17), Image.BILINEAR)) for image in images]
    )
    torch.testing.assert_close(resized(images, 17, "bilinear")[:, 2], torch.from_numpy(expected), rtol=1e-5, atol=1e-3)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(AmbientSweepError, match="fd_pixels: the encoder recorder gives features that are not finite"):
        encode(Recorder(), torch.tensor([[[[1.0, float("nan")]]]]), 500)
