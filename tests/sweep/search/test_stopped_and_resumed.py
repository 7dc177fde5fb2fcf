"""A sweep that is stopped after any evaluation and resumed has the study of one that ran through, trial by trial."""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searches import IMAGES, Folder, Journal, Unshared, at, sweep_of

from ambient_sweep.sweep.search.samplers import build_sampler
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.search.study import WHY, StudyRecord
from ambient_sweep.sweep.stopping.rungs import Decision

LENGTHS = (0.25, 0.5, 1.0)
SWEEP = """
base: {evaluation.lengths: [0.25, 0.5, 1.0]}
space: {observed.sigma: {choice: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}
controls: [{label: plain, set: {objective.kind: ambient}}]
search: {trials: 6}
"""


def study_after(folder: Path, stop: int | None, **search: Any) -> list[Any]:
    """What the study holds at the end, where the driver stops with evaluation `stop` on disk and not reported."""
    sweep, journal = sweep_of(folder, SWEEP, **search), optuna.storages.JournalStorage(Journal())
    folders, ids, written = dict[str, Folder](), (f"t{i}" for i in itertools.count()), 0

    def opened() -> SweepSearch:
        study = optuna.create_study(storage=journal, study_name="s", directions=["minimize"] * 2, load_if_exists=True)
        study.sampler = build_sampler(sweep.search, len(study.trials))
        histories = {i: f.history for i, f in folders.items()}
        planner = Unshared(lambda values: IMAGES)
        return SweepSearch(sweep, StudyRecord(study, sweep.space), planner=planner, histories=histories)

    current = opened()
    while (trial := current.next(next(ids))) is not None:
        mine = folders.setdefault(trial.trial_id, Folder(trial))
        decision = Decision.CONTINUE
        while decision == Decision.CONTINUE and len(mine.reports) < len(LENGTHS):
            length = LENGTHS[len(mine.reports)]
            draw = random.Random(f"{sorted(trial.values.items())}{length}")
            values = draw.random() + 0.1 / length, draw.random() + 0.1 * length
            mine.reports.append(at(length, *values, images_executed=round(length * IMAGES)))
            written += 1
            if written == stop:
                current = opened()
                break
            decision = current.evaluated(trial.trial_id, mine.reports[-1])
        else:
            if decision == Decision.CONTINUE:
                mine.ending = "completed"
                current.ended(trial.trial_id, replace(mine.reports[-1], ending="completed"))
    current.end_paused()
    trials = [t for t in current._record.study.trials if t.state != TrialState.FAIL or WHY in t.user_attrs]
    return sorted((str(t.params), t.state.name, t.values or [], t.user_attrs.get("length", 0)) for t in trials)


@pytest.mark.parametrize("rule", ["none", "rungs"])
@pytest.mark.parametrize("sampler", ["grid", "random", "sobol"])
def test_the_study_is_that_of_a_sweep_that_ran_through(tmp_path: Path, sampler: str, rule: str) -> None:
    changes = {"search__sampler": sampler, "search__stopping__rule": rule}
    whole = study_after(tmp_path, None, **changes)
    assert len(whole) >= 6 + 6
    for stop in range(1, 25):
        assert study_after(tmp_path, stop, **changes) == whole, stop
