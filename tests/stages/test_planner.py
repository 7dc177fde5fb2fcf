"""What the driver knows of what is trained already, against what trials do."""

from pathlib import Path

from ambient_sweep.config import build_config
from ambient_sweep.stages.keys import data_key
from ambient_sweep.stages.planner import Planner
from ambient_sweep.stages.stages import Stages
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


def config_for(values):
    return build_config(BASE, dict(values))


def test_the_cost_that_is_foreseen_is_the_most_that_trials_then_execute(tmp_path: Path) -> None:
    prepare(config_for({}), tmp_path)
    planner = Planner(config_for, data_key(tmp_path))
    runs = [
        {"consistency.weight": 1.0},
        {"consistency.weight": 2.0},  # from 0.75 on
        {"consistency.weight": 1.0, "consistency.start": 0.5},  # from 0.5 on
        {"consistency.weight": 2.0, "ema.length": 0.2},  # measured anew where states lie, then from 0.75 on
        {"consistency.weight": 2.0, "sampling.steps": 4},  # the same
        {"optimizer.lr": 0.002},  # nothing in common
    ]
    foreseen, executed = [], []
    for number, values in enumerate(runs):
        foreseen.append(planner.cost(values))
        planner.started(str(number), values)
        record = run_trial(config_for(values), tmp_path, str(number), stages=Stages(tmp_path))
        planner.reached(str(number), record.images_done)
        planner.ended(str(number))
        executed.append(record.images_executed)
    assert foreseen == [1600, 384, 800, 384, 384, 1600]
    # once measured at 0.875, what is stored of the end is theirs too
    assert executed == [1600, 384, 800, 192, 192, 1600]
    stored = Stages(tmp_path).states()
    assert {key for key in planner.stored if "/" not in key} == stored
    planner.forget(stored)
    assert [planner.cost(values) for values in runs] == [1600] * len(runs)


def test_a_state_where_only_anothers_phase_begins_counts_too(tmp_path: Path) -> None:
    """The first stores its state after 960 images, where the second, whose phase begins later, would not stop by itself."""
    first, second = ({"optimizer.lr": 0.002, "consistency.start": start} for start in (0.6, 0.875))
    prepare(config_for({}), tmp_path)
    planner = Planner(config_for, data_key(tmp_path))
    assert 960 not in dict(planner.run(second).states)
    planner.started("a", first)
    planner.reached("a", 800)
    assert planner.busy(second), "it is on its way there"
    run_trial(config_for(first), tmp_path, "a", stages=Stages(tmp_path))
    planner.reached("a", 1200)
    assert not planner.busy(second)
    assert planner.cost(second) == 640
    assert run_trial(config_for(second), tmp_path, "b", stages=Stages(tmp_path)).images_executed == 640


def test_lists_of_a_control_are_values_like_others() -> None:
    planner = Planner(config_for)
    tracked = {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "model.multipliers": [1, 2]}
    planner.started("control", tracked)
    assert planner.cost(tracked) == 1600
    assert planner.run(tracked) != planner.run({**tracked, "ema.tracked": [0.05, 0.15]})


def test_a_prefix_that_is_being_trained_is_busy() -> None:
    planner = Planner(config_for)
    planner.started("a", {"consistency.weight": 1.0})
    other = {"consistency.weight": 2.0}
    assert planner.busy(other)
    assert not planner.busy({"optimizer.lr": 0.002})
    planner.reached("a", 800)
    assert planner.busy(other)
    assert planner.cost(other) == 800
    planner.reached("a", 1216)
    assert not planner.busy(other)
    assert planner.cost(other) == 384
    planner.ended("a")
    assert not planner.busy(other)
