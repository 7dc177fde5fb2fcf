import pytest
import torch
from scipy.stats import binomtest

from ambient_sweep.evaluation.measure import Measure


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (5, 500), (250, 500), (500, 500), (1, 1), (0, 1)])
def test_interval_of_a_share_is_scipys(count: int, n: int) -> None:
    theirs = binomtest(count, n).proportion_ci(0.95, method="wilson")
    share = Measure.share(torch.arange(n) < count)
    assert (share.value, share.low, share.high, share.n) == pytest.approx((count / n, theirs.low, theirs.high, n))
    assert 0 <= share.low <= share.value <= share.high <= 1
