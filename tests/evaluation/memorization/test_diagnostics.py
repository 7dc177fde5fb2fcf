import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ambient_sweep.evaluation.measure import wilson
from ambient_sweep.evaluation.memorization import authpct, c_t, diagnostics


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distances(queries: Tensor, train: Tensor) -> np.ndarray:
    return NearestNeighbors(n_neighbors=1).fit(train.numpy()).kneighbors(queries.numpy())[0][:, 0]


def test_authpct_is_what_its_definition_says() -> None:
    features, train = normal(0, 60, 5), normal(1, 90, 5)
    pairs = (features[:, None] - train).double().norm(dim=2)
    own = (train[:, None] - train).double().norm(dim=2).fill_diagonal_(torch.inf).amin(1)
    authentic = pairs.amin(1) > own[pairs.argmin(1)]
    measure = authpct(features, train)
    assert measure.value == authentic.double().mean()
    assert (measure.low, measure.high) == wilson(int(authentic.sum()), 60)


def test_authpct_of_copies_is_zero_also_of_images_that_are_there_twice() -> None:
    train = normal(1, 50, 5)
    assert authpct(train, torch.cat([train, train[:25]])).value == 0
    assert 0.3 < authpct(normal(0, 400, 5), normal(1, 400, 5)).value < 0.7


def test_c_t_of_one_cell_is_the_z_value_of_a_mann_whitney_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "CELLS", 1)
    features, train, heldout = 0.9 * normal(0, 120, 4), normal(1, 200, 4), normal(2, 100, 4)
    test = mannwhitneyu(
        distances(features, train),
        distances(heldout, train),
        alternative="less",
        method="asymptotic",
        use_continuity=False,
    )
    measure = c_t(features, train, heldout)
    assert measure.value == pytest.approx(norm.ppf(test.pvalue))
    assert (measure.low, measure.high) == pytest.approx((measure.value - 1.96, measure.value + 1.96), abs=1e-3)


def test_c_t_looks_at_each_cell_alone_and_weighs_by_the_held_out_images() -> None:
    """Two far clusters, copies in one alone: each cell's z value by hand."""
    shift = torch.tensor([100.0, 0.0, 0.0])
    train, heldout, fresh = (normal(seed, 150, 3) for seed in range(3))
    train[:50] += shift
    heldout[:100] += shift
    mine = torch.cat([train[:50] + 1e-3 * normal(3, 50, 3), fresh])
    values = []
    for a, b, own in (
        (mine[:50], heldout[:100], train[:50]),
        (mine[50:], heldout[100:], train[50:]),
    ):
        x, y = distances(a, own), distances(b, own)
        u = (x[:, None] > y).sum()
        n, m = len(x), len(y)
        values.append((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "CELLS", 2)
        measure = c_t(mine, train, heldout)
    assert measure.value == pytest.approx(np.average(values, weights=[100, 50]))
    assert measure.n == 200
    assert measure.high is not None
    assert measure.high - measure.value == pytest.approx(1.96 * np.sqrt(100**2 + 50**2) / 150, rel=1e-4)


def test_c_t_tells_copies_and_takes_shrunk_modes_for_them() -> None:
    train, heldout, fresh = (normal(seed, 600, 6) for seed in range(3))
    assert abs(c_t(fresh, train, heldout).value) < 3
    assert c_t(train + 0.05 * normal(3, 600, 6), train, heldout).value < -5
    assert c_t(0.6 * fresh, train, heldout).value < -3  # its known failure
    assert c_t(1.5 * fresh, train, heldout).value > 3
    assert c_t(fresh, train, heldout, seed=4) == c_t(fresh, train, heldout, seed=4)


def test_c_t_where_no_cell_counts_takes_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    features, train, heldout = normal(0, 100, 3), normal(1, 100, 3), normal(2, 100, 3)
    monkeypatch.setattr(diagnostics, "IN_A_CELL", 101)
    without = c_t(features, train, heldout).value
    monkeypatch.setattr(diagnostics, "CELLS", 1)
    assert c_t(features, train, heldout).value == without
