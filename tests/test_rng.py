import hashlib

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from ambient_sweep import rng

SIZES = [1, 2, 3, 5, 7, 17, 64, 65, 192, 3072, 40_001]


@pytest.mark.parametrize("size", SIZES)
def test_normal_numbers_are_the_same_bits_in_every_split(size):
    """Whatever the batch, the order, the place in the batch and the number of threads."""
    count = 23 if size < 10_000 else 5
    whole = rng.normal("a", 7, range(1000, 1000 + count), (size,))
    assert whole.shape == (count, size)
    for cut in (1, 2, 3, count - 1):
        parts = [rng.normal("a", 7, range(1000 + k, 1000 + min(k + cut, count)), (size,)) for k in range(0, count, cut)]
        assert torch.equal(torch.cat(parts), whole)
    order = np.random.default_rng(size).permutation(count)
    assert torch.equal(rng.normal("a", 7, (1000 + order).tolist(), (size,)), whole[order])
    assert torch.equal(rng.normal("a", 7, [1002, 1002, 1000], (size,)), whole[[2, 2, 0]])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(rng.normal("a", 7, range(1000, 1000 + count), (size,)), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", SIZES)
def test_noise_is_added_to_the_bit_as_it_is_drawn(size):
    indices = np.random.default_rng(size).permutation(40)[:9].tolist()
    scale = np.linspace(0, 2, 9, dtype=np.float32)
    values = np.random.default_rng(0).random((9, size, 1), dtype=np.float32)
    expected = values + scale[:, None, None] * rng.normal("a", 7, indices, (size, 1)).numpy()
    rng.add_normal(values, scale, "a", 7, indices)
    assert np.array_equal(values, expected)
    with pytest.raises(ValueError, match="not contiguous"):
        rng.add_normal(np.zeros((9, 2 * size), np.float32)[:, ::2], scale, "a", 7, indices)


def test_normal_numbers_are_the_quantiles_of_the_bits_to_the_tails():
    """Against scipy in double precision, for bits from the generator and for the outermost and innermost ones."""
    raw = np.random.Philox(key=5).random_raw(2**20).view("<i4")
    ends = [bits for e in range(32) for d in (-3, -2, -1, 0, 1, 2) for bits in (2**e + d, d - 2**e)]
    bits = np.concatenate([raw, np.array([b for b in ends if -(2**31) <= b < 2**31], dtype=np.int32)])
    found = rng._quantiles(bits)
    expected = ndtri(0.5 + (bits | 1) / 2**32)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=0)
    assert found.max() == -found.min() > 6.2


def test_normal_numbers_use_the_bits_that_belong_to_their_index():
    """Philox's own words at the counters of index 77, whose 20 numbers take 10 words, so 3 counters."""
    raw = rng._generator("a", 7, 0)
    raw.advance(3 * 77)
    bits = raw.random_raw(12).view("<i4")[:20]
    np.testing.assert_allclose(rng.normal("a", 7, [77], (20,))[0], ndtri(0.5 + (bits | 1) / 2**32), rtol=5e-7)


def test_the_bits_are_those_of_every_machine_and_version():
    numbers = [
        rng.normal("pinned", 3, range(12345, 12345 + 64), (3, 32, 32)).numpy(),
        rng.uniform("pinned", 3, 12345, 1000, 3),
    ]
    digests = [
        hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16] for values in numbers
    ]
    assert digests == ["dddfe41ef0fb8212", "0ba63ba624414c8b"]


def test_purposes_seeds_and_indices_are_independent():
    draws = [rng.normal(p, s, [i], (4096,))[0] for p in ("a", "b") for s in (0, 1) for i in (0, 1)]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(8)
    assert correlation.abs().max() < 5 / 4096**0.5


def test_permutations_are_permutations_and_differ():
    first, second = (rng.permutation("p", 0, epoch, 1000) for epoch in (0, 1))
    assert sorted(first) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert np.array_equal(first, rng.permutation("p", 0, 0, 1000))
