"""Keyed, stateless random numbers.

Every number is a pure function of (purpose, seed, index, element): a counter-based generator (Philox-4x64, Salmon et
al. 2011) is keyed by the purpose and the seed, and index `i` owns the counters from `i * block` on. So the numbers of
an image, or of a position in the training stream, do not depend on the batch, the worker or the order of reading, and a
resumed run needs no generator state.

numpy provides Philox's raw bits only. The rest consists of single float32 additions, multiplications, divisions and
square roots, each rounded as IEEE 754 prescribes: the same bits on every machine, at every place in an array.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_LANES = 4  # 64-bit words per Philox counter
_CHUNK = 65_536  # normal numbers made at once: their few arrays stay in a core's cache

# Wichura 1988, Algorithm AS 241, PPND7: the quantile of the normal distribution as ratios of polynomials, for |q| up to
# 0.425 in 0.425^2 - q^2, and beyond in sqrt(-ln p) - 1.6; lowest power first.
_CENTRE = (3.3871327179, 50.434271938, 159.29113202, 59.10937472), (1.0, 17.895169469, 78.757757664, 67.187563600)
_TAIL = (1.4234372777, 2.75681539, 1.3067284816, 0.17023821103), (1.0, 0.7370016425, 0.12021132975)
_ATANH = (2.0, 2 / 3, 2 / 5, 2 / 7)  # ln((1 + s) / (1 - s)) / s in powers of s^2


def _generator(purpose: str, seed: int, counter: int) -> np.random.Philox:
    digest = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=16).digest()
    words = np.array([counter >> shift & (2**64 - 1) for shift in (0, 64, 128, 192)], dtype=np.uint64)
    return np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64), counter=words)


def uniform(purpose: str, seed: int, start: int, count: int, size: int = 1) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1), shape [count, size], for indices `start` to `start + count`."""
    blocks = -(-size // _LANES)  # counters that one index owns
    raw = _generator(purpose, seed, start * blocks).random_raw(count * blocks * _LANES)
    return _unit(raw).reshape(count, blocks * _LANES)[:, :size]


def normal(purpose: str, seed: int, indices: Sequence[int], shape: Sequence[int]) -> "torch.Tensor":
    """Standard normal numbers, float32 [len(indices), *shape]; fastest for a range of indices.

    32 random bits make one number, which reaches to 6.2 in both directions.
    """
    import torch  # which the driver of a sweep does without

    values = np.empty((len(indices), int(np.prod(shape))), dtype=np.float32)
    for where, part in _parts(purpose, seed, indices, shape):
        values[where] = part
    return torch.from_numpy(values.reshape(len(indices), *shape))


def add_normal(
    values: NDArray[np.float32], scale: NDArray[np.float32], purpose: str, seed: int, indices: Sequence[int]
) -> None:
    """Adds scale [n] times `normal` of n indices to values [n, ...], contiguous, in place and in little memory."""
    if not values.flags.c_contiguous:
        raise ValueError("add_normal: values are not contiguous")
    flat = values.reshape(len(indices), int(np.prod(values.shape[1:])))
    for where, part in _parts(purpose, seed, indices, values.shape[1:]):
        part *= scale[where, None]
        flat[where] += part


def secret_normal(shape: Sequence[int]) -> NDArray[np.float64]:
    """Standard normal numbers from the operating system's secure generator: for noise that nobody can draw again.

    In double precision, so that the last bits of a sum do not reveal the other summand.
    """
    from scipy.special import ndtri  # slow to import, and few commands need it

    count = int(np.prod(shape))
    raw = np.frombuffer(secrets.token_bytes(8 * count), dtype="<u8")
    values: NDArray[np.float64] = ndtri(_unit(raw))
    return values.reshape(shape)


def permutation(purpose: str, seed: int, index: int, size: int) -> NDArray[np.int64]:
    """A permutation of range(size), the `index`-th of its key."""
    return np.argsort(uniform(purpose, seed, index, 1, size)[0], kind="stable")


# -- from bits to numbers -------------------------------------------------------------------------------------------


def _unit(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """64-bit words to numbers in the open interval (0, 1)."""
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _parts(
    purpose: str, seed: int, indices: Sequence[int], shape: Sequence[int]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Normal numbers of a few indices at a time, [n, size]."""
    size = int(np.prod(shape))
    blocks = -(-size // (2 * _LANES))  # counters that one index owns
    words = blocks * _LANES
    rows = max(1, _CHUNK // max(1, 2 * words))
    generator, position = _generator(purpose, seed, 0), 0
    for first in range(0, len(indices), rows):
        part = indices[first : first + rows]
        raw = np.empty((len(part), words), dtype="<u8")
        for row, index in [(slice(None), part[0])] if isinstance(part, range) else enumerate(part):
            generator.advance((index * blocks - position) % 2**256)  # much cheaper than a new generator
            raw[row] = generator.random_raw(raw[row].size).reshape(raw[row].shape)
            position = index * blocks + raw[row].size // _LANES
        values = _quantiles(raw.view("<i4").reshape(-1))
        yield slice(first, first + len(part)), values.reshape(len(part), 2 * words)[:, :size]


def _quantiles(bits: NDArray[np.int32]) -> NDArray[np.float32]:
    """The normal quantiles of 1/2 + (bits | 1) / 2^32; within 4e-7 of them, relative."""
    odd = bits | np.int32(1)  # symmetric about 0, and never the quantile of 0
    q = odd.astype(np.float32)
    q *= np.float32(2.0**-32)
    r = np.float32(0.425**2) - q * q
    quantiles = _polynomial(_CENTRE[0], r)
    quantiles /= _polynomial(_CENTRE[1], r)
    quantiles *= q
    outer = np.flatnonzero(r < 0)
    far = odd[outer]
    p = (np.uint32(2**31) - np.abs(far).view(np.uint32)).astype(np.float32) * np.float32(2.0**-32)
    root = np.sqrt(_minus_log(p)) - np.float32(1.6)
    tail = _polynomial(_TAIL[0], root) / _polynomial(_TAIL[1], root)
    quantiles[outer] = np.copysign(tail, far.astype(np.float32))
    return quantiles


def _polynomial(coefficients: Sequence[float], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The polynomial with these coefficients, lowest power first, by Horner's rule; no fused operations."""
    value = x * np.float32(coefficients[-1])
    for coefficient in coefficients[-2:0:-1]:
        value += np.float32(coefficient)
        value *= x
    value += np.float32(coefficients[0])
    return value


def _minus_log(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """-ln p of normal floats in (0, 1/2): p = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)).

    numpy's own logarithm differs in the last bit from processor to processor.
    """
    bits = p.view(np.int32)
    exponent = (bits - np.float32(0.5**0.5).view(np.int32)) >> np.int32(23)
    mantissa = (bits - (exponent << np.int32(23))).view(np.float32)
    s = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
    squared = s * s
    log_m = _polynomial(_ATANH, squared) * s
    return -(exponent.astype(np.float32) * np.float32(np.log(2)) + log_m)
