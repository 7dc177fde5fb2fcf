"""Nearest neighbours shared out over Ray tasks, on a real Ray."""

from collections.abc import Iterator

import pytest
import torch

from ambient_sweep.evaluation.neighbours import nearest
from ambient_sweep.sweep.cluster import ray_session
from ambient_sweep.sweep.neighbours import nearest_sharded


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session(dashboard=False):
        yield


def test_shards_give_the_same_bits_as_one_search_and_errors_come_through() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, targets = (torch.randint(0, 5, (n, 3, 2, 2), generator=generator).float() for n in (40, 700))
    shards = [targets[:3], targets[3:3], targets[3:400], targets[400:]]
    distances, indices = nearest_sharded(queries, shards, 5)
    expected = nearest(queries, targets, 5)
    assert torch.equal(distances, expected[0])
    assert torch.equal(indices, expected[1])
    with pytest.raises(ValueError, match="k=701 of 700 targets"):
        nearest_sharded(queries, shards, 701)
    with pytest.raises(ValueError, match="non-finite"):
        nearest_sharded(queries, [targets, torch.full_like(targets, torch.nan)], 1)
