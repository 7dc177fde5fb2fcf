import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_sweep.evaluation.fidelity import kernel
from ambient_sweep.evaluation.fidelity.kernel import kid
from ambient_sweep.evaluation.measure import Z95


def features(n: int, size: int = 16, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.from_numpy(shift + np.random.default_rng(seed).standard_normal((n, size)))


def by_loops(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float(a @ b / len(a) + 1) ** 3

    within = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (x, y)]
    return float(within[0] + within[1] - 2 * np.mean([k(a, b) for a in x for b in y]))


@pytest.mark.parametrize("block", [4, 7, 1024])
@pytest.mark.parametrize(("n", "m"), [(9, 14), (14, 9), (2, 2), (8, 8)])
def test_all_pairs_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int, n: int, m: int) -> None:
    monkeypatch.setattr(kernel, "BLOCK", block)
    x, y = features(n), features(m, seed=1, shift=0.3)
    assert kid(x, y).value == pytest.approx(by_loops(x, y), rel=1e-11)


def test_is_clean_fids_of_one_subset_of_everything() -> None:
    from cleanfid.fid import kernel_distance

    x, y = features(120), features(120, seed=1, shift=0.2)
    theirs = kernel_distance(x.numpy(), y.numpy(), num_subsets=1, max_subset_size=120)
    assert kid(x, y).value == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "shift", "low", "high"), [(150, 300, 0.5, 0.9, 1.15), (150, 150, 0.0, 1.1, 1.7)])
def test_standard_error_is_the_spread_over_repeated_draws(
    n: int, m: int, shift: float, low: float, high: float
) -> None:
    """At the floor (no shift) sqrt(2) times it: never too narrow."""
    found = [kid(features(n, 8, 2 * s, shift), features(m, 8, 2 * s + 1)) for s in range(150)]
    deviation = np.std([measure.value for measure in found], ddof=1)
    errors = [(measure.high - measure.value) / Z95 for measure in found]
    assert low < np.mean(errors) / deviation < high
