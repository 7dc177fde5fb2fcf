"""Nearest neighbours by an inverted file (faiss), for sets past ten million, with the recall measured.

The index (IVF-Flat; Jegou et al. 2011) only names candidates. Their distances are computed as `nearest` computes them, so a
neighbour that is found has the exact distance, and a copy that is found is at distance zero.
"""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure, wilson
from ambient_sweep.evaluation.neighbours.exact import Targets, best_of, nearest, squared_distances

PER_LIST = 64  # targets that train the centre of a list
SPARE = 8  # candidates beyond 2 k: float32 may have put a near tie in another order
READ = 2**22  # values of a block of targets
QUERIES = 256  # re-ranked at once, at most


class ApproximateIndex:
    """An inverted file of `targets` [M, ...], which are read once to build it and row by row to re-rank.

    lists: cells of the index, 4 sqrt(M) by default. probes: cells that a query looks into, an eighth of them by default;
    more are slower and find more. seed: of the targets that train the cells; the same seed and number of threads give the
    same index. Memory: the targets in float32. Raises UserError where faiss is missing.
    """

    def __init__(self, targets: Targets, *, lists: int | None = None, probes: int | None = None, seed: int = 0) -> None:
        faiss = _faiss()
        self.targets, self.seed, m = targets, seed, len(targets)
        size = targets[0:1].flatten(1).shape[1]
        self.lists = max(1, min(m, lists or round(4 * m**0.5)))
        self._step = max(1, READ // max(1, size))
        self._index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(size), size, self.lists)
        self._index.cp.min_points_per_centroid, self._index.cp.max_points_per_centroid = 1, m
        self._index.cp.seed = seed % 2**31
        self._index.train(self._sample(min(m, PER_LIST * self.lists)))
        for start in range(0, m, self._step):
            self._index.add(_rows(targets[start : start + self._step]))
        self.probes = min(self.lists, probes or max(8, self.lists // 8))

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `neighbours.nearest`, on the CPU, of the targets that the index finds.

        A query whose cells hold fewer than k targets is answered exactly. Raises ValueError as `nearest` does.
        """
        parts = [self._nearest(part, k) for part in torch.split(queries, QUERIES)]
        distances, indices = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        poor = distances.isinf().any(1).nonzero()[:, 0]
        if len(poor):
            distances[poor], indices[poor] = nearest(queries[poor.to(queries.device)], self.targets, k)
        return distances, indices

    def recall(self, queries: Tensor, k: int, *, sample: int = 200) -> Measure:
        """The share of queries whose k nearest are all found, measured on a keyed sample of them by exact search."""
        rows = np.sort(rng.permutation("neighbours/recall", self.seed, 0, len(queries))[:sample])
        chosen = queries[torch.from_numpy(rows).to(queries.device)]
        found = (self.nearest(chosen, k)[0] == nearest(chosen, self.targets, k)[0]).all(1)
        count, n = int(found.sum()), len(found)
        return Measure(count / n, *wilson(count, n), n, seed=self.seed)

    def _nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        m, flat = len(self.targets), queries.flatten(1).cpu().double()
        if not 1 <= k <= m:
            raise ValueError(f"nearest: k={k} of {m} targets")
        if not flat.isfinite().all():
            raise ValueError("nearest: non-finite values")
        self._index.nprobe = self.probes
        names = torch.from_numpy(self._index.search(_rows(queries), min(m, 2 * k + SPARE))[1]).long()
        distances = torch.full(names.shape, torch.inf, dtype=torch.float64)
        row, column = (names >= 0).nonzero(as_tuple=True)
        for part in torch.split(torch.arange(len(row)), self._step):
            r, c = row[part], column[part]
            needed, where = torch.unique(names[r, c], return_inverse=True)
            rows = torch.cat([self.targets[int(i) : int(i) + 1] for i in needed]).flatten(1).cpu().double()
            distances[r, c] = squared_distances(flat[r], rows[where])
        distances, indices = best_of(distances, names, k)
        return distances.sqrt(), indices

    def _sample(self, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """About `count` targets, each taken or not by its own number."""
        m, parts = len(self.targets), []
        for start in range(0, m, self._step):
            rows = self.targets[start : start + self._step]
            taken = rng.uniform("neighbours/train", self.seed, start, len(rows))[:, 0] < count / m
            parts.append(_rows(rows[torch.from_numpy(taken).to(rows.device)]))
        return np.concatenate(parts)


def _rows(block: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows: np.ndarray[Any, np.dtype[np.float32]] = block.flatten(1).cpu().float().contiguous().numpy()
    return rows


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ModuleNotFoundError:
        raise UserError(
            "approximate neighbours need faiss: pip install 'ambient-sweep[faiss]', or search exactly"
        ) from None
