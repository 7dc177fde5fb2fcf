import struct
import zlib
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from pictures import damaged, encoded, noise
from PIL import Image

from ambient_sweep.data.sources.decode import CorruptImage, any_deep, decode, fit, luma, read_header

PICTURE = noise(1, 24, 20)[0]
GREY16 = PICTURE[..., 0].astype(np.uint16) * 257
PALETTE = Image.fromarray(PICTURE).quantize(32)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by 90 degrees
FILES = {
    "png": encoded(PICTURE),
    "png with exif": encoded(PICTURE, exif=EXIF),
    "png with a transparent colour": encoded(PALETTE, transparency=3),
    "16-bit png": encoded(GREY16),
    "jpeg": encoded(PICTURE, "JPEG", exif=EXIF),
    "progressive jpeg": encoded(PICTURE, "JPEG", progressive=True),
    "webp": encoded(PICTURE, "WEBP"),
    "bmp": encoded(PICTURE, "BMP"),
    "gif": encoded(PALETTE, "GIF"),
    "moving gif": encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)]),
    "tiff": encoded(PICTURE, "TIFF"),
    "tiff by deflate": encoded(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "16-bit tiff": encoded(GREY16, "TIFF"),
    "float tiff": encoded((PICTURE[..., 0] / 255).astype(np.float32), "TIFF"),
}
DEEP = {"16-bit png", "16-bit tiff", "float tiff"}


def reason(data, size=8, channels=3):
    with pytest.raises(CorruptImage) as caught:
        decode(data, size, channels)
    return str(caught.value)


def png_header(width, height):
    """A PNG file that declares this size and ends there."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_images_are_cropped_to_the_middle_averaged_by_area_and_rounded(factor):
    """Against averages taken by hand; ties to even."""
    pixels = noise(1, 4 * factor, 6 * factor)[0]
    middle = pixels[:, factor : 5 * factor].astype(np.float64)
    expected = np.rint(middle.reshape(4, factor, 4, factor, 3).mean((1, 3)))
    result = decode(encoded(pixels), 4, 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA", "I;16", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read(mode, channels):
    white = Image.new("RGB", (20, 10), "white")
    if mode == "I;16":
        data = encoded(np.full((10, 20), 65535, np.uint16))
    else:
        data = encoded(white.convert(mode), "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    result = decode(data, 4, channels)
    assert result.shape == (4, 4, channels)
    np.testing.assert_allclose(result / (1 if mode == "I;16" else 255), 1, atol=0.02)


def test_deep_files_keep_their_depth_and_are_told_by_their_headers():
    for form in ("PNG", "TIFF"):
        result = decode(encoded(np.full((6, 6), 1000, np.uint16), form), 4, 3)
        np.testing.assert_allclose(result, np.full((4, 4, 3), 1000 / 65535), rtol=1e-6)
    levels = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(decode(encoded(levels, "TIFF"), 4, 1)[..., 0], levels)
    for name, data in FILES.items():
        assert (decode(data, 8, 3).dtype == np.float32) == any_deep([partial(BytesIO, data)]) == (name in DEEP), name
    assert not any_deep([partial(BytesIO, b"no image")])


@pytest.mark.parametrize("value", [70000, -1, np.nan, np.inf, -0.5, 1.5])
def test_deep_values_out_of_range_are_corrupt(value):
    whole = isinstance(value, int)
    levels = np.zeros((8, 8), np.int32 if whole else np.float32)
    levels[3, 4] = value
    said = f"outside [0, {65535 if whole else 1}]" if np.isfinite(value) else "holds NaN or infinity"
    assert said in reason(encoded(Image.fromarray(levels), "TIFF"))


def test_transparent_parts_are_white_and_the_first_picture_of_several_is_read():
    np.testing.assert_array_equal(decode(FILES["moving gif"], 8, 3), decode(FILES["gif"], 8, 3))
    for image in (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("LA", (4, 4), (0, 0))):
        assert (decode(encoded(image), 4, 3) == 255).all()
    assert (decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), 4, 1) == 127).all()


TURNS = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}  # fmt: skip


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", TURNS)
def test_images_are_turned_upright(form, turn):
    """Against numpy, by the table in the EXIF standard."""
    exif = Image.Exif()
    exif[0x0112] = turn
    square = np.kron(noise(1, 4, 4)[0], np.ones((8, 8, 1), np.uint8))
    found, expected = decode(encoded(square, form, exif=exif), 32, 3), TURNS[turn](square)
    assert np.abs(found.astype(int) - expected).mean() < (15 if form in ("JPEG", "WEBP") else 1e-9)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense and more of it", b"Exif\0\0MM\0*"])
def test_an_unreadable_exif_block_does_not_cost_the_image(form, exif):
    np.testing.assert_array_equal(decode(encoded(PICTURE, form, exif=exif), 8, 3), decode(encoded(PICTURE, form), 8, 3))


def test_grey_is_the_same_from_files_and_from_arrays():
    np.testing.assert_array_equal(luma(PICTURE)[..., 0], np.asarray(Image.fromarray(PICTURE).convert("L")))
    np.testing.assert_array_equal(fit(PICTURE, 8, 1), decode(encoded(PICTURE), 8, 1))
    np.testing.assert_allclose(luma((PICTURE / 255).astype(np.float32)), luma(PICTURE) / 255, atol=0.6 / 255)


def test_what_is_no_image_says_so():
    assert reason(b"") == "the file is empty"
    other = encoded(PICTURE, "PPM")  # which Pillow reads, but not this package
    assert Image.open(BytesIO(other)).format == "PPM"
    for data in (b"plain text", b"\0" * 1000, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", other):
        assert "not an image" in reason(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 9_000), (100_000, 100_000), (2**31 - 1, 1), (0, 5)])
def test_bombs_are_corrupt_and_never_unpacked(size):
    message = reason(png_header(*size))
    assert "declares" in message or "decompression bomb" in message or size == (0, 5)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of much of what it reads here
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_corrupt_or_whole(name):
    """Nothing in between: what decodes has the whole file's pixels."""
    data = FILES[name]
    whole = decode(data, 8, 3)
    refused = 0
    for length in sorted({*range(0, len(data), 23), *range(len(data) - 20, len(data))}):
        try:
            np.testing.assert_array_equal(decode(data[:length], 8, 3), whole)
        except CorruptImage:
            refused += 1
    assert refused > 10
    if "jpeg" in name:
        assert "truncated" in reason(data[:-2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 500), marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.parametrize("name", FILES)
def test_damage_never_raises_anything_else(name, seeds):
    reasons = set()
    for seed in seeds:
        data = damaged(FILES[name], seed)
        read_header(partial(BytesIO, data))
        try:
            result = decode(data, 8, 3)
        except CorruptImage as error:
            reasons.add(str(error))
        else:
            assert result.shape == (8, 8, 3)
            assert np.isfinite(result).all()
    assert reasons
    assert not [reason for reason in reasons if "\n" in reason or " at 0x" in reason]  # an address would not repeat
