import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity import Moments, Statistics, frechet_between


def features(n: int, size: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(offset + rng.standard_normal((n, size)) @ rng.standard_normal((size, size)))


def assert_same(a: Moments, b: Moments) -> None:
    assert a.n == b.n
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-12 * float(b.mean.abs().max()))
    torch.testing.assert_close(a.scatter, b.scatter, rtol=1e-12, atol=1e-12 * float(b.scatter.abs().max()))


@pytest.mark.parametrize("sizes", [[500], [1] * 500, [1, 0, 2, 497], [499, 1], [100] * 5])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_any_batches_give_what_one_pass_gives(sizes: list[int], offset: float) -> None:
    x = features(500, 12, offset=offset)
    streamed = Moments()
    for batch in x.split(sizes):
        streamed.update(batch)
    assert_same(streamed, Moments.of(x))
    np.testing.assert_allclose(streamed.scatter / 499, np.cov(x.numpy(), rowvar=False), rtol=1e-11)


def test_workers_merge_in_any_order() -> None:
    x = features(300, 8, offset=5)
    parts = [Moments.of(part) for part in x.split([50, 200, 0, 50])]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        whole = Moments()
        for index in order:
            whole.merge(parts[index])
        assert_same(whole, Moments.of(x))
    assert parts[0].n == 50  # a merge leaves the other as it is
    assert_same(parts[0], Moments.of(x[:50]))


@pytest.mark.parametrize(("n", "size"), [(400, 20), (15, 20), (21, 20), (2, 20), (400, 1)])
def test_statistics_are_those_of_the_features(n: int, size: int) -> None:
    x = features(n, size).float()
    streamed, direct = Moments.of(x).to_statistics(), Statistics.of(x)
    assert streamed.n == n
    assert len(streamed.root) <= min(n, size)
    torch.testing.assert_close(streamed.mean, direct.mean)
    torch.testing.assert_close(streamed.root.T @ streamed.root, direct.root.T @ direct.root, rtol=1e-9, atol=1e-10)
    other = Statistics.of(features(300, size, seed=1))
    assert frechet_between(streamed, other) == pytest.approx(frechet_between(direct, other), rel=1e-7)


def test_constant_features_cost_rank_and_change_nothing() -> None:
    x = features(200, 6)
    padded = torch.cat([x, torch.full((200, 3), 7.0), x[:, :1]], dim=1)  # constants, and one feature twice
    statistics = Moments.of(padded).to_statistics()
    assert len(statistics.root) == 6
    np.testing.assert_allclose(
        statistics.root.T @ statistics.root, np.cov(padded.numpy(), rowvar=False), rtol=1e-9, atol=1e-10
    )
    same = Moments.of(torch.full((5, 3), 7.0)).to_statistics()
    assert same.root.square().sum() == 0


def test_saved_and_read_they_are_the_same() -> None:
    moments = Moments.of(features(40, 5))
    tensors = load(save(moments.to_tensors()))
    again = Moments.from_tensors(tensors)
    assert again.n == 40
    again.update(features(3, 5))  # changes nothing that it was read from
    assert torch.equal(tensors["mean"], moments.mean)
    assert torch.equal(tensors["scatter"], moments.scatter)


def test_too_few_and_non_finite_features_are_refused() -> None:
    for few in (0, 1):
        with pytest.raises(AmbientSweepError, match=f"at least 2 images, not {few}"):
            Moments.of(torch.ones(few, 3)).to_statistics()
    moments = Moments()
    with pytest.raises(AmbientSweepError, match="finite"):
        moments.update(torch.tensor([[1.0, float("nan")]]))
    assert moments.n == 0
