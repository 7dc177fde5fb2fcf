"""Exact nearest neighbours in L2, in bounded memory, and without the zeros that the usual trick loses.

|q - t|^2 = |q|^2 + |t|^2 - 2 q.t is one matrix product, but its rounding error makes the distance of an image to itself
nonzero and the order of near ties arbitrary. So the product only nominates: every target that can be among the k nearest,
given a bound on that error. Their distances are then computed from the differences, in float64.

The bound. u is the unit roundoff of the product's type, g(n) = n u / (1 - n u), and a = q - c, b = t - c are the centred
rows. Rounding a and b to the type, their product of D terms summed in any order (Higham 2002, section 3.1), and one
addition give s, a float for |q - t|^2 - |a|^2, with an error of at most

    (g(D) + 2.2 u) 2 |a| |b|  +  g(D) |b|^2  +  3.3 u (|a|^2 + 2 |b|^2)  <=  e (|a|^2 + |b|^2),    e = 2 g(D + 128)

where the 128 leave room for the arithmetic with the bound itself, and for the float64 sums that decide in the end. Let K
be the k-th smallest of s + e |b|^2. Then k targets have |q - t|^2 - |a|^2 <= K + e |a|^2, and a target that is one of the
k nearest has s - e |b|^2 <= K + 2 e |a|^2. Underflow adds at most 4 D times the smallest normal number.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

QUERIES, TARGETS = 1024, 16384  # of one matrix product, at most
ELEMENTS = 2**23  # of a block of targets, at most; half as many of queries, and of differences formed at once
CANDIDATES = 2**19  # decided at once, or those of one query
MANY = 32  # candidates per query and neighbour, from which on it pays to look closer


class Targets(Protocol):
    """Rows that are read when they are asked for: a tensor, or a file mapped into memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Tensor: ...


@torch.no_grad()
def nearest(queries: Tensor, targets: Targets, k: int, *, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """The k nearest targets of each query, nearest first, ties to the lower index.

    queries [N, ...], targets [M, ...] (flattened, any real type; compared as float64), wherever they lie -> on `device`,
    L2 distances float64 [N, k] (not squared), indices int64 [N, k]. The same bits on every device, whatever the blocks.
    Raises ValueError unless 1 <= k <= M, for rows of another size, for non-finite values and for squares that overflow.
    """
    m, shape = len(targets), targets[0:1].shape[1:]
    if not 1 <= k <= m:
        raise ValueError(f"nearest: k={k} of {m} targets")
    if queries.shape[1:] != shape:
        raise ValueError(f"nearest: queries of {list(queries.shape[1:])}, targets of {list(shape)}")
    size = max(1, shape.numel())
    of_targets, of_queries = (
        max(1, min(most, n // size)) for most, n in ((TARGETS, ELEMENTS), (QUERIES, ELEMENTS // 2))
    )
    distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=device)  # squared
    indices = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    centre = _rows(targets[0:of_targets], device).mean(0)
    with _full_precision(torch.device(device).type):
        for start in range(0, m, of_targets):
            block = _Block(_rows(targets[start : start + of_targets], device), centre, k)
            for first in range(0, len(queries), of_queries):
                part = slice(first, first + of_queries)
                best = _Best(distances[part], indices[part])
                _search(_rows(queries[part], device), block, start, best)
    return distances.sqrt_(), indices


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 distances, float64 [n], of pairs of rows [n, D], float64: a pair's bits depend on that pair alone.

    The terms are added in a fixed tree of single additions; `sum` may go another way for another n or device.
    """
    terms = (a - b).square_()
    if terms.shape[1] == 0:
        return terms.new_zeros(len(terms))
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        pairs = terms[:, :half] + terms[:, half : 2 * half]
        if terms.shape[1] % 2:
            pairs[:, 0] += terms[:, -1]
        terms = pairs
    return terms[:, 0]


def merge(parts: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of several searches, each (distances [N, k_i], indices [N, k_i]) in targets of its own.

    Indices count all targets; ties go to the lower one, so parts searched apart give what one search gives.
    """
    return best_of(torch.cat([d for d, _ in parts], 1), torch.cat([i for _, i in parts], 1), k)


def best_of(distances: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k least distances of each row [N, n] with their indices, in the order of (distance, index)."""
    order = indices.sort(dim=1, stable=True).indices
    order = order.gather(1, distances.gather(1, order).sort(dim=1, stable=True).indices)[:, :k]
    return distances.gather(1, order), indices.gather(1, order)


class _Best(NamedTuple):
    """The k nearest so far of n queries, views into the result; infinity and -1 where there is none yet."""

    distances: Tensor  # float64 [n, k], squared
    indices: Tensor  # int64 [n, k]

    def put(self, row: Tensor, distance: Tensor, index: Tensor) -> None:
        """Takes candidates in the order of (row, index), whose indices are above all known ones."""
        n, k = self.distances.shape
        row = torch.cat([torch.arange(n, device=row.device).repeat_interleave(k), row])
        distance, index = torch.cat([self.distances.flatten(), distance]), torch.cat([self.indices.flatten(), index])
        order = distance.sort(stable=True).indices
        order = order[row[order].sort(stable=True).indices]  # by row, then by distance, then by index
        counts = torch.bincount(row, minlength=n)
        first = counts.cumsum(0) - counts
        chosen = order[first[:, None] + torch.arange(k, device=row.device)]
        self.distances.copy_(distance[chosen])
        self.indices.copy_(index[chosen])


class _Block:
    """A block of targets: the rows, and what products with them need, made when it is needed."""

    def __init__(self, rows: Tensor, centre: Tensor, k: int) -> None:
        self.rows, self.centre, self.k = rows, centre, k  # float64 [m, D], float64 [D]
        self._operands: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self._first_copies: Tensor | None = None

    def operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The centred rows in that type, and their squared norms in float64."""
        if dtype not in self._operands:
            self._operands[dtype] = _centred(self.rows, self.centre, dtype)
        return self._operands[dtype]

    def first_copies(self) -> Tensor:
        """Which rows are among the first k of their equals, bool [m]; the others are nobody's k nearest."""
        if self._first_copies is None:
            seen: Counter[bytes] = Counter()
            kept = []
            for row in (self.rows + 0.0).cpu().numpy():  # -0 equals 0
                key = row.tobytes()
                kept.append(seen[key] < self.k)
                seen[key] += 1
            self._first_copies = torch.tensor(kept, device=self.rows.device)
        return self._first_copies


def _search(q: Tensor, block: _Block, start: int, best: _Best) -> None:
    """Puts the targets of the block, which begins at index `start`, that may be among the k nearest into `best`."""
    mask = _candidates(q, block, best)
    count = int(mask.sum())
    rows = len(q) if count <= CANDIDATES else max(1, CANDIDATES // len(block.rows))
    for first in range(0, len(q) if count else 0, rows):
        part = slice(first, first + rows)
        _decide(q[part], block.rows, mask[part], start, _Best(best.distances[part], best.indices[part]))


def _candidates(q: Tensor, block: _Block, best: _Best) -> Tensor:
    """Which targets may be among the k nearest of each query, bool [n, m]: few, where few can be told to be enough."""
    few = MANY * block.k * len(q)
    mask = _nominated(q, block, best, torch.float32)
    if mask is not None and (int(mask.sum()) <= few or int(mask.logical_and_(block.first_copies()).sum()) <= few):
        return mask
    mask = _nominated(q, block, best, torch.float64)
    if mask is None:
        raise ValueError("nearest: values too large to square")
    return mask.logical_and_(block.first_copies())


def _nominated(q: Tensor, block: _Block, best: _Best, dtype: torch.dtype) -> Tensor | None:
    """Which targets the bound leaves in each query's race, bool [n, m]; None where the type's range is too small."""
    info, size = torch.finfo(dtype), q.shape[1]
    n_u = (size + 128) * info.eps / 2
    e = 2 * n_u / (1 - n_u)
    (a, own), (b, norms) = _centred(q, block.centre, dtype), block.operands(dtype)
    if not (own < info.max / 16).all() or not (norms < info.max / 16).all():
        return None
    slack = (2 * e * norms).to(dtype)
    s = torch.mm(a.mul_(-2), b.T).add_((norms * (1 + e)).to(dtype))
    limit = best.distances[:, -1] - own
    if len(b) >= block.k:
        limit = torch.minimum(limit, s.topk(block.k, largest=False).values[:, -1].double())
    limit = limit + 2 * e * own + 4 * size * info.tiny
    return s.sub_(slack) <= limit.to(dtype)[:, None]


def _decide(q: Tensor, t: Tensor, mask: Tensor, start: int, best: _Best) -> None:
    """Puts the targets that `mask` [n, m] names into `best`, by their distances themselves."""
    rows, columns = mask.nonzero(as_tuple=True)
    at_once = max(1, ELEMENTS // 2 // max(1, q.shape[1]))
    parts = [
        squared_distances(q[row], t[column])
        for row, column in zip(torch.split(rows, at_once), torch.split(columns, at_once), strict=True)
    ]
    best.put(rows, torch.cat(parts), columns + start)


def _centred(rows: Tensor, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows less the centre in `dtype` (a copy), and their squared norms in float64."""
    centred = rows - centre
    norms = centred.square().sum(1)
    return centred.to(dtype), norms


def _rows(block: Tensor, device: str | torch.device) -> Tensor:
    rows = block.flatten(1).to(device, torch.float64)
    if not rows.isfinite().all():
        raise ValueError("nearest: non-finite values")
    return rows


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """Matrix products in the precision of their type, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
