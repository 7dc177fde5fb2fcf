"""Resizing and normalisation against Pillow and clean-fid."""

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from encoder_images import noise
from PIL import Image

from ambient_sweep.evaluation.encoders.base import resized


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


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_grey_is_repeated(mode: str) -> None:
    grey = noise(2, 1, 9)
    rgb = resized(grey.expand(-1, 3, -1, -1), 30, mode)
    torch.testing.assert_close(resized(grey, 30, mode), rgb, rtol=0, atol=1e-4)
