"""What a sweep does with its stages: those nobody needs go, and which trials share their training to the end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ambient_sweep.stages.keys import data_key
from ambient_sweep.stages.planner import Planner
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.running.callback import SweepCallback
from ambient_sweep.sweep.running.faults import Restarts
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import StopRequest
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.space.file import load_sweep
from ambient_sweep.terminal import Screen
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

BASE = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 1600, "batch_size": 32, "records": 10, "checkpoints": 2},
    "evaluation": {"samples": 16, "lengths": [0.25, 0.5, 0.75, 0.875, 1.0], "extras": []},
    "sampling.steps": 3,
    "ema": {"kind": "power", "snapshots": 4},
    "consistency.start": 0.75,
}


def test_stages_that_take_too_much_go_but_for_what_front_and_live_trials_need(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    space = {"consistency.weight": {"choice": [1.0, 2.0]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}}
    file.write_text(yaml.safe_dump({"base": BASE, "space": space, "search": {"stages_gib": 0}}))
    sweep = load_sweep(file)
    root = tmp_path / "run"
    prepare(sweep.config_for({}), root)
    lines: list[str] = []
    planner = Planner(sweep.config_for, data_key(root))
    rates = {"good": 0.005, "bad": 1e-5, "live": 2e-5}  # the second learns nothing, so that it is not on the frontier
    trials = {
        name: SweepTrial("search", {"consistency.weight": 1.0, "optimizer.lr": lr}, trial_id=name)
        for name, lr in rates.items()
    }
    search: Any = SimpleNamespace(trials={"live": trials["live"]}, planner=planner)
    progress = Progress(root, ("fd", "mem"), Screen(lines.append), Forecast(0, 0, 3))
    callback = SweepCallback(sweep, root, search, progress, StopRequest(), Restarts(root, sweep.search))
    for name, trial in trials.items():
        planner.started(name, trial.values)
        run_trial(sweep.config_for(trial.values), root, name, stages=Stages(root))
        planner.reached(name, 1600)
        planner.ended(name)
    before = Stages(root).states()
    callback._collect()
    left = Stages(root).states()
    keys = {name: {key for _, key in planner.run(trial.values).states} for name, trial in trials.items()}
    assert left >= keys["good"] | keys["live"]
    assert before >= keys["bad"]
    assert not left & keys["bad"]
    assert [planner.cost(trials[name].values) for name in ("bad", "good")] == [1600, 0]
    assert "removed, to stay within search.stages_gib" in lines[-1]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"ema.length": {"choice": [0.05, 0.1]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}}, True),
        ({"sampling.steps": {"int": [4, 8]}}, True),
        ({"consistency.weight": {"choice": [1.0, 2.0]}, "optimizer.lr": {"loguniform": [1e-5, 1e-2]}}, False),
        ({"training.stop": {"choice": [0.5, 1.0]}}, False),  # of another end
    ],
)
def test_which_spaces_hold_one_training_measured_otherwise(
    tmp_path: Path, space: dict[str, Any], expected: bool
) -> None:
    file = tmp_path / "s.yaml"
    base = BASE | {"ema": {"kind": "power", "tracked": [0.05, 0.1]}}
    file.write_text(yaml.safe_dump({"base": base, "space": space}))
    assert load_sweep(file).has_siblings is expected
