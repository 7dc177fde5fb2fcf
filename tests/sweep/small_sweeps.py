"""Small sweeps for the tests that really start Ray."""

import textwrap
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from ambient_sweep.sweep.search.study import open_study
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import load_sweep

SMALL = """
base:
  model: {kind: mlp, width: 32, blocks: 1}
  training: {images: 3200, batch_size: 64, checkpoints: 10, records: 5}
  evaluation: {lengths: [0.5, 1.0], samples: 64}
  sampling.steps: 5
space:
  observed.sigma: {uniform: [0.1, 0.5]}
  consistency.start: {choice: [0.5, 0.75]}
search: {trials: 2, stopping: {rule: none}}
"""


def study_of(root: Path, name: str = "small") -> optuna.Study:
    """The study of a sweep, as another process sees it."""
    return open_study(name, RandomSampler(), root / "study.journal")


def searched_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The searched trials as they stand in a study, by their ids: of one that went on in a later session the last."""
    return list({t.user_attrs["trial_id"]: t for t in study.trials if "trial_id" in t.user_attrs}.values())


def small_sweep(folder: Path, extra: str = "", **overrides: Any) -> Sweep:
    """The sweep with these lines and values; without confirmation where they do not name it."""
    path = folder / "small.yaml"
    confirm = "" if "confirm" in extra else "\nconfirm: {samples: 0}\n"
    path.write_text(SMALL + textwrap.dedent(extra) + confirm)
    return load_sweep(path, {key.replace("__", "."): value for key, value in overrides.items()})
