"""Batches made ahead by a thread: the same bits in the same order, errors raised in the loop, no thread left behind."""

import dataclasses
import threading
import time

import pytest
import torch
from small_runs import BASE, CONDITIONAL, observations, pictures

from ambient_sweep.config import build_config
from ambient_sweep.training.group import SINGLE, Group
from ambient_sweep.training.loader import THREAD, ahead, batches

CPU = torch.device("cpu")


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def flat(draws):
    """All tensors of a Draws, in order."""
    for field in dataclasses.fields(draws):
        value = getattr(draws, field.name)
        if isinstance(value, torch.Tensor):
            yield value
        elif value is not None:
            yield from flat(value)


def made(steps=range(40), group=SINGLE, observed=None, **changes):
    config = build_config(BASE, changes)
    observed = observations() if observed is None else observed
    return [[list(flat(piece)) for piece in pieces] for pieces in batches(config, observed, steps, group, CPU)]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        for piece, other in zip(a, b, strict=True):
            assert len(piece) == len(other)
            assert all(torch.equal(x, y) for x, y in zip(piece, other, strict=True))


@pytest.mark.parametrize("prefetch", [1, 2, 64])
def test_batches_made_ahead_are_those_made_when_asked_for(prefetch):
    inline = made(**{"compute.prefetch": 0})
    assert_equal(inline, made(**{"compute.prefetch": prefetch}))
    assert len(inline) == 40
    assert (len(inline[0][0]), len(inline[39][0])) == (6, 10)  # the draws for consistency come after its start alone
    assert not loader_threads()


@pytest.mark.parametrize(("parts", "workers"), [(4, 1), (1, 4), (2, 2)])
def test_parts_and_workers_share_the_batch_exactly(parts, workers):
    changes = {"data.flip": True, "consistency.start": 0.0, "consistency.batch_share": 0.3} | CONDITIONAL
    whole = made(range(3), observed=pictures(), **changes)
    shares = [
        made(range(3), Group(rank, workers), pictures(), **changes, **{"compute.accumulate": parts})
        for rank in range(workers)
    ]
    for step in range(3):
        pieces = [piece for share in shares for piece in share[step]]
        assert len(pieces) == parts * workers
        main = [torch.cat([piece[i] for piece in pieces]) for i in range(6)]  # y, known, sigma, noise, weight, labels
        assert all(torch.equal(a, b) for a, b in zip(main, whole[step][0], strict=False))
        chains = [piece[6:] for piece in pieces if len(piece) > 6]
        joined = [torch.cat(values) for values in zip(*chains, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(joined, whole[step][0][6:], strict=True))


def test_up_to_so_many_are_made_ahead_by_one_thread():
    begun, threads = [], set()

    def make(step):
        begun.append(step)
        threads.add(threading.current_thread().name)
        return step

    items = ahead(make, range(10), 3)
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(begun) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert begun == [0, 1, 2, 3]
    assert len(loader_threads()) == 1
    assert list(items) == list(range(1, 10))
    assert threads == {f"{THREAD}_0"}
    assert not loader_threads()


def test_closing_early_ends_the_thread():
    config = build_config(BASE)
    items = batches(config, observations(), range(40), SINGLE, CPU)
    next(items)
    assert len(loader_threads()) == 1
    items.close()
    assert not loader_threads()


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_is_raised_where_its_item_is_asked_for(count):
    def make(step):
        if step == 3:
            raise OSError(5, "Input/output error", "shard-3")
        return step

    items = ahead(make, range(40), count)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="shard-3"):
        next(items)
    assert not loader_threads()
