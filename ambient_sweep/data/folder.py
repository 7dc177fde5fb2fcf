"""Images from a folder tree of PNG and JPEG files."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ambient_sweep.errors import UserError

# What Pillow's readers raise on damaged files
BROKEN = (
    OSError, UnidentifiedImageError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError,
    ZeroDivisionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
SUFFIXES = (".png", ".jpg", ".jpeg")


def read_folder(path: str, image_size: int, channels: int) -> tuple[NDArray[np.float32], list[str]]:
    """All images below `path`, float32 [N, H, W, C] in [0, 1], and their relative names, in the order of the names.

    Each image is turned upright (EXIF), cropped to its central square, and resized by area. Transparent parts are laid
    on white. Files whose name begins with a dot are passed over.
    Raises UserError for a folder that is missing or holds no image, and for a file that cannot be read, by its name.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"data.path: {path} is not a folder")
    files = [p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
    if not files:
        raise UserError(f"data.path: {path} holds no image ({', '.join(SUFFIXES)})")
    named = sorted((p.relative_to(root).as_posix(), p) for p in files)
    images = np.empty((len(named), image_size, image_size, channels), dtype=np.float32)
    for row, (_, file) in enumerate(named):
        images[row] = read_image(file, image_size, channels)
    return images, [name for name, _ in named]


def read_image(file: Path, image_size: int, channels: int) -> NDArray[np.float32]:
    """One image file, float32 [H, W, C] in [0, 1]. Raises UserError that names a file which cannot be read."""
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened)
            upright.load()
    except BROKEN as error:
        raise UserError(f"{file}: cannot be read as an image ({error}); remove or replace it") from None
    pixels = _pixels(upright, channels)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    planes = [
        np.asarray(Image.fromarray(square[..., c]).resize((image_size, image_size), Image.Resampling.BOX))
        for c in range(channels)
    ]
    return np.asarray(np.clip(np.stack(planes, axis=-1), 0, 1), dtype=np.float32)


def _pixels(image: Image.Image, channels: int) -> NDArray[np.float32]:
    """float32 [H, W, channels] in [0, 1]; 16-bit grey keeps its depth."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, dtype=np.float32)[..., None] / 65535
        return np.asarray(np.repeat(grey, channels, axis=-1), dtype=np.float32)
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    converted = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return np.asarray(converted.reshape(*converted.shape[:2], channels), dtype=np.float32)
