"""Small sweeps for the tests that really start Ray."""

import textwrap
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from ambient_sweep.sweep.space import Sweep, load_sweep

SMALL = """
base:
  model: {kind: mlp, width: 32, blocks: 1}
  training: {images: 3200, batch_size: 64, checkpoints: 10, records: 5}
  evaluation: {lengths: [0.5, 1.0], samples: 64}
  sampling.steps: 5
space:
  observed.sigma: {uniform: [0.1, 0.5]}
  consistency.start: {choice: [0.5, 0.75]}
search: {trials: 2, startup_trials: 1, stopping: {rule: none}}
"""


def searched_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study without the observations of theirs before their ends."""
    return [trial for trial in study.trials if "trial_id" in trial.user_attrs]


def small_sweep(folder: Path, extra: str = "", **overrides: Any) -> Sweep:
    path = folder / "small.yaml"
    path.write_text(SMALL + textwrap.dedent(extra))
    return load_sweep(path, {key.replace("__", "."): value for key, value in overrides.items()})
