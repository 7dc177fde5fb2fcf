"""Recipes of an evaluations table: which rows are one, how many runs they had, and how these scatter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_sweeps import add

from ambient_sweep.results.export import build_tables
from ambient_sweep.results.tables import schema
from ambient_sweep.trial.records import read_evaluations, write_evaluation, write_remeasurement


def columns(root: Path, *names: str) -> list[list]:
    table = build_tables(root).evaluations
    return [table[name].to_pylist() for name in names]


def test_a_recipe_has_the_mean_of_its_runs_and_its_error(tmp_path: Path) -> None:
    values = np.random.default_rng(5).normal([40, 0.2], [2, 0.02], (4, 2))
    for seed, (fidelity, memorization) in enumerate(values):
        stopped = {"observed.sigma": 0.2, "seed": seed, "training.stop": 1.0 if seed else 0.5}
        add(tmp_path, f"a{seed}", stopped, [(fidelity, memorization, 0.5)])
    add(tmp_path, "b", {"observed.sigma": 0.3}, [(30.0, 0.1, 0.5)])
    runs, *rest = columns(tmp_path, schema.RUNS, *schema.MEANS, *schema.ERRORS)
    assert runs == [4, 4, 4, 4, 1]
    first, single = zip(*((column[0], column[4]) for column in rest), strict=True)
    assert first == pytest.approx((*values.mean(axis=0), *(values.std(axis=0, ddof=1) / 2)))
    assert single == (30.0, 0.1, None, None), "one run says nothing of others"


def test_replicates_count_alone(tmp_path: Path) -> None:
    """What a sweep chose to train again was chosen for its value."""
    add(tmp_path, "a", {}, [(30.0, 0.1)])
    for seed, fidelity in ((1, 36.0), (2, 38.0)):
        add(tmp_path, f"a{seed}", {"seed": seed}, [(fidelity, 0.2)], role="replicate", replicate_of="a")
    front, runs, mean = columns(tmp_path, schema.ON_FRONT, schema.RUNS, schema.MEANS[0])
    assert (front, runs, mean) == ([True, False, False], [2, 2, 2], [37.0, 37.0, 37.0])


def test_more_samples_compete_alone_and_the_last_measurement_is_stated(tmp_path: Path) -> None:
    """By one set each, a was better than b, and c was never measured again; the last set states a's values."""
    for name, sigma, fidelity in (("a", 0.1, 30.0), ("b", 0.2, 31.0), ("c", 0.3, 10.0)):
        add(tmp_path, name, {"observed.sigma": sigma}, [(fidelity, 0.1)])
    for record in read_evaluations(tmp_path):
        sets = {"a": [(1, 25.0), (2, 28.0)], "b": [(1, 26.0)], "c": []}[record.trial_id]
        for seed, fidelity in sets:
            measure = replace(record.measures["fd_classifier"], value=fidelity)
            measures = record.measures | {"fd_classifier": measure}
            write_remeasurement(tmp_path, replace(record, seed=seed, samples=2000, measures=measures))
    rows = build_tables(tmp_path).evaluations.to_pylist()
    (front,) = [row for row in rows if row[schema.ON_FRONT]]
    assert (front["trial_id"], front["evaluation_seed"], front["fidelity"]) == ("a", 2, 28.0)
    assert [(row["trial_id"], row["samples"], row["runs"], row["fidelity_mean"]) for row in rows] == [
        ("a", 500, None, None), ("a", 2000, 1, 28.0), ("a", 2000, 1, 28.0),
        ("b", 500, None, None), ("b", 2000, 1, 26.0), ("c", 500, None, None),
    ]  # fmt: skip


def test_columns_are_null_where_nothing_was_measured_in_full(tmp_path: Path) -> None:
    add(tmp_path, "a", {}, [(30.0, 0.1)])
    add(tmp_path, "b", {"observed.sigma": 0.4}, [(np.nan, 0.1)])
    add(tmp_path, "c", {"observed.sigma": 0.5}, [(100.0, 0.5)])
    (record,) = [e for e in read_evaluations(tmp_path) if e.trial_id == "c"]
    write_evaluation(tmp_path, replace(record, samples=100))
    assert columns(tmp_path, schema.RUNS, schema.MEANS[1]) == [[1, None, None], [0.1, None, None]]
