"""How much each searched key matters for each objective: PED-ANOVA, by Optuna.

A study in memory holds the evaluations that the search went by, all lengths together, with the length as one more key.
PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255) asks how differently a key is distributed among the best fifth for an
objective and among all.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.compute as pc
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from ambient_sweep.results.report.document import NO_IMPORTANCE, Importance, first_measurements
from ambient_sweep.results.tables import schema
from ambient_sweep.sweep.search.study import open_study, optuna_distribution
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.distributions import Distribution
from ambient_sweep.text import counted

BEST = 0.2  # share of the evaluations whose keys are compared with those of all
FEWEST = 25  # evaluations, five of which are the best; below, chance decides
LENGTH = "training length"


def importance(table: pa.Table, space: Mapping[str, Distribution]) -> Importance:
    """The importance of each key of the space and of the training length, from an evaluations table."""
    if not space:
        return NO_IMPORTANCE
    rows = first_measurements(table)
    rows = rows.filter((pc.field(schema.ROLE) == "search") & pc.field("main_endpoint"))
    n, trials = rows.num_rows, len(rows[schema.TRIAL_ID].unique())
    basis = f"{counted(n, 'evaluation')} of {counted(trials, 'searched trial')}"
    if n < FEWEST:
        return Importance({}, f"Importance needs {FEWEST} evaluations at least; there are {basis}.")
    study = open_study("importance", optuna.samplers.RandomSampler(seed=0))
    names = (*space, schema.FRACTION, schema.FIDELITY, schema.MEMORIZATION)
    study.add_trials([_told(row, space) for row in rows.select(names).to_pylist()])
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that low values are the better ones
        for target in (lambda told: told.values[0], lambda told: told.values[1]):
            evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST)
            found.append(get_param_importances(study, evaluator=evaluator, target=target))
    shares = {key: (found[0].get(key, 0.0), found[1].get(key, 0.0)) for key in (*space, LENGTH)}
    note = (
        f"PED-ANOVA on {basis}: how differently a key is distributed among the best fifth for an objective and among all. "
        "Shares add up to 100 % for each objective."
    )
    return Importance(shares, note)


def _told(row: Mapping[str, Any], space: Mapping[str, Distribution]) -> optuna.trial.FrozenTrial:
    """A row as a trial of Optuna's, with the keys that are active in it."""
    params: dict[str, Any] = {}
    for key, distribution in space.items():
        if conditions.is_active(distribution, params):
            params[key] = distribution.snap(row[key])
    distributions = {key: optuna_distribution(space[key]) for key in params}
    return create_trial(
        values=[row[schema.FIDELITY], row[schema.MEMORIZATION]],
        params=params | {LENGTH: row[schema.FRACTION]},
        distributions=distributions | {LENGTH: FloatDistribution(0.0, 1.0)},
    )
