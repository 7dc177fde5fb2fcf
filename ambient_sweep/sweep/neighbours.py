"""Nearest neighbours where the training images outgrow one machine: each shard is searched by a Ray task."""

from collections.abc import Sequence

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.neighbours import Targets, merge, nearest


def nearest_sharded(
    queries: Tensor, shards: Sequence[Targets], k: int, *, device: str = "cpu", cpus: float = 1
) -> tuple[Tensor, Tensor]:
    """As `nearest` of the shards one after the other, to the bit; each is searched by a task with `cpus` cores.

    A shard is pickled to its worker: one of a file should hold the path, and open it there. On a cuda device each task
    takes a GPU. Results are on the CPU. Ray must be connected (`cluster.ray_session`). Raises ValueError as `nearest`
    does, and AmbientSweepError where a worker is lost.
    """
    sizes = [len(shard) for shard in shards]
    if not 1 <= k <= sum(sizes):
        raise ValueError(f"nearest: k={k} of {sum(sizes)} targets")
    shared = ray.put(queries.cpu())
    search = ray.remote(_search).options(num_cpus=cpus, num_gpus=0 if torch.device(device).type == "cpu" else 1)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    tasks = [
        search.remote(shared, shard, min(k, size), start, device)
        for shard, size, start in zip(shards, sizes, starts, strict=True)
        if size > 0
    ]
    try:
        parts = ray.get(tasks)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise AmbientSweepError(f"a worker that searched a shard was lost: {' '.join(str(error).split())}") from None
    return merge(parts, k)


def _search(queries: Tensor, shard: Targets, k: int, start: int, device: str) -> tuple[Tensor, Tensor]:
    distances, indices = nearest(queries, shard, k, device=device)
    return distances.cpu(), indices.cpu() + start
