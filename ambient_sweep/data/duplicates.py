"""Duplicate images: the same to the byte, or nearly (another brightness, size or compression, a little noise).

Near duplicates are found by small grey pictures of at most 16x16, shifted to mean 0 and scaled to length 1, so that two of
them lie at the distance sqrt(2 - 2 r), r their correlation: independent of brightness, contrast and size. Candidates come
from a k-d tree of their first principal components, in which no distance grows, and are confirmed by the pictures
themselves and, in colour, by how far they differ in hue. Time grows as N log N; memory is some 500 bytes an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch.nn.functional import adaptive_avg_pool2d

from ambient_sweep.data.pixels import Array, Encoding, decoded, digests
from ambient_sweep.terminal import advance

NEAR = 0.1  # largest distance of near duplicates; see docs/data.md
SIDE, COLOUR_SIDE = 16, 4
COLOUR = 0.5  # largest root mean square difference in colour, in units of the grey picture's standard deviation
FLAT = 16 / 255  # standard deviation, on [-1, 1], below which a picture has nothing to compare but its exact pixels
COMPONENTS, NEIGHBOURS = 10, 16
COPIES_NAMED = 100
_STEP = 24  # a grey picture of standard deviation 1 is kept as int8 in steps of 1 / 24
_SAMPLE, _BLOCK = 20_000, 4096
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Thumbnails:
    """Of every image of a source a hash of its pixels, a small grey picture and its colours."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self.side = min(SIDE, shape[1])
        self.digest = np.zeros(count, dtype="S16")
        self.grey = np.zeros((count, self.side**2), dtype=np.int8)
        self.colour = np.zeros((count, 2 * COLOUR_SIDE**2 if shape[0] == 3 else 0), dtype=np.float16)
        self.flat = np.ones(count, dtype=bool)

    def put(self, start: int, images: Array, encoding: Encoding) -> None:
        """Takes the images from row `start` on, [n, C, H, W]."""
        rows = slice(start, start + len(images))
        self.digest[rows] = digests(images)
        pixels = decoded(images, encoding)
        luma = np.einsum("nchw,c->nhw", pixels, _LUMA) if pixels.shape[1] == 3 else pixels[:, 0]
        small = _shrunk(luma, self.side)
        small -= small.mean(axis=1, keepdims=True)
        deviation = np.sqrt(np.square(small).mean(axis=1, keepdims=True))
        self.flat[rows] = deviation[:, 0] < FLAT
        unit = np.maximum(deviation, FLAT)
        self.grey[rows] = np.clip(np.rint(small / unit * _STEP), -127, 127)
        if self.colour.size:
            hue = [_shrunk(pixels[:, band] - luma, COLOUR_SIDE) for band in (0, 2)]
            self.colour[rows] = np.concatenate(hue, axis=1) / unit


def _shrunk(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Averages by area, [n, H, W] to [n, side * side]."""
    return adaptive_avg_pool2d(torch.from_numpy(images), side).reshape(len(images), -1).numpy()


@dataclass(frozen=True)
class Duplicates:
    """Images that are copies of earlier ones; positions count the training images in their order, then the held-out."""

    train: int  # number of training images
    first: NDArray[np.int64]  # per position, the first of its group; itself, where it has no copy before it
    copy: NDArray[np.bool_]  # per position, whether it is a copy of a training image before it
    exact: NDArray[np.bool_]  # per position, whether one of these has the same pixels
    flat: int  # images without enough contrast for the search for near duplicates

    def counts(self) -> dict[str, int]:
        """How many copies there are, exact and near."""
        parts = {"train": slice(self.train), "heldout": slice(self.train, None)}
        kinds = {"exact": self.exact, "near": self.copy & ~self.exact}
        found = {
            f"{part}_{kind}": int(each[rows].sum()) for part, rows in parts.items() for kind, each in kinds.items()
        }
        return found | {"flat": self.flat}

    def copies(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        """The first copies and what they are copies of, as `images` names them by position."""
        rows = np.flatnonzero(self.first < np.arange(len(self.first)))[:COPIES_NAMED].tolist()
        return [{"copy": images[row], "of": images[self.first[row]]} for row in rows]


def find_duplicates(
    thumbnails: Thumbnails, train: NDArray[np.int64], heldout: NDArray[np.int64], near: float = NEAR
) -> Duplicates:
    """The duplicates among the training and the held-out images, given as rows of `thumbnails`.

    near: largest distance of near duplicates, 0 for exact ones only. A copy of a copy belongs to the same group.
    """
    rows = np.concatenate([train, heldout])
    _, first, inverse = np.unique(thumbnails.digest[rows], return_index=True, return_inverse=True)
    original = first[inverse]  # per position, the first with the same pixels
    position = np.arange(len(rows))
    unique = np.flatnonzero((original == position) & ~thumbnails.flat[rows])
    pairs = unique[_near_pairs(thumbnails, rows[unique], near)] if near > 0 else np.empty((0, 2), dtype=np.int64)
    links = np.concatenate([np.stack([position, original], axis=1), pairs])
    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(len(rows), len(rows)))
    group = connected_components(graph, directed=False)[1]
    first = np.full(group.max(initial=-1) + 1, len(rows))
    np.minimum.at(first, group, position)
    before = np.minimum(position, len(train))
    first = first[group]
    return Duplicates(len(train), first, first < before, original < before, int(thumbnails.flat[rows].sum()))


def _near_pairs(thumbnails: Thumbnails, rows: NDArray[np.int64], near: float) -> NDArray[np.int64]:
    """Pairs [p, 2] of places in `rows` whose pictures lie within `near`; of a crowd enough pairs to connect it."""
    if len(rows) < 2:
        return np.empty((0, 2), dtype=np.int64)
    sample = unit_pictures(thumbnails, rows[:: -(-len(rows) // _SAMPLE)])
    basis = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)[2][:COMPONENTS].T
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    tree = cKDTree(np.concatenate([unit_pictures(thumbnails, block) @ basis for block in blocks]))
    pairs = []
    for start, block in zip(range(0, len(rows), _BLOCK), blocks, strict=True):
        pictures = unit_pictures(thumbnails, block)
        k = min(NEIGHBOURS, len(rows))
        found = tree.query(pictures @ basis, k=k, distance_upper_bound=near * 1.001, workers=-1)[1]
        mine, theirs = np.nonzero((found < len(rows)) & (found != start + np.arange(len(block))[:, None]))
        other = found[mine, theirs]
        alike = np.linalg.norm(pictures[mine] - unit_pictures(thumbnails, rows[other]), axis=1) <= near
        hue = thumbnails.colour[block[mine]].astype(np.float32) - thumbnails.colour[rows[other]].astype(np.float32)
        if hue.shape[1]:
            alike &= np.sqrt(np.square(hue).mean(axis=1)) <= COLOUR
        pairs.append(np.stack([start + mine[alike], other[alike]], axis=1))
        advance("looking for near duplicates", start + len(block), len(rows))
    return np.concatenate(pairs)


def unit_pictures(thumbnails: Thumbnails, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Grey pictures of length 1, [n, side * side]."""
    grey = thumbnails.grey[rows].astype(np.float32)
    grey /= np.linalg.norm(grey, axis=1, keepdims=True)
    return grey
