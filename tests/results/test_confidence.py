"""The probability of being on the front: closed forms, brute force, and planted fronts whose truth is known."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import add, make_evaluation
from scipy.stats import multivariate_normal, norm

from ambient_sweep import pareto
from ambient_sweep.evaluation.measure import Z95, Measure
from ambient_sweep.results import schema
from ambient_sweep.results.candidates import recipes
from ambient_sweep.results.confidence import DRAWS, front_probability, run_variance, standings, with_standings
from ambient_sweep.results.deconvolution import Posterior
from ambient_sweep.results.table import export_tables
from ambient_sweep.trial.records import read_evaluations, write_evaluation

MONTE_CARLO = 4 * 0.5 / np.sqrt(DRAWS)  # four standard errors


@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.9])
def test_two_candidates_have_the_closed_form(correlation: float) -> None:
    """The first is off the front if the second is below it in both: the differences are normal."""
    rng = np.random.default_rng(0)
    for case in range(12):
        points, errors = rng.normal(0, 1, (2, 2)), rng.uniform(0.2, 2, (2, 2))
        found = front_probability(points, errors, correlation=correlation, seed=case)
        variance = (errors**2).sum(axis=0)
        shared = correlation * errors.prod(axis=1).sum()
        covariance = np.array([[variance[0], shared], [shared, variance[1]]])
        for one, other in ((0, 1), (1, 0)):
            beaten = multivariate_normal(points[other] - points[one], covariance).cdf(np.zeros(2))
            assert found[one] == pytest.approx(1 - beaten, abs=MONTE_CARLO)


def test_a_chain_of_candidates_with_noise_in_one_objective() -> None:
    """All equal and certain in the second objective: on the front is the least in the first."""
    points = np.array([[0.0, 1.0], [0.3, 1.0], [0.9, 1.0]])
    errors = np.array([[0.5, 0.0], [0.4, 0.0], [0.1, 0.0]])
    grid = np.linspace(-4, 4, 40_001)
    densities = [norm(m, s).pdf(grid) for m, s in zip(points[:, 0], errors[:, 0], strict=True)]
    above = [norm(m, s).sf(grid) for m, s in zip(points[:, 0], errors[:, 0], strict=True)]
    first = [np.trapezoid(densities[i] * above[(i + 1) % 3] * above[(i + 2) % 3], grid) for i in range(3)]
    assert front_probability(points, errors) == pytest.approx(first, abs=MONTE_CARLO)


def test_without_noise_it_is_the_front_and_ties_share_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        points = rng.integers(0, 5, (int(rng.integers(1, 12)), 2)).astype(float)
        expected = pareto.pareto_mask(points).astype(float)
        for prior in ("flat", "empirical"):
            assert front_probability(points, np.zeros_like(points), prior=prior, draws=3).tolist() == expected.tolist()


def test_half_the_rows_certain_equals_peeling_draw_by_draw() -> None:
    """Against the plain definition: the share of draws in which pareto_mask holds, with other random numbers."""
    rng = np.random.default_rng(2)
    points = rng.normal(0, 1, (40, 2))
    errors = rng.uniform(0, 0.5, (40, 2)) * (rng.random((40, 1)) < 0.5)
    masks = [pareto.pareto_mask(points + errors * rng.normal(size=points.shape)) for _ in range(4000)]
    difference = front_probability(points, errors) - np.mean(masks, axis=0)
    assert np.abs(difference).max() < 1.5 * MONTE_CARLO


@pytest.mark.parametrize("prior", ["flat", "empirical"])
def test_the_order_of_rows_scale_and_hopeless_rows_change_nothing(prior: str) -> None:
    rng = np.random.default_rng(3)
    points, errors = rng.normal(0, 1, (60, 2)), rng.uniform(0.1, 0.4, (60, 2))
    found = front_probability(points, errors, prior=prior, correlation=-0.5)
    shuffled = rng.permutation(60)
    assert np.array_equal(front_probability(points[shuffled], errors[shuffled], prior=prior, correlation=-0.5),
                          found[shuffled])  # fmt: skip
    scale = np.array([1000.0, 1 / 64])
    scaled = front_probability(points * scale, errors * scale, prior=prior, correlation=-0.5)
    assert scaled == pytest.approx(found, abs=2 / DRAWS)
    assert np.abs(front_probability(points, errors, prior=prior, correlation=-0.5, seed=1) - found).max() < 0.05
    far = np.concatenate([points, points[:5] + 50])
    extended = front_probability(far, np.concatenate([errors, errors[:5]]), prior=prior, correlation=-0.5)
    assert np.array_equal(extended[:60], found)
    assert not extended[60:].any()


def test_thousands_of_candidates_are_judged() -> None:
    rng = np.random.default_rng(4)
    points, errors = rng.uniform(0, 1, (5000, 2)), np.full((5000, 2), 0.05)
    found = front_probability(points, errors, prior="empirical", draws=256)
    assert 1 < found.sum() < 100
    assert found[points.sum(axis=1) < 0.1].mean() > found[points.sum(axis=1) > 0.3].max()


def test_bad_input_is_refused() -> None:
    one = np.ones((2, 2))
    for bad in ((one[:1], one), (one[:, :1], one[:, :1]), (one * np.nan, one), (one, -one)):
        with pytest.raises(ValueError, match="expected"):
            front_probability(*bad)
    with pytest.raises(ValueError, match="correlation inside"):
        front_probability(one, one, correlation=1.0)
    with pytest.raises(ValueError, match="unknown prior"):
        front_probability(one, one, prior="jeffreys")


# -- planted fronts -------------------------------------------------------------------------------------------------


def planted(rng: np.random.Generator, shape: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True values, each recipe's noise between seeds, and what is known of that noise but for a factor."""
    t = rng.uniform(0, 1, n)
    if shape == "digits":  # a trade-off with a tail of worse recipes, noise that grows with the values
        worse = rng.exponential(0.4, n)
        truth = np.stack([28 + 30 * (1 - t) ** 1.5 + 15 * worse, 0.4 * t**1.5 + 0.1 * worse], axis=1)
        unit = np.stack([0.05 * truth[:, 0], 0.01 + 0.06 * truth[:, 1]], axis=1)
        known = np.stack([0.025 * truth[:, 0], np.sqrt(np.clip(truth[:, 1] + 0.01, 1e-3, 1) / 500)], axis=1)
    else:
        truth = {
            "convex": np.stack([t**2, (1 - t) ** 2], axis=1) + rng.exponential(0.2, (n, 2)),
            "concave": np.stack([np.sin(t * np.pi / 2), np.cos(t * np.pi / 2)], axis=1) + rng.exponential(0.2, (n, 2)),
            "line": np.stack([t, 1 - t], axis=1) + rng.gamma(2, 0.1, (n, 1)),
            "cloud": rng.normal(0, 0.35, (n, 2)),
        }[shape]
        unit = known = np.full((n, 2), 0.08)
    return truth, unit * np.exp(rng.normal(0, 0.25, (n, 2))), known


def measured(
    rng: np.random.Generator, truth: np.ndarray, noise: np.ndarray, known: np.ndarray, more: int
) -> tuple[np.ndarray, np.ndarray]:
    """One value of each, some more of the 8 best, and the standard errors by the pooled variance."""
    first = truth + noise * rng.normal(size=truth.shape)
    best = np.argsort(pareto.nondominated_rank(first), kind="stable")[:8]
    values = truth[best, None] + noise[best, None] * rng.normal(size=(len(best), more, 2))
    values = np.concatenate([first[best, None], values], axis=1)
    mean, runs, variance = first.copy(), np.ones(len(truth)), np.zeros_like(truth)
    mean[best], runs[best], variance[best] = values.mean(axis=1), 1 + more, values.var(axis=1, ddof=1)
    pooled = np.stack([run_variance(column, runs - 1)[0] for column in (variance / known**2).T], axis=1)
    return mean, np.sqrt(pooled / runs[:, None]) * known


SHAPES = ("digits", "convex", "concave", "line", "cloud")
BANDS = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.01)


@pytest.mark.parametrize(("n", "fronts"), [(10, 60), (60, 16), (250, 5)])
def test_probabilities_of_planted_fronts_hold(n: int, fronts: int) -> None:
    """Calibration over five shapes, 2 to 5 runs and unequal noise: of candidates given p, about p are on the true front.

    Closer than with a flat prior in logarithms, and in how many are on the front.
    """
    rng = np.random.default_rng(n)
    said: dict[str, list[np.ndarray]] = {"flat": [], "empirical": []}
    on = []
    for case in range(len(SHAPES) * fronts):
        truth, noise, known = planted(rng, SHAPES[case % len(SHAPES)], n)
        mean, error = measured(rng, truth, noise, known, more=1 + case // len(SHAPES) % 4)
        on.append(pareto.pareto_mask(truth))
        for prior, lists in said.items():
            lists.append(front_probability(mean, error, prior=prior, draws=400))
    true = np.concatenate(on)
    p, flat = np.concatenate(said["empirical"]), np.concatenate(said["flat"])

    def loss(probability: np.ndarray) -> float:
        return float(-np.log(np.where(true, probability, 1 - probability).clip(1e-3)).mean())

    assert loss(p) < loss(flat)
    assert abs(np.log(p.sum() / true.sum())) < abs(np.log(flat.sum() / true.sum())), "how many are on the front"
    for low, high in pairwise(BANDS):
        band = (p >= low) & (p < high)
        expected = true[band].mean()
        noise_of_it = 3 * np.sqrt(expected * (1 - expected) / band.sum())
        assert expected == pytest.approx(p[band].mean(), abs=0.12 + noise_of_it), (low, high, band.sum())


@pytest.mark.parametrize("correlation", [0.0, -0.8])
@pytest.mark.parametrize("n", [14, 300])
def test_true_values_fall_into_their_posteriors(n: int, correlation: float) -> None:
    """Planted: two normals. Whitened by the posterior's draws the truth has a variance near 1, and means beat measurements.

    The variance is up to 1.3, since the mixture is learnt from the same values and then taken as certain.
    """
    rng = np.random.default_rng(n)
    whitened, squares = [], np.zeros(2)
    for _ in range(2400 // n):
        part = rng.integers(0, 2, n)[:, None]
        one = rng.normal(size=(n, 2)) @ [[2.0, -1.5], [0.0, 0.7]]
        truth = np.where(part, one, rng.normal(size=(n, 2)) * [0.5, 2.0] + [6.0, 1.0])
        errors = rng.uniform(0.3, 1.5, (n, 2))
        noise = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], n)
        points = truth + errors * noise
        drawn = Posterior.fit(points, errors, correlation).draw(rng.random((300, n)), rng.normal(size=(300, n, 2)))
        for i in range(n):
            root = np.linalg.cholesky(np.cov(drawn[:, i].T))
            whitened.append(np.linalg.solve(root, truth[i] - drawn[:, i].mean(axis=0)))
        squares += [((each - truth) ** 2).sum() for each in (points, drawn.mean(axis=0))]
    assert np.cov(np.array(whitened).T) == pytest.approx(np.eye(2), abs=0.4)
    assert np.mean(whitened, axis=0) == pytest.approx([0, 0], abs=0.12)
    assert squares[1] < 0.9 * squares[0]


# -- from tables ----------------------------------------------------------------------------------------------------


def test_variances_are_weighed_against_the_pool() -> None:
    pooled, pool = run_variance([4.0, 1.0, np.nan], [3, 1, 0])
    assert pool == pytest.approx((3 * 4 + 1 * 1) / 4)
    assert pooled == pytest.approx([(12 + 4 * pool) / 7, (1 + 4 * pool) / 5, pool])


def test_the_spread_of_a_recipe_is_that_of_its_runs(tmp_path: Path) -> None:
    """Planted: three recipes with 4, 4 and 1 runs; the intervals say that sampling alone is far more certain."""
    rng = np.random.default_rng(5)
    values = {}
    for recipe, runs in (("a", 4), ("b", 4), ("c", 1)):
        knobs = {"observed.sigma": {"a": 0.2, "b": 0.3, "c": 0.4}[recipe]}
        for seed in range(runs):
            config = add(
                tmp_path, f"{recipe}{seed}", {**knobs, "seed": seed, "training.stop": 1.0 if seed else 0.5}, []
            )
            x, y = values[recipe, seed] = rng.normal(40, 2), rng.normal(0.2, 0.02)
            measures = {
                "fd_classifier": Measure(x, x - 0.1 * Z95, x + 0.1 * Z95, 500),
                "mem_excess": Measure(y, y - 0.01 * Z95, y + 0.01 * Z95, 500),
            }
            write_evaluation(tmp_path, make_evaluation(f"{recipe}{seed}", config, 0, 0, 0.5, measures=measures))
    table = export_tables(tmp_path).evaluations
    found = standings(table)
    ids = table[schema.TRIAL_ID].to_pylist()
    assert found.runs.tolist() == [{"a": 4, "b": 4, "c": 1}[name[0]] for name in ids]
    unit = np.array([0.1, 0.01])
    pools = []
    for recipe in "ab":
        runs = np.array([values[recipe, seed] for seed in range(4)])
        pools.append(runs.var(axis=0, ddof=1) / unit**2)
    pool = np.mean(pools, axis=0)
    for index, recipe, single in ((0, "a", (3 * pools[0] + 4 * pool) / 7), (8, "c", pool)):
        runs = np.array([v for (name, _), v in values.items() if name == recipe])
        assert ids[index].startswith(recipe)
        assert found.mean[index] == pytest.approx(runs.mean(axis=0))
        assert found.error[index] == pytest.approx(np.sqrt(single) * unit / np.sqrt(len(runs)))


def test_sampling_alone_where_nothing_was_trained_twice(tmp_path: Path) -> None:
    add(tmp_path, "a", {"observed.sigma": 0.2}, [(30.0, 0.3)])
    add(tmp_path, "b", {"observed.sigma": 0.3}, [(40.0, 0.1)])
    found = standings(export_tables(tmp_path).evaluations)
    assert found.error[0] == pytest.approx([0.14 * 30 / (2 * Z95), 0.035 / (2 * Z95)])
    assert found.runs.tolist() == [1, 1]


def test_a_shared_checkpoint_is_one_run_and_makes_one_recipe_of_two(tmp_path: Path) -> None:
    """a and b share the first half; c is a with another seed, d is b with that seed, and shares the half with c."""
    first, second = (30.0, 0.1, 0.5), (34.0, 0.14, 0.5)
    add(tmp_path, "a", {"consistency.start": 0.6}, [first, (25.0, 0.3, 1.0)])
    add(tmp_path, "b", {"consistency.start": 0.8}, [first, (26.0, 0.35, 1.0)])
    add(tmp_path, "c", {"consistency.start": 0.6, "seed": 1}, [second, (24.0, 0.3, 1.0)])
    add(tmp_path, "d", {"consistency.start": 0.8, "seed": 1}, [second])
    table = export_tables(tmp_path).evaluations
    half = np.array(table[schema.IMAGES].to_pylist()) == 99_968
    labels = recipes(table)
    assert len(set(labels[half].tolist())) == 1
    assert len(set(labels.tolist())) == 3
    found = standings(table)
    assert found.runs.tolist() == [2, 2, 2, 1, 2, 2, 2]
    assert found.mean[half] == pytest.approx(np.tile([32.0, 0.12], (4, 1)))


def test_a_second_measurement_is_averaged_and_no_candidate(tmp_path: Path) -> None:
    add(tmp_path, "a", {}, [(30.0, 0.1)])
    add(tmp_path, "a1", {"seed": 1}, [(36.0, 0.2)])
    table = export_tables(tmp_path).evaluations
    (record,) = [e for e in read_evaluations(tmp_path) if e.trial_id == "a"]
    again = table.filter(pa.array([True, False])).set_column(
        table.schema.get_field_index(schema.EVALUATION_SEED), schema.EVALUATION_SEED, pa.array([record.seed + 1])
    )
    again = again.set_column(table.schema.get_field_index("fidelity"), "fidelity", pa.array([32.0]))
    both = pa.concat_tables([table, again.cast(table.schema)])
    found = standings(both)
    assert found.runs.tolist() == [2, 2, 2]
    assert found.mean[0] == pytest.approx([(31 + 36) / 2, 0.15])


def test_columns_are_added_filled_and_null_where_nothing_was_measured_in_full(tmp_path: Path) -> None:
    add(tmp_path, "a", {}, [(30.0, 0.1)])
    add(tmp_path, "b", {"observed.sigma": 0.4}, [(np.nan, 0.1)])
    add(tmp_path, "c", {"observed.sigma": 0.5}, [(100.0, 0.5)])
    (record,) = [e for e in read_evaluations(tmp_path) if e.trial_id == "c"]
    write_evaluation(tmp_path, replace(record, samples=100))
    table = with_standings(export_tables(tmp_path).evaluations)
    assert table["front_probability"].to_pylist() == [1.0, None, None]
    assert table["runs"].to_pylist() == [1, None, None]
    assert table["memorization_mean"].to_pylist() == [0.1, None, None]
    names = table.column_names[-6:]
    assert with_standings(table).select(names).equals(table.select(names))
    assert with_standings(table.slice(0, 0)).num_rows == 0
