"""What each step trains on, prepared by a thread while the step before it is computed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from ambient_sweep.config import Config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.training import distillation, objective
from ambient_sweep.training.distillation import DistillationDraws
from ambient_sweep.training.group import Group
from ambient_sweep.training.objective import Draws, Stream
from ambient_sweep.training.schedules import consistency_weight

T = TypeVar("T")
Pieces = Sequence[Draws | DistillationDraws]  # a worker's share of a step, in the parts it is computed in
THREAD = "batches"  # name of the thread


def weight_at(config: Config, step: int) -> float:
    """Weight of the consistency loss in a step, counted from 0; without a weight its noise is not drawn."""
    if config.objective.kind != "ambient_consistency":
        return 0.0
    return consistency_weight(config.consistency, step / config.steps)


def batches(
    config: Config, observed: ObservedImages, steps: range, group: Group, device: torch.device
) -> Generator[Pieces, None, None]:
    """This worker's share of each of `steps`, on `device`; a thread prepares compute.prefetch steps ahead.

    The values depend neither on the prefetching nor on the number of parts and workers. The thread ends with the iterator;
    its errors are raised here.
    """
    stream = Stream(observed, config.seed, config.data.flip)
    batch_size, share = config.training.batch_size, group.share(config.training.batch_size)
    size = len(share) // config.compute.accumulate

    def make(step: int) -> Pieces:
        begin = step * batch_size
        parts = [stream.batch(begin + start, size) for start in range(share.start, share.stop, size)]
        if config.is_distilled(begin + batch_size):
            return [distillation.draw(config, part).to(device) for part in parts]
        with_chains = weight_at(config, step) > 0
        return [objective.draw(config, part, with_chains).to(device) for part in parts]

    yield from ahead(make, steps, config.compute.prefetch)


def ahead(make: Callable[[int], T], steps: Iterable[int], count: int) -> Generator[T, None, None]:
    """make(step) for all steps in order, made by one thread, up to `count` of them ahead of the one asked for."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, THREAD) as thread:
        try:
            for step in steps:
                waiting.append(thread.submit(make, step))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
