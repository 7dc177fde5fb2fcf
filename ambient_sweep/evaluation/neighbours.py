"""Exact nearest neighbours in L2, fast and without the zeros that the usual trick loses.

|q|^2 + |t|^2 - 2 q.t is one matrix product, but its rounding error makes the distance of an image to itself nonzero and
the order of near ties arbitrary. So the product only nominates candidates, every target that can be among the k nearest
given a bound on that error; their distances are then computed from the differences.
"""

import torch
from torch import Tensor

_BLOCK = 2**23  # float64 values in one block of work: 64 MiB


def nearest(queries: Tensor, targets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest targets of each query, nearest first, ties to the lower index.

    queries [N, ...], targets [M, ...] (flattened; any real type, one device) -> L2 distances float64 [N, k] (not
    squared), indices int64 [N, k]. Raises ValueError unless 1 <= k <= M, for other sizes and for non-finite values.
    """
    if not 1 <= k <= len(targets):
        raise ValueError(f"nearest: k={k} of {len(targets)} targets")
    if queries.shape[1:] != targets.shape[1:]:
        raise ValueError(f"nearest: queries of {list(queries.shape[1:])}, targets of {list(targets.shape[1:])}")
    q, t = queries.flatten(1).double(), targets.flatten(1).double()
    if not (q.isfinite().all() and t.isfinite().all()):
        raise ValueError("nearest: non-finite values")
    rows = max(1, _BLOCK // len(t))
    norms = t.square().sum(1)
    distances = torch.empty(len(q), k, dtype=torch.float64, device=q.device)
    indices = torch.empty(len(q), k, dtype=torch.int64, device=q.device)
    for start in range(0, len(q), rows):
        block = slice(start, start + rows)
        candidates = _candidates(q[block], t, norms, k)
        distances[block], indices[block] = _best(q[block], t, candidates, k)
    return distances, indices


def _candidates(q: Tensor, t: Tensor, norms: Tensor, k: int) -> Tensor:
    """Indices [N, m], ascending, m >= k, that contain the k nearest targets of each query for certain."""
    own = q.square().sum(1)
    squared = own[:, None] + norms - 2 * q @ t.T
    # twice the error bound of sums of D products (Higham, Accuracy and Stability, section 3.1), with room to spare
    slack = 4 * (q.shape[1] + 8) * torch.finfo(torch.float64).eps * (own + norms.max())
    limit = squared.topk(k, largest=False).values[:, -1] + slack
    m = int((squared <= limit[:, None]).sum(1).amax())
    return squared.topk(m, largest=False).indices.sort(1).values


def _best(q: Tensor, t: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of the candidates, by the differences themselves, in bounded memory."""
    rows = max(1, _BLOCK // (candidates.shape[1] * max(1, q.shape[1])))
    parts = []
    for start in range(0, len(q), rows):
        block = slice(start, start + rows)
        parts.append((t[candidates[block]] - q[block, None]).square().sum(2).sqrt())
    distances = torch.cat(parts)
    order = distances.sort(dim=1, stable=True).indices[:, :k]
    return distances.gather(1, order), candidates.gather(1, order)
