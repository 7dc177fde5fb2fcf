import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_sweep.evaluation.fidelity import manifold
from ambient_sweep.evaluation.fidelity.manifold import manifold_measures
from ambient_sweep.evaluation.measure import wilson


def features(n: int, size: int = 6, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal((n, size)))


def grid(n: int, seed: int) -> Tensor:
    """Small integers: many equal rows, many distances equal to a radius, all of them exact."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (n, 3)).astype(np.float32))


def by_loops(x: Tensor, y: Tensor, k: int = 3, density_k: int = 5) -> list[float]:
    """The definitions as they stand, one pair at a time in float64."""

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b.double()).square().sum().sqrt())

    def radius(s: Tensor, i: int, k: int) -> float:
        return sorted(distance(s[i], s[j]) for j in range(len(s)) if j != i)[k - 1]

    between = [[distance(a, b) for b in y] for a in x]
    n, m = len(x), len(y)
    real, wide = ([radius(y, j, q) for j in range(m)] for q in (k, density_k))
    generated = [radius(x, i, k) for i in range(n)]
    return [
        sum(any(between[i][j] <= real[j] for j in range(m)) for i in range(n)) / n,
        sum(any(between[i][j] <= generated[i] for i in range(n)) for j in range(m)) / m,
        sum(between[i][j] < wide[j] for i in range(n) for j in range(m)) / (density_k * n),
        sum(any(between[i][j] < wide[j] for i in range(n)) for j in range(m)) / m,
    ]


def values(x: Tensor, y: Tensor) -> dict[str, float]:
    return {name: measure.value for name, measure in manifold_measures(x, y).items()}


@pytest.mark.parametrize("block", [16, 2**22])
@pytest.mark.parametrize(
    "make", [features, grid, lambda n, seed: 1e6 + features(n, 6, seed), lambda n, seed: 1e25 * features(n, 6, seed)]
)
def test_are_the_definitions(monkeypatch: pytest.MonkeyPatch, block: int, make: Callable[..., Tensor]) -> None:
    monkeypatch.setattr(manifold, "BLOCK", block)
    x, y = make(31, seed=0), make(40, seed=1)
    x[:4] = y[:4]
    assert [*values(x, y).values()] == pytest.approx(by_loops(x, y), rel=1e-12)


def test_are_prdcs_and_torch_fidelitys() -> None:
    from prdc import compute_prdc
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = features(150, seed=0, scale=1.3), features(120, seed=1)
    found = values(x, y)
    for k, names in ((3, ("precision", "recall")), (5, ("density", "coverage"))):
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = compute_prdc(y.numpy(), x.numpy(), nearest_k=k)
        assert [found[name] for name in names] == pytest.approx([theirs[name] for name in names], rel=1e-9)
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=False, verbose=False)
    assert found["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert found["recall"] == pytest.approx(theirs["recall"], rel=1e-6)


def test_intervals() -> None:
    x, y = features(200, scale=1.5), features(150, seed=1)
    found = manifold_measures(x, y)
    assert [measure.n for measure in found.values()] == [200, 150, 200, 150]
    for share in (found["precision"], found["recall"], found["coverage"]):
        assert (share.low, share.high) == wilson(round(share.value * share.n), share.n)
    radii = torch.cdist(y, y).sort(1).values[:, 5]
    balls = ((torch.cdist(x, y) < radii).sum(1) / 5).numpy()
    assert found["density"].high == pytest.approx(balls.mean() + 1.96 * balls.std(ddof=1) / np.sqrt(200), rel=1e-3)
