"""Recipes of an evaluations table: which rows are one, how many runs they had, and how these scatter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_sweeps import add, make_evaluation

from ambient_sweep.evaluation.measure import Z95, Measure
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.tables import schema
from ambient_sweep.trial.records import read_evaluations, write_evaluation, write_remeasurement


def columns(root: Path, *names: str) -> list[list]:
    table = build_tables(root).evaluations
    return [table[name].to_pylist() for name in names]


def test_the_spread_of_a_recipe_is_that_of_its_runs(tmp_path: Path) -> None:
    """Planted: three recipes with 4, 4 and 1 runs; the intervals say that sampling alone is far more certain."""
    rng = np.random.default_rng(5)
    values = {recipe: rng.normal([40, 0.2], [2, 0.02], (runs, 2)) for recipe, runs in (("a", 4), ("b", 4), ("c", 1))}
    unit = np.array([0.1, 0.01])
    for sigma, (recipe, runs) in enumerate(values.items(), 2):
        for seed, (x, y) in enumerate(runs):
            changed = {"observed.sigma": sigma / 10, "seed": seed, "training.stop": 1.0 if seed else 0.5}
            config = add(tmp_path, f"{recipe}{seed}", changed, [])
            measures = {
                "fd_classifier": Measure(x, x - unit[0] * Z95, x + unit[0] * Z95, 500),
                "mem_excess": Measure(y, y - unit[1] * Z95, y + unit[1] * Z95, 500),
            }
            write_evaluation(tmp_path, make_evaluation(f"{recipe}{seed}", config, 0, 0, 0.5, measures=measures))
    pools = {recipe: values[recipe].var(axis=0, ddof=1) / unit**2 for recipe in "ab"}
    pool = np.mean(list(pools.values()), axis=0)
    rows = build_tables(tmp_path).evaluations.to_pylist()
    for name, single in (("a0", (3 * pools["a"] + 4 * pool) / 7), ("c0", pool)):
        (row,) = [row for row in rows if row["trial_id"] == name]
        runs = values[name[0]]
        assert row[schema.RUNS] == len(runs)
        assert [row[column] for column in schema.MEANS] == pytest.approx(runs.mean(axis=0))
        assert [row[column] for column in schema.ERRORS] == pytest.approx(np.sqrt(single / len(runs)) * unit)


def test_sampling_alone_where_nothing_was_trained_twice(tmp_path: Path) -> None:
    add(tmp_path, "a", {"observed.sigma": 0.2}, [(30.0, 0.3)])
    add(tmp_path, "b", {"observed.sigma": 0.3}, [(40.0, 0.1)])
    runs, fidelity, memorization = columns(tmp_path, schema.RUNS, *schema.ERRORS)
    assert runs == [1, 1]
    assert (fidelity[0], memorization[0]) == pytest.approx((0.14 * 30 / (2 * Z95), 0.035 / (2 * Z95)))


def test_a_second_measurement_is_averaged_and_not_a_candidate(tmp_path: Path) -> None:
    add(tmp_path, "a", {}, [(30.0, 0.1)])
    add(tmp_path, "a1", {"seed": 1}, [(36.0, 0.2)])
    (record,) = [e for e in read_evaluations(tmp_path) if e.trial_id == "a"]
    better = {**record.measures, "fd_classifier": Measure(20.0, 19.0, 21.0, record.samples)}
    write_remeasurement(tmp_path, replace(record, seed=record.seed + 1, measures=better))
    ids, front, runs, mean = columns(tmp_path, schema.TRIAL_ID, schema.ON_FRONT, schema.RUNS, schema.MEANS[0])
    assert (ids, front, runs) == (["a", "a", "a1"], [True, False, False], [2, 2, 2])
    assert mean[0] == pytest.approx(((30 + 20) / 2 + 36) / 2)


def test_columns_are_null_where_nothing_was_measured_in_full(tmp_path: Path) -> None:
    add(tmp_path, "a", {}, [(30.0, 0.1)])
    add(tmp_path, "b", {"observed.sigma": 0.4}, [(np.nan, 0.1)])
    add(tmp_path, "c", {"observed.sigma": 0.5}, [(100.0, 0.5)])
    (record,) = [e for e in read_evaluations(tmp_path) if e.trial_id == "c"]
    write_evaluation(tmp_path, replace(record, samples=100))
    names = (schema.RUNS, schema.MEANS[1])
    assert columns(tmp_path, *names) == [[1, None, None], [0.1, None, None]]


def test_intervals_out_of_any_range_stop_nothing(tmp_path: Path) -> None:
    for number, measure in enumerate(
        (Measure(30.0, -1e308, 1e308, 500), Measure(30.0, 40.0, 20.0, 500), Measure(1e300, 0.0, np.inf, 500))
    ):
        for seed in (0, 1):
            name = f"t{number}-{seed}"
            config = add(tmp_path, name, {"observed.sigma": 0.1 + number / 10, "seed": seed}, [])
            measures = {"fd_classifier": measure, "mem_excess": Measure(0.1 * number, None, None, 500)}
            write_evaluation(tmp_path, make_evaluation(name, config, 0, 0, measures=measures))
    (runs,) = columns(tmp_path, schema.RUNS)
    assert runs == [2] * 6
