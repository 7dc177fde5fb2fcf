"""Bytes of an image file to pixels: upright, the central square, one size, one number of channels."""

import contextlib
import ctypes
import logging
import lzma
import re
import struct
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

PixelArray = NDArray[np.uint8] | NDArray[np.float32]  # [H, W, C]; 0..255, or float32 in [0, 1]
Native = NDArray[Any]  # [H, W, C], in the units of the file: uint8, or deeper

# Other readers of Pillow's are never tried, whatever the name: some start programs (EPS) or read further files
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 2**30 // 4 // 3  # of an image, Pillow's own bound for a warning; in RGB a quarter of 1 GiB
MAX_BYTES = 2**30  # of an image file
TOLERANCE = 1e-3  # share of their range by which floats may lie outside it, a quarter of a grey level; they are clipped
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's modes deeper than 8 bits
# Of 16-bit colour, Pillow keeps the upper bytes; read in the other byte order, it keeps the lower ones
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
DEEP_COLOUR = {f"{bands};16{a}": f"{bands};16{b}" for bands in ("RGB", "RGBX", "RGBA") for a, b in _OTHER_ORDER.items()}
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
# What Pillow and its libtiff say of odd files unasked, beside the reason that CorruptImage gives
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(AttributeError, OSError):  # where libtiff is linked in otherwise
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]
# What Pillow, zipfile, numpy's reader and the decompressors raise on damaged files, which they check little before reading
DAMAGED = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tokenize.TokenError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

POINTERS = {
    rb"version https://(git-lfs|hawser)\.github\.com/": "a Git LFS pointer; `git lfs pull` fetches the file",
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


@dataclass
class Window:
    """data.range: scales values of the files linearly, `low` to 0 and `high` to 1, and clips the others; safe in threads."""

    low: float
    high: float
    depth8: bool  # whether the files hold 8 bits; deeper ones count in other units
    clip: bool = True  # False for noisy observations, which would no longer be the image plus noise
    clipped: list[float] = field(default_factory=list)  # the share of values outside, per image read so far

    def note(self) -> str:
        """For people, after the images were read."""
        share = np.mean(self.clipped or [0.0])
        outside = f"; {share:.2%} of the values lay outside and are clipped" if self.clip else ", and not clipped"
        return f"scaled from [{self.low:g}, {self.high:g}]{outside}"


def decode(image: bytes | Native, size: int, channels: int, window: Window | None = None) -> PixelArray:
    """An image file or its pixels, [size, size, channels]: uint8, or float32 in [0, 1] where it is deeper or has a window.

    Turned upright (EXIF), cropped to its central square, transparent parts laid on white, resized by area; of a file of
    several pictures the first. Raises CorruptImage.
    """
    native = _native(image, channels, None if window is None else window.high) if isinstance(image, bytes) else image
    height, width, bands = native.shape
    if window is None:
        top = 1 if native.dtype == np.float32 else 65535
        return fit(native if native.dtype == np.uint8 else scaled(native, 0, top), size, channels)
    if (native.dtype == np.uint8) != window.depth8:
        raise CorruptImage("of 8 bits among deeper images, or the other way around: data.range cannot mean both")
    if not window.clip and (min(height, width), bands) != (size, channels):
        raise CorruptImage(f"{width}x{height}x{bands}: to resize or convert noisy observations changes their noise")
    return fit(scaled(native, window.low, window.high, window), size, channels)


def scaled(values: Native, low: float, high: float, window: Window | None = None) -> NDArray[np.float32]:
    """Values on [0, 1], `low` as 0 and `high` as 1; without a window, those outside are refused. Raises CorruptImage."""
    found = (values.astype(np.float64) - low) / (high - low)
    lowest, highest = found.min(), found.max()
    if not np.isfinite([lowest, highest]).all():
        raise CorruptImage("holds NaN or infinity")
    slack = TOLERANCE if values.dtype == np.float32 else 0
    if window is None and (lowest < -slack or highest > 1 + slack):
        span = f"values from {values.min():g} to {values.max():g}, outside [{low:g}, {high:g}]"
        raise CorruptImage(f"{span}; data.range=[low,high] scales them")
    if window is not None and window.clip:
        window.clipped.append(float(np.mean((found < 0) | (found > 1))))
    return (found.clip(0, 1) if window is None or window.clip else found).astype(np.float32)


def _native(data: bytes, channels: int, white: float | None) -> Native:
    """An image file in its own units, upright: uint8 of `channels`, or [H, W, 1 or 3] as float64 or float32.

    Whole numbers deeper than 8 bits become float64, floats stay float32. Transparent parts are laid on `white`, by default
    the highest value of the file's format. Raises CorruptImage.
    """
    if not data:
        raise CorruptImage("the file is empty")
    with _opened(BytesIO(data)) as image:
        if not 1 <= image.width * image.height <= MAX_PIXELS:
            raise CorruptImage(f"declares {image.width}x{image.height} pixels; it must be 1 to {MAX_PIXELS} in all")
        tags = getattr(image, "tag_v2", {})
        bits, form, kind = tags.get(BITS_PER_SAMPLE, (8,))[0], tags.get(SAMPLE_FORMAT, (1,))[0], tags.get(PHOTOMETRIC)
        if (bits, form) in ((8, 2), (32, 1)) or (bits > 8 and kind == 0):
            raise CorruptImage(
                "a TIFF of int8, of uint32, or of more than 8 bits with white as 0, which would be misread; convert it"
            )
        if image.mode == "F":
            return np.asarray(_loaded(image))[..., None]
        if _is_deep(image):
            return _deep(image, data, 65535 if white is None else white)
        return _flat(_loaded(image), channels, 255 if white is None else round(min(max(white, 0), 255)))


def _loaded(image: ImageFile.ImageFile, raw: str | None = None) -> Image.Image:
    """The image, loaded and upright; raw: Pillow's raw mode to read it by, instead of its own."""
    if raw is not None:
        args = [(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw for tile in image.tile]
        image.tile = [tile._replace(args=each) for tile, each in zip(image.tile, args, strict=True)]
    image.load()
    with contextlib.suppress(*DAMAGED):  # an unreadable EXIF block is ignored, as every viewer does
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name of how the pixels lie in the file."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file is deeper than 8 bits, even where Pillow would read it as 8."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
    return image.mode in DEEP or ";16" in _raw_mode(image) or max(bits) > 8


@dataclass(frozen=True)
class Header:
    """What an image file declares before its pixels; width and height are those before EXIF turns it."""

    width: int
    height: int
    kind: Literal["grey", "colour", "transparent"]
    deep: bool  # deeper than 8 bits


def read_header(opened: Callable[[], IO[bytes]]) -> Header | None:
    """The header of an image file; None where it cannot be read, which is reported when the image is decoded."""
    with contextlib.suppress(CorruptImage, *DAMAGED), opened() as file, _opened(file) as image:
        alpha = "A" in image.getbands() or "transparency" in image.info
        grey = image.mode in ("1", "L", *DEEP)
        return Header(*image.size, "transparent" if alpha else "grey" if grey else "colour", _is_deep(image))
    return None


def any_deep(images: Iterable[Callable[[], IO[bytes]]]) -> bool:
    """Whether the header of any of these files declares more than 8 bits."""
    return any(header is not None and header.deep for header in map(read_header, images))


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        file.seek(0)
        raise CorruptImage(pointer(file.read(512)) or f"not an image that can be read ({', '.join(FORMATS)})") from None
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


def _deep(image: ImageFile.ImageFile, data: bytes, white: float) -> NDArray[np.float64]:
    """The whole numbers of an opened file of more than 8 bits, [H, W, 1 or 3], on `white`. Raises CorruptImage."""
    raw, key = _raw_mode(image), image.info.get("transparency")
    planar = getattr(image, "tag_v2", {}).get(PLANES) == 2
    if image.mode in DEEP:
        values = np.asarray(_loaded(image), dtype=np.float64)[..., None]
    elif raw == "LA;16B":  # four bytes a pixel
        upper, lower = np.split(np.asarray(_loaded(image, "RGBA"), dtype=np.float64)[..., [0, 2, 1, 3]], 2, axis=2)
        values = 256 * upper + lower
    elif raw in DEEP_COLOUR and not planar:
        with _opened(BytesIO(data)) as again:
            upper, lower = (np.asarray(each, np.float64) for each in (_loaded(image), _loaded(again, DEEP_COLOUR[raw])))
        values = 256 * upper + lower
    else:
        raise CorruptImage(f"{image.mode} of more than 8 bits would be rounded; convert it to 16-bit grey or RGB")
    if key is not None:  # the one colour that is transparent
        values[(values == np.array(key)).all(axis=2)] = white
    bands = values.shape[2]
    if bands in (2, 4):
        alpha = values[..., -1:] / 65535
        values = values[..., :-1] * alpha + white * (1 - alpha)
    return values


def _flat(image: Image.Image, channels: int, white: int) -> NDArray[np.uint8]:
    """uint8 [H, W, channels], transparent parts laid on `white`."""
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (white, white, white, 255)), layer)
    flat = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return flat.reshape(*flat.shape[:2], channels)
