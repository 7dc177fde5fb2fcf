"""Searches in which anything happens in any order, and whose driver dies between any two lines of the study."""

import contextlib
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searches import IMAGES, Driver, Folder, Halves, Killed, at, observations, searched, sweep_of

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.search.proposals import Unshared, mark
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import Sweep

FINITE = """
base: {training: {images: 6400, batch_size: 64}, evaluation.lengths: [0.25, 0.5, 0.75, 1.0]}
space:
  objective.kind: {choice: [ambient, ambient_consistency]}
  consistency.weight: {uniform: [0.1, 0.3], step: 0.1, when: {objective.kind: ambient_consistency}}
  observed.sigma: {uniform: [0.1, 0.4], step: 0.1}
points: [{objective.kind: ambient, observed.sigma: 0.3}]
controls: [{label: plain, seeds: [0, 1], set: {objective.kind: ambient}}]
"""
REAL = """
base: {training: {images: 6400, batch_size: 64}, evaluation.lengths: [0.25, 0.5, 0.75, 1.0]}
space:
  observed.sigma: {choice: [0.1, 0.2, 0.3]}
  consistency.weight: {loguniform: [0.1, 10]}
  consistency.chain_steps: {int: [1, 8]}
points: [{consistency.weight: 0.25}, {observed.sigma: 0.2, consistency.weight: 0.5}]
"""


def cost(values: Mapping[str, Any]) -> int:
    """Of all configs some cannot be trained."""
    if values.get("consistency.weight", 0) in (0.2, 0.3) and values["observed.sigma"] == 0.4:
        raise UserError("s: no such config")
    return IMAGES


def drawn(rng: random.Random, folder: Path) -> Sweep:
    search: dict[str, Any] = {
        "search.trials": rng.choice([3, 8, 50]),
        "search.sampler": rng.choice(["tpe", "tpe", "tpe", "random", "nsga2", "sobol", "TPESampler"]),
        "search.stopping.rule": rng.choice(["rungs", "rungs", "none"]),
        "search.stopping.eta": rng.choice([2, 3]),
        "search.seed": rng.randrange(100),
    }
    if rng.random() < 0.4:
        search["search.images"] = rng.choice([2000, 7000])
    if rng.random() < 0.3:
        search["search.constraints.memorization"] = 1.5
    text = rng.choice([FINITE, REAL])
    if text == FINITE and rng.random() < 0.3:
        search["search.sampler"] = "grid"
    if text == REAL:
        search["search.trials"] = min(search["search.trials"], 10)
    return sweep_of(folder, text, **search)


def check(driver: Driver) -> None:
    """What holds at the end, whatever happened."""
    sweep, search, folders = driver.sweep, driver.search, driver.folders
    tried = {i: f for i, f in folders.items() if f.trial.role == "search"}
    configs = {mark(f.trial.values) for f in tried.values()}
    assert len(configs) == len(tried), "no config twice"
    fixed = [f.trial for f in folders.values() if f.trial.role != "search"]
    assert sorted(str(t.values) for t in fixed) == sorted(str(t.values) for t in sweep.fixed_trials())
    admitted = sum(_admitted(v) for v in conditions.configs(sweep.space)) if sweep.size() < math.inf else math.inf
    spent = sum(f.reports[-1].images for f in tried.values() if f.reports)
    assert search.budget.executed == spent
    if not search.budget.spent:
        assert len(tried) == search.searched == min(sweep.trials, admitted), "it ended early"
        assert not sweep.search.images or all(f.ending != "stopped" for f in tried.values())
    if len(tried) > 2:
        for point in sweep.points:
            assert any(point.items() <= f.trial.values.items() for f in tried.values())
    again = driver.open()
    assert again.left == any(f.ending == "" for f in folders.values()), "those whose workers were lost are left"
    _check_study(driver, again._record.study)


def _admitted(values: Mapping[str, Any]) -> bool:
    try:
        return cost(values) > 0
    except UserError:
        return False


def _check_study(driver: Driver, study: optuna.Study) -> None:
    tried = {i: f for i, f in driver.folders.items() if f.trial.role == "search"}
    assert searched(study).keys() == tried.keys()
    seen = [
        (t.user_attrs["observation_of"], t.user_attrs["length"], t.user_attrs["images"], *t.values)
        for t in study.get_trials() if "observation_of" in t.user_attrs
    ]  # fmt: skip
    assert sorted(seen) == sorted(
        (i, r.fraction, r.images, *r.objectives)
        for i, f in tried.items() for r in f.reports if r.images_left > 0 and r.finite and r.full_samples
    ), "each finite, full evaluation before the last is an observation, once"  # fmt: skip
    complete = {
        t.user_attrs["trial_id"]: tuple(t.values)
        for t in study.get_trials(states=(TrialState.COMPLETE,)) if "trial_id" in t.user_attrs
    }  # fmt: skip
    assert complete == {
        i: f.reports[-1].objectives for i, f in tried.items() if f.ending == "completed" and f.reports[-1].finite
    }
    for trial in study.get_trials():
        trial_id = trial.user_attrs.get("trial_id", trial.user_attrs.get("observation_of"))
        if trial_id in tried and trial.params:  # without any, the driver died before they were drawn
            drawn = {key: driver.sweep.space[key].snap(value) for key, value in trial.params.items()}
            assert drawn.items() <= tried[trial_id].trial.values.items()
            assert trial.state != TrialState.RUNNING
            assert trial.state == TrialState.FAIL or "why" not in trial.user_attrs
    stopped = {i for i, f in tried.items() if f.ending == "stopped"}
    assert stopped <= {i for i, trial in searched(study).items() if trial.state == TrialState.PRUNED}


@pytest.mark.parametrize("lines", range(6))
def test_a_driver_that_dies_while_it_catches_up_goes_on_later(tmp_path: Path, lines: int) -> None:
    driver = Driver(sweep_of(tmp_path, REAL), random.Random(0), cost=cost)
    search = driver.open()
    for name in ("b", "s0", "s1"):
        trial = search.next(name)
        assert trial is not None
        driver.folders[name] = Folder(replace(trial, number=None), written=True)
    driver.folders["s0"].reports = [at(0.25, 3.0), at(1.0, 2.0)]
    driver.folders["s0"].ending = driver.folders["b"].ending = "completed"
    driver.journal.lines_left = lines
    with contextlib.suppress(Killed):
        driver.open().next("x")
    driver.journal.lines_left = math.inf
    again = driver.open()
    study = again._record.study
    assert (searched(study)["s0"].values, observations(study)) == ([2.0, 0.1], [("s0", 0.25, (3.0, 0.1))])
    going_on = again.next("x")
    assert going_on is not None
    assert replace(going_on, number=None) == driver.folders["s1"].trial


@pytest.mark.parametrize("seed", range(60))
def test_a_search_ends_when_all_is_trained_and_not_before(tmp_path: Path, seed: int) -> None:
    rng = random.Random(f"sequence/{seed}")
    planner = rng.choice([Unshared, Halves])
    driver = Driver(drawn(rng, tmp_path), rng, cost=cost, planner=planner, concurrent=rng.choice([1, 2, 5]))
    driver.run()
    points = [
        i for i, f in driver.folders.items() if any(p.items() <= f.trial.values.items() for p in driver.sweep.points)
    ]
    assert isinstance(driver.shared, Unshared) or set(driver.shared.clashes) <= set(points), (
        "only what the user put first trains beside"
    )
    check(driver)


@pytest.mark.parametrize("seed", range(80))
def test_a_driver_that_dies_anywhere_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(f"deadly/{seed}")
    planner = rng.choice([Unshared, Halves])
    concurrent = rng.choice([1, 2, 5])
    driver = Driver(drawn(rng, tmp_path), rng, cost=cost, planner=planner, concurrent=concurrent, deadly=True)
    driver.run()
    check(driver)
