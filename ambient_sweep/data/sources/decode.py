"""Bytes of an image file to pixels: upright, the central square, one size, one number of channels."""

import contextlib
import lzma
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

PixelArray = NDArray[np.uint8] | NDArray[np.float32]  # [H, W, C]; 0..255, or float32 in [0, 1]

# Other readers of Pillow's are never tried, whatever the name: some start programs (EPS) or read further files
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 2**30 // 4 // 3  # of an image, Pillow's own bound for a warning; in RGB a quarter of 1 GiB
MAX_BYTES = 2**30  # of an image file
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's modes deeper than 8 bits
# What Pillow, zipfile, numpy's reader and the decompressors raise on damaged files, which they check little before reading
DAMAGED = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tokenize.TokenError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

POINTERS = {
    rb"version https://git-lfs\.github\.com/": "a Git LFS pointer; `git lfs pull` fetches the file",
    rb"\S*/annex/objects/": "an annexed file that is not here; `git annex get` fetches it",
}


class CorruptImage(Exception):
    """One image cannot be read; the message is the reason, in one line and without the image's name."""


def one_line(error: BaseException) -> str:
    """The message of an error, without the path that an OSError adds, or its type where it has none."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def pointer(head: bytes) -> str | None:
    """What a file is that stands for another, by its first bytes or the target of a link, and how to get the other."""
    return next((reason for start, reason in POINTERS.items() if re.match(start, head)), None)


def decode(data: bytes, size: int, channels: int) -> PixelArray:
    """An image file, [size, size, channels]: uint8, or float32 in [0, 1] where the file is deeper (16-bit grey, float).

    Turned upright (EXIF), cropped to its central square, transparent parts laid on white, resized by area; of a file of
    several pictures the first. Raises CorruptImage.
    """
    if not data:
        raise CorruptImage("the file is empty")
    with _opened(BytesIO(data)) as image:
        if not 1 <= image.width * image.height <= MAX_PIXELS:
            raise CorruptImage(f"declares {image.width}x{image.height} pixels; it must be 1 to {MAX_PIXELS} in all")
        image.load()
        with contextlib.suppress(*DAMAGED):  # an unreadable EXIF block is ignored, as every viewer does
            ImageOps.exif_transpose(image, in_place=True)
        pixels = _deep(image) if image.mode in DEEP else _flat(image, channels)
    return fit(pixels, size, channels)


@dataclass(frozen=True)
class Header:
    """What an image file declares before its pixels; width and height are those before EXIF turns it."""

    width: int
    height: int
    kind: Literal["grey", "colour", "transparent"]
    deep: bool  # deeper than 8 bits; not 16-bit colour, which Pillow reads as 8 bits


def read_header(opened: Callable[[], IO[bytes]]) -> Header | None:
    """The header of an image file; None where it cannot be read, which is reported when the image is decoded."""
    with contextlib.suppress(CorruptImage, *DAMAGED), opened() as file, _opened(file) as image:
        alpha = "A" in image.getbands() or "transparency" in image.info
        grey = image.mode in ("1", "L", *DEEP)
        return Header(*image.size, "transparent" if alpha else "grey" if grey else "colour", image.mode in DEEP)
    return None


def any_deep(images: Iterable[Callable[[], IO[bytes]]]) -> bool:
    """Whether the header of any of these files declares more than 8 bits."""
    return any(header is not None and header.deep for header in map(read_header, images))


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except CorruptImage:
        raise
    except UnidentifiedImageError:
        file.seek(0)
        raise CorruptImage(pointer(file.read(512)) or f"not an image ({', '.join(FORMATS)})") from None
    except DAMAGED as error:
        raise CorruptImage(f"cannot be read as an image ({one_line(error)})") from None


def fit(pixels: PixelArray, size: int, channels: int) -> PixelArray:
    """The central square of [H, W, C], resized by area: uint8 (rounded) from uint8, else float32; grey by luma."""
    height, width, bands = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[top : top + side, left : left + side]
    if (bands, channels) == (3, 1):
        pixels = luma(pixels)
    if side != size:
        pixels = _resized(pixels, size)
    return pixels if pixels.shape[2] == channels else cast(PixelArray, np.repeat(pixels, channels, axis=2))


def luma(pixels: PixelArray) -> PixelArray:
    """Colour [H, W, 3] to grey [H, W, 1] by Rec. 601; of uint8 as Pillow does it, so that all sources agree."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return np.asarray(np.clip(pixels @ np.array([[0.299], [0.587], [0.114]]), 0, 1), dtype=np.float32)


def _resized(pixels: PixelArray, size: int) -> PixelArray:
    """Resized by area in float32: Pillow's 8-bit path would round between the two directions."""
    planes = [
        np.asarray(Image.fromarray(pixels[..., band].astype(np.float32)).resize((size, size), Image.Resampling.BOX))
        for band in range(pixels.shape[2])
    ]
    area: NDArray[np.float32] = np.stack(planes, axis=-1)
    return np.rint(area).astype(np.uint8) if pixels.dtype == np.uint8 else np.clip(area, 0, 1)


def _deep(image: Image.Image) -> NDArray[np.float32]:
    """float32 [H, W, 1] in [0, 1] of whole numbers in 0..65535 or floats in [0, 1]."""
    values = np.asarray(image, dtype=np.float32)[..., None]
    top = 1 if image.mode == "F" else 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise CorruptImage(f"values outside [0, {top}]")
    return values / np.float32(top)


def _flat(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """uint8 [H, W, channels], transparent parts laid on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    flat = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return flat.reshape(*flat.shape[:2], channels)
