"""Images, encoded images and what tests of every source do with them."""

import os
import zipfile
from io import BytesIO
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import open_source
from ambient_sweep.errors import UserError


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def noise(count, height=8, width=8, channels=3, seed=0):
    """uint8 [count, height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def encoded(pixels, form="PNG", **options):
    """The bytes of an image file of an image or of [H, W, C] or [H, W]."""
    if not isinstance(pixels, Image.Image):
        pixels = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    file = BytesIO()
    pixels.save(file, form, **options)
    return file.getvalue()


def pack(path, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def config(source, path, **changes):
    return DataConfig(**({"source": source, "path": str(path), "image_size": 8, "channels": 3} | changes))


def opened(source, path, **changes):
    return open_source(config(source, path, **changes))


def read_all(source, size=3):
    """All images [N, H, W, C] and the corrupt rows as {name: reason}, after checks of what every source promises."""
    images, corrupt, start = [], {}, 0
    with mock.patch("ambient_sweep.data.sources.source.BLOCK_BYTES", size * int(np.prod(source.shape))):
        blocks = list(source.blocks())
    for block in blocks:
        assert block.start == start
        assert len(block.images) == min(size, len(source) - start)
        assert block.images.dtype == (np.uint8 if source.depth8 else np.float32)
        assert [row for row, _ in block.corrupt] == sorted(row for row, _ in block.corrupt)
        for row, reason in block.corrupt:
            assert not block.images[row - start].any()
            assert "\n" not in reason
            corrupt[source.names[row]] = reason
        images.append(block.images)
        start += len(block.images)
    assert start == len(source) == len(source.names)
    assert source.labels is None or source.labels.shape == (start,)
    assert source.sigma is None or source.sigma.shape == (start,)
    return np.concatenate(images).transpose(0, 2, 3, 1), corrupt


def complaint(function, *arguments, **options):
    """The one line of the UserError that the call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def outcome(source, path, **changes):
    """What becomes of a source: "refused" as a whole, in one line, or images "listed" as corrupt, or all "read"."""
    try:
        _, corrupt = read_all(opened(source, path, **changes))
    except UserError as error:
        return "refused" if "\n" not in str(error) else str(error)
    return "listed" if corrupt else "read"


def damaged(data, seed):
    """The bytes cut off somewhere, or with up to five of them changed; keyed by `seed`."""
    generator = np.random.default_rng(seed)
    broken = bytearray(data)
    if seed % 3 == 0:
        return bytes(broken[: generator.integers(0, len(broken))])
    reach = len(broken) if seed % 3 == 1 else min(len(broken), 100)  # headers say more than pixels
    for place in generator.integers(0, reach, generator.integers(1, 6)):
        broken[place] = generator.integers(0, 256)
    return bytes(broken)
