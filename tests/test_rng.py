import numpy as np
import torch
from scipy import stats

from ambient_sweep import rng


def test_numbers_of_an_index_do_not_depend_on_the_batch():
    whole = rng.normal("a", 7, 100, 10, (3, 5))
    parts = torch.cat([rng.normal("a", 7, 100, 3, (3, 5)), rng.normal("a", 7, 103, 7, (3, 5))])
    assert torch.equal(whole, parts)
    assert torch.equal(rng.normal_at("a", 7, [105, 100], (3, 5)), whole[[5, 0]])


def test_purposes_seeds_and_indices_are_independent():
    draws = [rng.normal(p, s, i, 1, (4096,))[0] for p in ("a", "b") for s in (0, 1) for i in (0, 1)]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(8)
    assert correlation.abs().max() < 5 / 4096**0.5


def test_distributions():
    u = rng.uniform("u", 0, 0, 20_000, 5).ravel()
    assert ((u > 0) & (u < 1)).all()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal("n", 0, 0, 20_000, (5,)).numpy().ravel(), "norm").pvalue > 1e-3


def test_indices_beyond_64_bits_of_counters_do_not_collide():
    far = rng.normal("a", 0, 2**63, 2, (64,))
    assert not torch.equal(far[0], far[1])
    assert not torch.equal(far[0], rng.normal("a", 0, 0, 1, (64,))[0])


def test_permutations_are_permutations_and_differ():
    first, second = (rng.permutation("p", 0, epoch, 1000) for epoch in (0, 1))
    assert sorted(first) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert np.array_equal(first, rng.permutation("p", 0, 0, 1000))


def test_global_generators_are_left_alone():
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    rng.normal("a", 0, 0, 5, (5,))
    rng.permutation("p", 0, 0, 10)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())
