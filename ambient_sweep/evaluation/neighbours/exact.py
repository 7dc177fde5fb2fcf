"""Exact nearest neighbours in L2, in bounded memory, and without the zeros that the usual trick loses.

|q - t|^2 = |q|^2 + |t|^2 - 2 q.t is one matrix product, but its rounding error makes the distance of an image to itself
nonzero and the order of near ties arbitrary. So the product only nominates: every target that can be among the k nearest,
given a bound on that error. Their distances are then computed from the differences, in float64.

The bound. u is the unit roundoff of float64, g(n) = n u / (1 - n u), and a = q - c, b = t - c are the centred rows.
Rounding a and b, their product of D terms summed in any order (Higham 2002, section 3.1), and the additions give a value
for |q - t|^2 with an error of at most

    (g(D) + 2.2 u) 2 |a| |b|  +  g(D) |b|^2  +  3.3 u (|a|^2 + 2 |b|^2)  <=  e (|a|^2 + |b|^2),    e = 2 g(D + 128)

where the 128 leave room for the arithmetic with the bound itself, and for the sums that decide in the end. Underflow adds
at most 4 D times the smallest normal number. With s the product's value and w its bound, the k-th smallest of s + w is an
upper limit of the k-th distance, and a target that is one of the k nearest has s - w at or below it.
"""

from collections import Counter
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

QUERIES, TARGETS = 1024, 4096  # of one matrix product, at most
ELEMENTS = 2**22  # of a block of targets, of queries, and of differences formed at once, at most
CANDIDATES = 2**19  # decided at once, or those of one query


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
    of_targets, of_queries = (max(1, min(most, ELEMENTS // max(1, shape.numel()))) for most in (TARGETS, QUERIES))
    distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=device)  # squared
    indices = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    centre = _rows(targets[0:of_targets], device).mean(0)
    for start in range(0, m, of_targets):
        block = _rows(targets[start : start + of_targets], device)
        first_copies = _first_copies(block, k)
        for first in range(0, len(queries), of_queries):
            part = slice(first, first + of_queries)
            best = _Best(distances[part], indices[part])
            _search(_rows(queries[part], device), block, first_copies, centre, start, best)
    return distances.sqrt_(), indices


def merge_flips(plain: tuple[Tensor, Tensor], mirrored: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of two searches in the same targets, each target once, by the lesser of its distances."""
    distances, indices = torch.cat([plain[0], mirrored[0]], 1), torch.cat([plain[1], mirrored[1]], 1)
    order = _order(indices, distances)
    distances, indices = distances.gather(1, order), indices.gather(1, order)
    distances[:, 1:].masked_fill_(indices[:, 1:] == indices[:, :-1], torch.inf)  # the farther of a target met twice
    order = _order(distances, indices)[:, :k]
    return distances.gather(1, order), indices.gather(1, order)


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


def bounded_squares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [n, m] of centred rows float64 [n, D] and [m, D] by a product, and the bound on their error."""
    size, info = a.shape[1], torch.finfo(torch.float64)
    n_u = (size + 128) * info.eps / 2
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    with torch.autocast(a.device.type, enabled=False):
        squares = torch.addmm(norms, a, b.T, alpha=-2)
    return squares, norms * (2 * n_u / (1 - n_u)) + 4 * size * info.tiny


def pair_distances(a: Tensor, b: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Squared distances float64 [p] of the pairs (a[row], b[column]), by their differences."""
    at_once = max(1, ELEMENTS // max(1, a.shape[1]))
    pairs = zip(torch.split(row, at_once), torch.split(column, at_once), strict=True)
    return torch.cat([squared_distances(a[i].double(), b[j].double()) for i, j in pairs])


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


def _search(q: Tensor, block: Tensor, first_copies: Tensor, centre: Tensor, start: int, best: _Best) -> None:
    """Puts the targets of the block, which begins at index `start`, that may be among the k nearest into `best`."""
    squares, slack = bounded_squares(q - centre, block - centre)
    if not squares.isfinite().all():
        raise ValueError("nearest: values too large to square")
    limit, k = best.distances[:, -1], best.distances.shape[1]
    if len(block) >= k:
        limit = torch.minimum(limit, (squares + slack).kthvalue(k, dim=1).values)
    mask = (squares - slack <= limit[:, None]).logical_and_(first_copies)
    rows = len(q) if int(mask.sum()) <= CANDIDATES else max(1, CANDIDATES // len(block))
    for first in range(0, len(q), rows):
        part = slice(first, first + rows)
        row, column = mask[part].nonzero(as_tuple=True)
        if len(row):
            found = pair_distances(q[part], block, row, column)
            _Best(best.distances[part], best.indices[part]).put(row, found, column + start)


def _first_copies(rows: Tensor, k: int) -> Tensor:
    """Which rows are among the first k of their equals, bool [m]; the others are nobody's k nearest."""
    seen: Counter[bytes] = Counter()
    kept = []
    for row in (rows + 0.0).cpu().numpy():  # -0 equals 0
        key = row.tobytes()
        kept.append(seen[key] < k)
        seen[key] += 1
    return torch.tensor(kept, device=rows.device)


def _order(first: Tensor, second: Tensor) -> Tensor:
    """The order of each row [N, n] by `first`, then by `second`."""
    order = second.sort(dim=1, stable=True).indices
    return order.gather(1, first.gather(1, order).sort(dim=1, stable=True).indices)


def _rows(block: Tensor, device: str | torch.device) -> Tensor:
    rows = block.flatten(1).to(device, torch.float64)
    if not rows.isfinite().all():
        raise ValueError("nearest: non-finite values")
    return rows
