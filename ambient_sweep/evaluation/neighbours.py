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

import torch
from torch import Tensor

QUERIES, TARGETS = 1024, 4096  # of one matrix product, at most
ELEMENTS = 2**22  # of a block of targets, of queries, and of differences formed at once, at most


@torch.no_grad()
def nearest(queries: Tensor, targets: Tensor, k: int, *, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """The k nearest targets of each query, nearest first, ties to the lower index.

    queries [N, ...], targets [M, ...] (flattened, finite, float32 or smaller; compared as float64), wherever they lie, in
    memory or mapped from a file -> on `device`, L2 distances float64 [N, k] (not squared), indices int64 [N, k]. The same
    bits on every device, whatever the blocks. Raises ValueError unless 1 <= k <= M.
    """
    m, size = len(targets), targets[0].numel()
    if not 1 <= k <= m:
        raise ValueError(f"nearest: k={k} of {m} targets")
    of_targets, of_queries = (max(1, min(most, ELEMENTS // max(1, size))) for most in (TARGETS, QUERIES))
    distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=device)  # squared
    indices = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    centre = _rows(targets[:of_targets], device).mean(0)
    for start in range(0, m, of_targets):
        block = _rows(targets[start : start + of_targets], device)
        for first in range(0, len(queries), of_queries):
            part = slice(first, first + of_queries)
            _search(_rows(queries[part], device), block, centre, start, distances[part], indices[part])
    return distances.sqrt_(), indices


def merge_flips(plain: tuple[Tensor, Tensor], mirrored: tuple[Tensor, Tensor]) -> Tensor:
    """The distances of two searches in the same targets, as many as of one, each target once by the lesser of its own."""
    distances, indices = torch.cat([plain[0], mirrored[0]], 1), torch.cat([plain[1], mirrored[1]], 1)
    order = distances.sort(dim=1, stable=True).indices
    order = order.gather(1, indices.gather(1, order).sort(dim=1, stable=True).indices)  # by index, then by distance
    distances, indices = distances.gather(1, order), indices.gather(1, order)
    distances[:, 1:].masked_fill_(indices[:, 1:] == indices[:, :-1], torch.inf)  # the farther of a target met twice
    return distances.sort(dim=1).values[:, : plain[0].shape[1]]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 distances, float64 [n], of pairs of rows [n, D], float64: a pair's bits depend on that pair alone.

    The terms are added in a fixed tree of single additions; `sum` may go another way for another n or device.
    """
    terms = (a - b).square_()
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


def _search(q: Tensor, block: Tensor, centre: Tensor, start: int, distances: Tensor, indices: Tensor) -> None:
    """Puts targets of the block, which begins at index `start`, among the best so far [n, k]; infinity and -1: none."""
    squares, slack = bounded_squares(q - centre, block - centre)
    limit, k = distances[:, -1], distances.shape[1]
    if len(block) >= k:
        limit = torch.minimum(limit, (squares + slack).kthvalue(k, dim=1).values)
    row, column = (squares - slack <= limit[:, None]).nonzero(as_tuple=True)
    if len(row):
        _keep_nearest(distances, indices, row, pair_distances(q, block, row, column), column + start)


def _keep_nearest(distances: Tensor, indices: Tensor, row: Tensor, distance: Tensor, index: Tensor) -> None:
    """Changes the best so far [n, k] by candidates in the order of (row, index), whose indices are above all known ones."""
    n, k = distances.shape
    row = torch.cat([torch.arange(n, device=row.device).repeat_interleave(k), row])
    distance, index = torch.cat([distances.flatten(), distance]), torch.cat([indices.flatten(), index])
    order = distance.sort(stable=True).indices
    order = order[row[order].sort(stable=True).indices]  # by row, then by distance, then by index
    counts = torch.bincount(row, minlength=n)
    first = counts.cumsum(0) - counts
    chosen = order[first[:, None] + torch.arange(k, device=row.device)]
    distances.copy_(distance[chosen])
    indices.copy_(index[chosen])


def _rows(block: Tensor, device: str | torch.device) -> Tensor:
    return block.flatten(1).to(device, torch.float64)
