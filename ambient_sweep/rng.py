"""Random numbers with an owner and a key, and no state.

Every number is a pure function of (purpose, seed, index, element): a counter-based generator (Philox-4x64, Salmon et
al. 2011) is keyed by the purpose and the seed, and index `i` owns the counters from `i * block` on. So the numbers of
an image, or of a position in the training stream, do not depend on the batch, the worker or the order of reading, and a
resumed run needs no generator state.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

_LANES = 4  # 64-bit words per Philox counter


def _key(purpose: str, seed: int) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)


def uniform(purpose: str, seed: int, start: int, count: int, size: int = 1) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1), shape [count, size], for indices `start` to `start + count`."""
    blocks = -(-size // _LANES)  # counters that one index owns
    counter = start * blocks
    words = np.array([counter & (2**64 - 1), counter >> 64, 0, 0], dtype=np.uint64)
    raw = np.random.Philox(key=_key(purpose, seed), counter=words).random_raw(count * blocks * _LANES)
    unit = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return unit.reshape(count, blocks * _LANES)[:, :size]


def normal(purpose: str, seed: int, start: int, count: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal numbers, float32 [count, *shape], for indices `start` to `start + count`."""
    size = int(np.prod(shape))
    values = ndtri(uniform(purpose, seed, start, count, size)).astype(np.float32)
    return torch.from_numpy(values.reshape(count, *shape))


def normal_at(purpose: str, seed: int, indices: Iterable[int], shape: Sequence[int]) -> torch.Tensor:
    """As `normal`, for any indices: float32 [len(indices), *shape]."""
    return torch.cat([normal(purpose, seed, int(index), 1, shape) for index in indices])


def permutation(purpose: str, seed: int, index: int, size: int) -> NDArray[np.int64]:
    """A permutation of range(size), the `index`-th of its key."""
    return np.argsort(uniform(purpose, seed, index, 1, size)[0], kind="stable")
