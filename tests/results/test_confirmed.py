"""What is stated of a sweep's best, on planted problems: true values are known, measurements are noisy as on digits."""

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import CLASSIFIER
from planted_fronts import planted

from ambient_sweep import pareto
from ambient_sweep.config import build_config, dump
from ambient_sweep.evaluation.measure import Z95
from ambient_sweep.results.frontier.select import select
from ambient_sweep.results.tables import schema
from ambient_sweep.sweep.confirmation import Plan, plan
from ambient_sweep.sweep.space.definition import Confirm

SWEEPS, CANDIDATES = 400, 60
CONFIG = dump(build_config(CLASSIFIER))


def rows(trials: np.ndarray, values: np.ndarray, errors: np.ndarray, seed: int, samples: int) -> pa.Table:
    """A row of the evaluations table for each trial, which differ in what is given."""
    half, n = Z95 * errors, len(trials)
    given = {
        schema.TRIAL_ID: [f"t{i:03d}" for i in trials], schema.SEED: trials, schema.SIGMA: 0.1 + trials / 1000,
        schema.FIDELITY: values[:, 0], schema.low(schema.FIDELITY): (values - half)[:, 0],
        schema.high(schema.FIDELITY): (values + half)[:, 0],
        schema.MEMORIZATION: values[:, 1], schema.low(schema.MEMORIZATION): (values - half)[:, 1],
        schema.high(schema.MEMORIZATION): (values + half)[:, 1],
        "fd_classifier": values[:, 0], schema.SAMPLES: np.full(n, samples), schema.EVALUATION_SEED: np.full(n, seed),
    }  # fmt: skip
    same = CONFIG | {
        "role": "search", "trial_status": "completed", "images": 200_000, "images_executed": 200_000, "fraction": 1.0,
        "images_asked": 200_000, "endpoint": "zero", "main_endpoint": True, "on_front": False,
        "fidelity_measure": "fd_classifier", "memorization_measure": "mem_excess", "seconds": 1.0, "checkpoint": "c",
        "data_fingerprint": "d", "reference_key": "r",
    }  # fmt: skip
    fields = schema.EVALUATIONS
    columns = [
        pa.array(given[f.name], f.type) if f.name in given else pa.repeat(pa.scalar(same.get(f.name), f.type), n)
        for f in fields
    ]
    return pa.table(columns, schema=fields)


def confirmed(rng: np.random.Generator, truth: np.ndarray, errors: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """A sweep's table before its confirmation and after it."""
    everything = np.arange(len(truth))
    before = table = rows(everything, truth + errors * rng.normal(size=truth.shape), errors, 0, 500)
    while (step := plan(table, Confirm(), {})) != Plan():
        trials = np.array([int(each.trial_id[1:]) for each in step.remeasurements])
        assert {each.samples for each in step.remeasurements} == {2000}
        values = truth[trials] + errors[trials] / 2 * rng.normal(size=(len(trials), 2))
        again = rows(trials, values, errors[trials] / 2, step.remeasurements[0].seed, 2000)
        table = pa.concat_tables([table, again])
    return before, table


@pytest.fixture(scope="module")
def outcomes() -> dict[str, np.ndarray]:
    """Of each sweep's knee: its regret without and with confirmation, in units of the true front, and what is stated."""
    found: dict[str, list] = {"regret": [], "error": [], "before": [], "covered": []}
    for number in range(SWEEPS):
        rng = np.random.default_rng(number)
        truth, _, errors = planted(rng, "digits", CANDIDATES)
        front = truth[pareto.pareto_mask(truth)]
        scaled = (truth - front.min(axis=0)) / np.ptp(front, axis=0)
        regrets, stated = [], []
        for table in confirmed(rng, truth, errors):
            row = select(table, "knee").row
            index = int(row["trial_id"][1:])
            regrets.append(scaled[index].sum() - scaled.sum(axis=1).min())
            names = (schema.FIDELITY, schema.MEMORIZATION)
            holds = [
                row[schema.low(name)] <= true <= row[schema.high(name)]
                for name, true in zip(names, truth[index], strict=True)
            ]
            stated.append((row["fidelity"] - truth[index, 0], holds))
        found["regret"].append(regrets)
        found["before"].append(stated[0][0])
        found["error"].append(stated[1][0])
        found["covered"].append(stated[1][1])
    return {name: np.array(values) for name, values in found.items()}


def test_the_fidelity_stated_is_unbiased(outcomes: dict[str, np.ndarray]) -> None:
    error, before = outcomes["error"], outcomes["before"]
    assert abs(error.mean()) < 2 * error.std() / np.sqrt(200)
    assert before.mean() < -10 * before.std() / np.sqrt(SWEEPS), "the lucky draw of a single measurement"


def test_their_intervals_hold_as_often_as_they_say(outcomes: dict[str, np.ndarray]) -> None:
    assert 0.93 <= outcomes["covered"].mean() <= 0.97


def test_the_choice_loses_at_most_half_as_much(outcomes: dict[str, np.ndarray]) -> None:
    before, after = outcomes["regret"].mean(axis=0)
    assert after <= before / 2
