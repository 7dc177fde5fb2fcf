import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity import density_coverage, manifold, manifold_measures, precision_recall
from ambient_sweep.evaluation.measure import Measure, wilson

NAMES = ("precision", "recall", "density", "coverage")


def features(n: int, size: int = 6, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal((n, size)))


def grid(n: int, seed: int) -> Tensor:
    """Small integers: many equal rows, many distances equal to a radius, all of them exact."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (n, 3)).astype(np.float32))


def by_loops(x: Tensor, y: Tensor, k: int, density_k: int) -> list[float]:
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


def values(x: Tensor, y: Tensor, k: int = 3, density_k: int = 5) -> list[float]:
    together = manifold_measures(x, y, k=k, density_k=density_k)
    apart = precision_recall(x, y, k) + density_coverage(x, y, density_k)
    assert tuple(together) == NAMES
    assert tuple(together.values()) == apart
    return [measure.value for measure in apart]


@pytest.mark.parametrize("block", [16, 2**22])
@pytest.mark.parametrize(
    "make", [features, grid, lambda n, seed: 1e6 + features(n, 6, seed), lambda n, seed: 1e25 * features(n, 6, seed)]
)
def test_are_the_definitions(monkeypatch: pytest.MonkeyPatch, block: int, make: Callable[..., Tensor]) -> None:
    monkeypatch.setattr(manifold, "BLOCK", block)
    x, y = make(31, seed=0), make(40, seed=1)
    x[:4] = y[:4]
    assert values(x, y) == pytest.approx(by_loops(x, y, 3, 5), rel=1e-12)
    assert values(x, y, 1, 2) == pytest.approx(by_loops(x, y, 1, 2), rel=1e-12)


def test_every_way_of_deciding_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = grid(60, 0), grid(80, 1)  # a quarter of all pairs lie on a rim
    expected = values(x, y)
    for few in (1, 10**9):  # by float32 and differences; by float64 and differences
        monkeypatch.setattr(manifold, "FEW", few)
        assert values(x, y) == expected


def test_identical_images_are_inside() -> None:
    """In float32 and far from the origin, where a distance by products is not 0."""
    y = 100 + features(50, 200).float()
    precision, recall = precision_recall(y[:20].clone(), y)
    assert precision.value == 1
    assert recall.value >= 0.4
    twice = torch.cat([y[:10]] * 5)  # k copies of each: balls of radius 0, rim included in the one, not in the other
    assert precision_recall(twice, twice)[0].value == 1
    assert [measure.value for measure in density_coverage(twice, twice, k=3)] == [0, 0]


def test_are_prdcs() -> None:
    from prdc import compute_prdc

    x, y = features(150, seed=0, scale=1.3), features(120, seed=1)
    for k in (3, 5):
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = compute_prdc(y.numpy(), x.numpy(), nearest_k=k)
        assert values(x, y, k, k) == pytest.approx([theirs[name] for name in NAMES], rel=1e-9)


@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_are_torch_fidelitys(save_cpu_ram: bool) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = features(150, seed=0, scale=1.3), features(120, seed=1)
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=save_cpu_ram, verbose=False
    )
    assert [m.value for m in precision_recall(x, y)] == pytest.approx([theirs["precision"], theirs["recall"]], rel=1e-6)


def test_what_the_measures_tell() -> None:
    real = features(300)
    modes = torch.cat([features(150, seed=1), 12 + features(150, seed=2)])
    assert precision_recall(features(300, seed=3), real)[0].value > 0.9
    assert precision_recall(modes, real)[0].value == pytest.approx(0.5, abs=0.07)  # half of the samples are elsewhere
    assert precision_recall(features(300, seed=3), modes)[1].value == pytest.approx(0.5, abs=0.07)  # half of the modes
    assert density_coverage(features(300, seed=3), modes)[1].value < 0.55
    density, coverage = density_coverage(features(2000, seed=3), real)
    assert density.value == pytest.approx(1, abs=0.1)  # its mean for equal distributions (Naeem et al. 2020)
    assert coverage.value > 0.95


def test_intervals() -> None:
    x, y = features(200, scale=1.5), features(150, seed=1)
    precision, recall = precision_recall(x, y)
    density, coverage = density_coverage(x, y)
    assert [measure.n for measure in (precision, recall, density, coverage)] == [200, 150, 200, 150]
    for share in (precision, recall, coverage):
        assert (share.low, share.high) == wilson(round(share.value * share.n), share.n)
    inside = np.array([[float((a - b).norm()) for b in y] for a in x])
    radii = np.sort(np.array([[float((a - b).norm()) for b in y] for a in y]), axis=1)[:, 5]
    balls = (inside < radii).sum(1) / 5
    assert density.high == pytest.approx(balls.mean() + 1.96 * balls.std(ddof=1) / np.sqrt(200), rel=1e-3)
    assert density_coverage(x[:1], y)[0] == Measure(float(balls[0]), None, None, 1)


def test_bad_input_is_refused_in_one_line() -> None:
    x = features(6)
    for call, least, found in (
        (lambda: precision_recall(x[:3], x), 4, 3),
        (lambda: precision_recall(x, x[:3]), 4, 3),
        (lambda: density_coverage(x, x[:5]), 6, 5),
        (lambda: density_coverage(x[:0], x), 1, 0),
        (lambda: manifold_measures(x, x[:5]), 6, 5),
    ):
        with pytest.raises(AmbientSweepError, match=f"at least {least} images, not {found}"):
            call()
    for call in (lambda: precision_recall(x, x * float("inf")), lambda: manifold_measures(x * float("nan"), x)):
        with pytest.raises(AmbientSweepError, match="finite features"):
            call()
