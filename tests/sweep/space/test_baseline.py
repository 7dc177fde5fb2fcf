"""Clean training in a sweep: measured twice as densely, and searched where searched keys act on it."""

from dataclasses import replace
from pathlib import Path

from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import load_sweep

FILE = """
name: small
base: {model.kind: mlp, training.images: 64000, evaluation.lengths: [0.25, 0.5, 1]}
space:
  observed.sigma: {uniform: [0.1, 0.5]}
"""


def sweep_of(folder: Path, more: str = "", end: str = "") -> Sweep:
    (folder / "sweep.yaml").write_text(FILE + more + end)
    return load_sweep(folder / "sweep.yaml")


def test_clean_training_is_measured_between_the_lengths_of_noisy_training_too(tmp_path: Path) -> None:
    (trial,) = sweep_of(tmp_path).fixed_trials()
    assert trial.values == {
        "objective.kind": "denoising", "observed.sigma": 0.0, "seed": 0,
        "evaluation.lengths": [0.125, 0.25, 0.375, 0.5, 0.75, 1.0],
    }  # fmt: skip


def test_lengths_that_fall_on_one_step_are_one(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    short = replace(sweep, base=sweep.base | {"training.images": 4 * sweep.base["training.batch_size"]})
    config = short.config_for(short.fixed_trials()[0].values)
    assert [images // config.training.batch_size for images in evaluated_lengths(config)] == [1, 2, 3, 4]


def test_what_acts_on_clean_training_is_searched_there(tmp_path: Path) -> None:
    more = """  consistency.weight: {loguniform: [0.1, 3]}
  optimizer.lr: {loguniform: [1e-4, 1e-2]}
  model.width: {choice: [64, 128, 256]}
"""
    sweep = sweep_of(tmp_path, more, "search: {trials: 24}\nbaseline: {seeds: [0, 1]}\n")
    values = [trial.values for trial in sweep.fixed_trials()]
    assert len(values) == 2 * (1 + 24 // 4)
    for seed in (0, 1):
        first, *drawn = [each for each in values if each["seed"] == seed]
        assert set(first) == {"objective.kind", "observed.sigma", "seed", "evaluation.lengths"}
        assert all(set(each) == {*first, "optimizer.lr", "model.width"} for each in drawn)
        assert len({each["optimizer.lr"] for each in drawn}) == 6
    assert (
        sweep.fixed_trials()
        == sweep_of(tmp_path, more, "search: {trials: 24}\nbaseline: {seeds: [0, 1]}\n").fixed_trials()
    )


def test_few_values_are_each_trained_once(tmp_path: Path) -> None:
    more = "  model.width: {choice: [64, 128]}\n"
    sweep = sweep_of(tmp_path, more, "search: {trials: 100}\n")
    widths = [trial.values.get("model.width", sweep.base["model.width"]) for trial in sweep.fixed_trials()]
    assert len(widths) == len(set(widths))
    assert {64, 128} <= set(widths)


def test_a_key_whose_condition_clean_training_does_not_meet_is_left_out(tmp_path: Path) -> None:
    more = """  objective.kind: {choice: [ambient, denoising]}
  optimizer.lr: {loguniform: [1e-4, 1e-2], when: {objective.kind: ambient}}
"""
    assert len(sweep_of(tmp_path, more).fixed_trials()) == 1
