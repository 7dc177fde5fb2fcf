"""Bytes of an image file to pixels: upright, the central square, one size, one number of channels."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

Pixels = NDArray[np.uint8] | NDArray[np.float32]  # [H, W, C]; 0..255, or float32 in [0, 1]

# Only these readers are ever tried, whatever the name: some of Pillow's others start programs (EPS) or read further files
_READERS = (
    PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile, WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile, GifImagePlugin.GifImageFile, TiffImagePlugin.TiffImageFile,
)  # fmt: skip
FORMATS = tuple(str(reader.format) for reader in _READERS)
# What these readers raise on damaged files
BROKEN = (
    OSError, UnidentifiedImageError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, EOFError, ZeroDivisionError, NotImplementedError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
MAX_BYTES = 2**30  # of an image file
MAX_PIXELS = 2**30 // 4 // 3  # of an image, Pillow's own bound for a warning; in RGB a quarter of 1 GiB
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's modes deeper than 8 bits
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_TRANSPOSED = (5, 6, 7, 8)  # orientations that change width for height


class CorruptImage(Exception):
    """One image cannot be had; the message is the reason, in one line and without the image's name."""


def decode(data: bytes, size: int, channels: int) -> Pixels:
    """An image file, [size, size, channels]: uint8, or float32 in [0, 1] where the file is deeper (16-bit grey, float).

    Turned upright (EXIF), cropped to its central square, transparent parts laid on white, resized by area; of a file of
    several pictures the first. Raises CorruptImage.
    """
    if not data:
        raise CorruptImage("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImage(f"declares {image.width}x{image.height} pixels, more than {MAX_PIXELS} in all")
            if min(image.size) < 1:
                raise CorruptImage("has no pixels")
            image.load()
            square = _square(_upright(image))
            pixels = _deep(square) if square.mode in DEEP else _flat(square, channels)
    except UnidentifiedImageError:
        raise CorruptImage(f"not an image ({', '.join(FORMATS)})") from None
    except BROKEN as error:
        raise CorruptImage(f"cannot be read as an image ({_line(error)})") from None
    return fit(pixels, size, channels)


@dataclass(frozen=True)
class Frame:
    """What an image file's header says: its size as shown, and what its pixels are."""

    width: int
    height: int
    kind: Literal["grey", "colour", "alpha"]


def frame_of(data: bytes) -> Frame:
    """The frame of an image file, by its header alone. Raises CorruptImage."""
    if not data:
        raise CorruptImage("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            turned = _orientation(image) in _TRANSPOSED
            size = image.size[::-1] if turned else image.size
            alpha = "A" in image.getbands() or "transparency" in image.info
            grey = image.mode in ("1", "L", *DEEP)
            return Frame(*size, "alpha" if alpha else "grey" if grey else "colour")
    except UnidentifiedImageError:
        raise CorruptImage(f"not an image ({', '.join(FORMATS)})") from None
    except BROKEN as error:
        raise CorruptImage(f"cannot be read as an image ({_line(error)})") from None


def is_deep(file: IO[bytes]) -> bool:
    """Whether the image file is deeper than 8 bits, by its header alone; False for one that cannot be read."""
    head = file.read(26)
    if head.startswith(_PNG):
        return head[24:26] == b"\x10\x00"  # IHDR: 16 bits, grey; Pillow reads 16-bit colour as 8 bits
    if not head.startswith(_TIFF):
        return False
    file.seek(0)
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            return image.mode in DEEP
    except BROKEN:
        return False


def fit(pixels: Pixels, size: int, channels: int) -> Pixels:
    """The central square of [H, W, C], resized by area, with `channels` channels: uint8 (rounded) from uint8, else float32.

    Colour becomes grey by Rec. 601's luma; grey becomes three equal channels.
    """
    height, width, bands = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[top : top + side, left : left + side]
    if (bands, channels) == (3, 1):
        pixels = luma(pixels)
    if side != size:
        pixels = _resized(pixels, size)
    return pixels if pixels.shape[2] == channels else cast(Pixels, np.repeat(pixels, channels, axis=2))


def luma(pixels: Pixels) -> Pixels:
    """Colour [..., 3] to grey [..., 1] by Rec. 601; uint8 in Pillow's fixed-point arithmetic, so that all sources agree."""
    if pixels.dtype == np.uint8:
        weighed = pixels.astype(np.uint32) @ np.array([[19595], [38470], [7471]], dtype=np.uint32)
        return ((weighed + 0x8000) >> 16).astype(np.uint8)
    return np.asarray(np.clip(pixels @ np.array([[0.299], [0.587], [0.114]]), 0, 1), dtype=np.float32)


def _resized(pixels: Pixels, size: int) -> Pixels:
    """Resized by area in float32: Pillow's 8-bit path would round between the two directions."""
    planes = [
        np.asarray(Image.fromarray(pixels[..., band].astype(np.float32)).resize((size, size), Image.Resampling.BOX))
        for band in range(pixels.shape[2])
    ]
    area: NDArray[np.float32] = np.stack(planes, axis=-1)
    return np.rint(area).astype(np.uint8) if pixels.dtype == np.uint8 else np.clip(area, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation asks."""
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's; 1 (as it lies) where that cannot be read, as every viewer shows it."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BROKEN:
        return 1


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image if image.width == image.height else image.crop((left, top, left + side, top + side))


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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
