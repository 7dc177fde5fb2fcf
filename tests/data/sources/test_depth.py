"""Files deeper than 8 bits: read in full, or refused."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from pictures import encoded, opened, read_all
from PIL import Image

from ambient_sweep.data.sources.decode import CorruptImage, decode, read_header

KINDS = {0: 1, 2: 3, 4: 2, 6: 4}  # PNG's colour types: grey, RGB, grey with alpha, RGBA


def samples(bands, side=8, seed=0):
    """Random uint16 [side, side, bands]: both bytes of a value matter."""
    return np.random.default_rng(seed).integers(0, 65536, (side, side, bands), dtype=np.uint16)


def png(pixels, kind, **chunks):
    """A 16-bit PNG of [H, W, bands], with more chunks by name before the pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    parts += [chunk(name.encode(), data) for name, data in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(pixels, order="<", photometric=2, deflate=False, planes=1, **tags):
    """A TIFF of [H, W, bands], uint16; tags: more of them, by their number, as in t338=1."""
    height, width, bands = pixels.shape
    data = (pixels if planes == 1 else pixels.transpose(2, 0, 1)).astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflate else data
    entries = {256: width, 257: height, 258: 16, 259: 8 if deflate else 1, 262: photometric, 273: 8, 277: bands}
    entries |= {278: height, 279: len(data), 284: planes} | {int(name[1:]): value for name, value in tags.items()}
    where = 8 + len(data)
    extra = where + 2 + 12 * len(entries) + 4
    table = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258 and bands > 2:
            table += struct.pack(f"{order}HHII", tag, 3, bands, extra)
        elif tag == 258 and bands == 2:
            table += struct.pack(f"{order}HHIHH", tag, 3, 2, 16, 16)
        else:
            table += struct.pack(f"{order}HHII", tag, 4, 1, value)
    bits = struct.pack(f"{order}{bands}H", *[16] * bands)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return head + struct.pack(f"{order}I", where) + data + table + struct.pack(f"{order}I", 0) + bits


def on_white(pixels):
    """[H, W, bands] as float64 in [0, 1], transparent parts on white."""
    values = pixels / 65535
    return values if values.shape[2] % 2 else values[..., :-1] * values[..., -1:] + 1 - values[..., -1:]


def check(data, expected):
    bands = expected.shape[2]
    assert read_header(lambda: BytesIO(data)).deep
    result = decode(data, 8, bands)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_png_of_every_kind_is_read_in_full(kind):
    pixels = samples(KINDS[kind])
    check(png(pixels, kind), on_white(pixels))


@pytest.mark.parametrize("kind", [0, 2])
def test_a_transparent_colour_of_16_bits_is_white(kind):
    pixels = samples(KINDS[kind])
    key = pixels[2, 3].astype(">u2").tobytes()
    expected = pixels / 65535
    expected[2, 3] = 1
    check(png(pixels, kind, tRNS=key), expected)


@pytest.mark.parametrize("kind", [4, 6])
def test_half_transparent_parts_are_laid_on_the_white_of_the_range(tmp_path, kind):
    deep, alpha = samples(KINDS[kind]) // 16, 32768
    deep[..., -1] = alpha
    (tmp_path / "1.png").write_bytes(png(deep, kind))
    shares = np.array([alpha / 65535, 1 - alpha / 65535])
    found = read_all(opened("folder", tmp_path, range=(0, 4095), channels=KINDS[kind] - 1))[0]
    np.testing.assert_allclose(found[0], deep[..., :-1] / 4095 * shares[0] + shares[1], atol=1e-6)
    (tmp_path / "1.png").write_bytes(encoded(Image.new("RGBA", (8, 8), (100, 60, 0, 51))))
    found = read_all(opened("folder", tmp_path, range=(0, 200)))[0]
    np.testing.assert_allclose(found[0, 0, 0] * 200, [180, 172, 160], atol=1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflate", [False, True])
def test_16_bit_colour_tiff_is_read_in_full(order, deflate):
    check(tiff(samples(3), order, deflate=deflate), samples(3) / 65535)
    check(tiff(samples(4), order, deflate=deflate, t338=2), on_white(samples(4)))
    check(tiff(samples(4), order, deflate=deflate, t338=0), samples(4)[..., :3] / 65535)
    check(tiff(samples(1), order, 1, deflate), samples(1) / 65535)
    exact = samples(3).astype(np.float32) / np.float32(65535)
    np.testing.assert_array_equal(decode(tiff(samples(3), order, deflate=deflate), 8, 3), exact)


UNREADABLE = {
    "CMYK": tiff(samples(4), photometric=5),
    "colours multiplied by alpha": tiff(samples(4), t338=1),
    "a plane per colour": tiff(samples(3), planes=2),
    "a deflated plane per colour": tiff(samples(3), planes=2, deflate=True),
    "grey with alpha": tiff(samples(2), photometric=1, t338=2),
    "Lab": tiff(samples(3), photometric=8),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_would_be_rounded_is_refused(kind):
    with pytest.raises(CorruptImage, match=r"would be rounded; convert it|not an image"):
        decode(UNREADABLE[kind], 8, 3)


def test_16_bit_colour_is_turned_upright():
    pixels = samples(3)
    turned = tiff(pixels, t274=6)
    np.testing.assert_allclose(decode(turned, 8, 3), np.rot90(pixels, -1) / 65535, atol=1e-7)


def test_a_folder_with_16_bit_colour_is_float(tmp_path):
    (tmp_path / "a.png").write_bytes(png(samples(3), 2))
    (tmp_path / "b.png").write_bytes(png(samples(4), 6))
    source = opened("folder", tmp_path)
    images, corrupt = read_all(source)
    assert (source.depth8, corrupt) == (False, {})
    np.testing.assert_allclose(images, [samples(3) / 65535, on_white(samples(4))], atol=1e-7)


@pytest.mark.parametrize(
    "tags",
    [{"photometric": 0}, {"photometric": 0, "t258": 32, "t339": 3}, {"t258": 8, "t339": 2}, {"t258": 32, "t339": 1}],
)
def test_numbers_that_would_be_misread_are_refused(tags):
    """White as 0, int8 and uint32: negative, or wrapped, as Pillow reads them."""
    data = tiff(samples(1), **({"photometric": 1} | tags))
    with pytest.raises(CorruptImage, match="which would be misread; convert it"):
        decode(data, 8, 1)
