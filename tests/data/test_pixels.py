from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ambient_sweep.data.pixels import Pixels, decoded, to_uint8

STORED = np.random.default_rng(0).integers(0, 256, (200, 3, 5, 5), dtype=np.uint8)


def test_encodings_are_their_formulas():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(decoded(every, "uint8"), every / 127.5 - 1, atol=1e-7)
    assert torch.equal(to_uint8(torch.from_numpy(decoded(every, "uint8"))), torch.from_numpy(every))
    assert to_uint8(torch.tensor([-3.0, 1.5])).tolist() == [0, 255]
    unit = np.linspace(0, 1, 50, dtype=np.float32)
    assert np.array_equal(decoded(unit, "unit"), unit * 2 - 1)
    raw = np.array([-7.25, 0.1, 3], dtype=np.float32)
    copy = decoded(raw, "signed")
    assert np.array_equal(copy, raw)
    copy += 1
    assert raw[0] == -7.25


@pytest.mark.parametrize("encoding", ["uint8", "unit"])
def test_rows_blocks_and_all_agree(tmp_path, encoding):
    array = STORED if encoding == "uint8" else (STORED / 255).astype(np.float32)
    array.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", array.dtype, "r", shape=array.shape)
    order = np.array([7, 3, 19, 0, 3])
    pixels = Pixels(mapped, encoding, order)
    expected = torch.from_numpy(decoded(array, encoding)[order])
    assert (len(pixels), pixels.shape) == (5, (3, 5, 5))
    assert torch.equal(pixels[:], expected)
    assert [len(block) for block in pixels.blocks(2)] == [2, 2, 1]
    assert torch.equal(torch.cat(list(pixels.blocks(2))), expected)
    assert torch.equal(pixels.subset(np.array([2, 0]))[:], expected[[2, 0]])
    for index in (slice(1, 3), [2, 0], torch.tensor([3, 1]), np.array([True, False, False, True, False])):
        assert torch.equal(pixels[index], expected[index])
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda k: pixels[np.arange(k, k + 2)], range(4)))
    assert all(torch.equal(part, expected[k : k + 2]) for k, part in enumerate(parts))
