import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity import (
    Statistics,
    bootstrap,
    frechet,
    frechet_between,
    frechet_infinity,
    small_sample_warning,
)
from ambient_sweep.evaluation.fidelity.frechet import Resampled


def features(n: int, size: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    spectrum = np.arange(1, size + 1) ** -0.5
    return torch.from_numpy(spectrum * (shift + scale * np.random.default_rng(seed).standard_normal((n, size))))


def gaussian(size: int) -> Statistics:
    """What endlessly many features with seed 0, scale 1 and shift 0 have."""
    variance = torch.arange(1, size + 1, dtype=torch.float64).reciprocal()
    return Statistics(torch.zeros(size, dtype=torch.float64), variance.sqrt().diag(), 10**9)


def distance_of(size: int, scale: float, shift: float) -> float:
    """The Frechet distance of such Gaussians, in closed form."""
    return float(((scale - 1) ** 2 + shift**2) * (1 / np.arange(1, size + 1)).sum())


# -- between statistics -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated")
def test_between_statistics_is_clean_fids() -> None:
    from cleanfid.fid import frechet_distance

    a, b = features(400, 64, 0, 1.2, 0.3), features(500, 64, 1)
    moments = [(x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (a, b)]
    theirs = frechet_distance(*moments[0], *moments[1])
    ours = frechet_between(Statistics.of(a), Statistics.of(b))
    assert ours == pytest.approx(float(theirs), rel=1e-6)
    assert ours == pytest.approx(frechet(a, Statistics.of(b)).value, rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(20, 300), (300, 20), (20, 30)])
def test_between_statistics_of_deficient_rank(n: int, m: int) -> None:
    a, b = features(n, 50, 0, 1.3), features(m, 50, 1)
    there, back = (frechet_between(Statistics.of(x), Statistics.of(y)) for x, y in ((a, b), (b, a)))
    assert there == pytest.approx(frechet(a, Statistics.of(b)).value, rel=1e-7)
    assert there == pytest.approx(back, rel=1e-7)


def test_between_a_set_and_itself_is_zero() -> None:
    statistics = Statistics.of(features(100, 30))
    assert 0 <= frechet_between(statistics, statistics) < 1e-7


def test_without_the_interval_the_value_is_the_same() -> None:
    for n in (30, 200):
        x, real = features(n, 60, 0, 1.3), Statistics.of(features(300, 60, 1))
        measure = frechet(x, real, interval=False)
        assert measure.value == pytest.approx(frechet(x, real).value, rel=1e-7)
        assert (measure.low, measure.high) == (None, None)


# -- resamples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(30, 400), (200, 400), (200, 25)])
def test_a_resample_has_the_distance_of_its_features(n: int, m: int) -> None:
    x, real = features(n, 60, 0, 1.3, 0.2), Statistics.of(features(m, 60, 1))
    before = x.clone()
    resampled = Resampled(x, real)
    rng = np.random.default_rng(2)
    for rows in (np.arange(n), rng.integers(0, n, n), rng.permutation(n)[: n // 3], np.array([4, 9, 9])):
        counts = torch.bincount(torch.from_numpy(rows), minlength=n)
        expected = frechet(x[torch.from_numpy(rows)], real).value
        assert resampled.distance(counts) == pytest.approx(expected, rel=1e-7)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("n", "size", "widest"), [(300, 12, 1.15), (40, 60, 1.7)])
def test_bootstrap_agrees_with_the_jackknife(n: int, size: int, widest: float) -> None:
    """With fewer images than features it is wider, as the bias that a resample adds varies too."""
    x, real = features(n, size, 0, 1.4, 0.4), Statistics.of(features(500, size, 1))
    measure, jackknife = bootstrap(x, real, resamples=300), frechet(x, real)
    assert measure.value == pytest.approx(jackknife.value, rel=1e-7)
    assert measure.low < measure.value < measure.high  # type: ignore[operator]
    assert 0.85 < (measure.high - measure.low) / (jackknife.high - jackknife.low) < widest  # type: ignore[operator]


def test_bootstrap_is_keyed() -> None:
    x, real = features(50, 6, 0, 1.4), Statistics.of(features(500, 6, 1))
    first, again, other = (bootstrap(x, real, resamples=20, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert (first.n, first.seed) == (50, 3)
    with pytest.raises(ValueError, match="1 resamples"):
        bootstrap(x, real, resamples=1)


# -- to endlessly many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "size", "scale", "shift"), [(600, 32, 1.2, 0.1), (480, 48, 1.1, 0.0), (400, 32, 1.0, 0.0)]
)
def test_extrapolation_removes_the_bias_and_its_interval_holds(n: int, size: int, scale: float, shift: float) -> None:
    real, true = gaussian(size), distance_of(size, scale, shift)
    draws = [features(n, size, seed, scale, shift) for seed in range(40)]
    found = [frechet_infinity(x, real, seed=seed) for seed, x in enumerate(draws)]
    bias = np.mean([measure.value for measure in found]) - true
    plain = np.mean([frechet(x, real, interval=False).value for x in draws]) - true
    assert abs(bias) < 0.2 * plain
    inside = [measure.low <= true <= measure.high for measure in found]  # type: ignore[operator]
    assert sum(inside) >= 34
    width = np.mean([measure.high - measure.value for measure in found])  # type: ignore[operator]
    assert width < 4.5 * np.std([measure.value for measure in found])


def test_extrapolation_of_fewer_images_than_features_is_nearer_and_its_interval_wider() -> None:
    real, true = gaussian(128), distance_of(128, 1.2, 0.1)
    x = features(100, 128, 0, 1.2, 0.1)
    measure, plain = frechet_infinity(x, real), frechet(x, real)
    assert abs(measure.value - true) < 0.5 * (plain.value - true)
    assert measure.low < true < measure.high  # type: ignore[operator]
    assert measure.high - measure.value > 2 * (plain.high - plain.value)  # type: ignore[operator]


def test_extrapolation_is_keyed_and_does_not_care_for_the_order_much() -> None:
    x, real = features(400, 16, 0, 1.3), gaussian(16)
    first, again, other = (frechet_infinity(x, real, seed=seed) for seed in (0, 0, 1))
    assert first == again == frechet_infinity(x, real, at_n=frechet(x, real))
    assert first.value != other.value
    assert first.seed == 0
    assert abs(first.value - other.value) < 0.3 * (first.high - first.value)  # type: ignore[operator]


def test_extrapolation_says_what_it_needs() -> None:
    real = gaussian(4)
    assert frechet_infinity(features(15, 4), real).n == 15
    with pytest.raises(AmbientSweepError, match="at least 15, not 14"):
        frechet_infinity(features(14, 4), real)
    with pytest.raises(AmbientSweepError, match="finite"):
        frechet_infinity(torch.full((20, 4), float("nan")), real)
    with pytest.raises(ValueError, match="no interval"):
        frechet_infinity(features(15, 4), real, at_n=frechet(features(15, 4), real, interval=False))
    with pytest.raises(ValueError, match="3 points"):
        frechet_infinity(features(30, 4), real, parts=2)


def test_few_images_for_the_dimension_are_warned_of() -> None:
    assert small_sample_warning(4097, 2048) is None
    warning = small_sample_warning(4096, 2048)
    assert warning is not None
    assert "4096 images are few for 2048 features" in warning
    assert "\n" not in warning
