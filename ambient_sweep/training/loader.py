"""What each step trains on, made ready by a thread of its own while the step before it is computed."""

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import torch

from ambient_sweep.config import Config
from ambient_sweep.data.observed import Observed
from ambient_sweep.training import objective
from ambient_sweep.training.group import Group
from ambient_sweep.training.objective import Draws
from ambient_sweep.training.schedules import consistency_weight
from ambient_sweep.training.stream import Stream

T = TypeVar("T")
S = TypeVar("S")
Pieces = list[Draws]  # a worker's share of a step, in the parts it is computed in
THREAD = "batches"  # name of the thread


def weight_at(config: Config, step: int) -> float:
    """Weight of the consistency loss in a step, counted from 0; where it is 0 its draws are not made."""
    if config.objective.kind != "ambient_consistency":
        return 0.0
    return consistency_weight(config.consistency, step / config.steps)


def batches(
    config: Config, observed: Observed, steps: range, group: Group, device: torch.device
) -> Generator[Pieces, None, None]:
    """This worker's share of each of `steps`, on `device`; compute.prefetch steps are prepared ahead.

    The same bits however many are prepared ahead, in how many parts and by how many workers. The thread ends when the
    iterator is closed or used up; its errors are raised here.
    """
    stream = Stream(observed, config.seed, config.data.flip)
    batch_size, share = config.training.batch_size, group.share(config.training.batch_size)
    size = len(share) // config.compute.accumulate
    on_gpu = device.type == "cuda"

    def make(step: int) -> Pieces:
        begin = step * batch_size
        with_chains = weight_at(config, step) > 0
        pieces = [
            objective.draw(config, stream.batch(begin + start, size), with_chains)
            for start in range(share.start, share.stop, size)
        ]
        if not on_gpu:
            return pieces
        with torch.cuda.device(device):  # a thread begins at the first GPU
            return [_mapped(piece, torch.Tensor.pin_memory) for piece in pieces]

    prepared = ahead(make, steps, config.compute.prefetch)
    with closing(_sent(prepared, device) if on_gpu else prepared) as source:
        yield from source


def ahead(make: Callable[[int], T], steps: Iterable[int], count: int) -> Generator[T, None, None]:
    """make(step) for all steps in order, up to `count` of them made ahead by one thread; 0: here, when it is asked for."""
    if count == 0:
        yield from map(make, steps)
        return
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


def _sent(items: Generator[Pieces, None, None], device: torch.device) -> Generator[Pieces, None, None]:
    """The pinned `items` on the GPU, each copied on a stream of its own while the one before it is computed with."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computing = torch.cuda.current_stream(device)

    def send(item: Pieces) -> tuple[Pieces, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            moved = [piece.to(str(device), non_blocking=True) for piece in item]
            return moved, copying.record_event()

    def used(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(computing)
        return tensor

    def arrived(moved: Pieces, copied: torch.cuda.Event) -> Pieces:
        computing.wait_event(copied)
        for piece in moved:  # else the allocator would hand the memory out again before the computation is done
            _mapped(piece, used)
        return moved

    return started_ahead(items, send, lambda started: arrived(*started))


def started_ahead(
    items: Generator[T, None, None], start: Callable[[T], S], finish: Callable[[S], T]
) -> Generator[T, None, None]:
    """finish(start(item)) of all items in order, each started before the one before it is handed out."""
    started: deque[S] = deque()
    with closing(items):
        for item in items:
            started.append(start(item))
            if len(started) > 1:
                yield finish(started.popleft())
        while started:
            yield finish(started.popleft())


def _mapped(draws: T, function: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """The same dataclass with `function` of every tensor in it, also in dataclasses within."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(draws):  # type: ignore[arg-type]
        value: Any = getattr(draws, field.name)
        if isinstance(value, torch.Tensor):
            changes[field.name] = function(value)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _mapped(value, function)
    return dataclasses.replace(draws, **changes)  # type: ignore[type-var]
