"""The sweep file: what is accepted, what is refused and in which words, and the way back from its dump."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from ambient_sweep.config import knobs
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import validation
from ambient_sweep.sweep.space.definition import Confirm, Stopping, SweepTrial
from ambient_sweep.sweep.space.distributions import Distribution
from ambient_sweep.sweep.space.file import load_sweep, write_sweep
from ambient_sweep.sweep.space.validation import check_space

GOOD = """
base:
  model: {kind: mlp, width: 64}
  training.images: 5000
  optimizer: {lr: 1e-2}
space:
  observed.sigma: {uniform: [0.1, 0.5]}
  consistency.weight: {loguniform: [1e-1, 10]}
  consistency.chain_steps: {int: [1, 8]}
  training.batch_size: {logint: [16, 64]}
  consistency.ramp: {choice: [step, linear]}
points:
  - {observed.sigma: 0.2, consistency.ramp: linear}
  - {consistency: {weight: 3}}
controls:
  - {label: plain, seeds: [0, 1], set: {objective.kind: ambient}}
  - {set: {observed.sigma: 0.3, consistency: {weight: 0}}}
baseline: {seeds: [0, 1, 2]}
search: {trials: 8, sampler: nsga2, seed: 4, max_failures: 1, max_concurrent: 2}
"""
CONDITIONAL = """
space:
  consistency.weight: {loguniform: [0.1, 3], when: {objective.kind: ambient_consistency}}
  objective.kind: {choice: [ambient, ambient_consistency]}
  observed.sigma: {uniform: [0.05, 0.5], step: 0.05}
  consistency.chain_steps: {int: [2, 8], step: 3, when: {objective.kind: [ambient_consistency], observed.sigma: [0.1, 0.3]}}
confirm: {samples: 2x}
search: {trials: 5}
"""
MINIMAL = "space: {observed.sigma: {uniform: [0.1, 0.5]}}\n"


def write(folder: Path, text: str, name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_full_file_is_read(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, GOOD))
    assert sweep.name == "small"
    assert sweep.base["model.kind"] == "mlp"
    assert set(sweep.base) == set(knobs())  # every knob, so that the dump does not depend on a later default
    assert sweep.space["observed.sigma"] == Distribution("uniform", (0.1, 0.5))
    assert sweep.space["consistency.weight"].values == (0.1, 10.0)  # YAML reads 1e-1 as a word
    assert sweep.points == ({"observed.sigma": 0.2, "consistency.ramp": "linear"}, {"consistency.weight": 3.0})
    assert [(t.role, t.label) for t in sweep.fixed_trials()] == [
        *[("baseline", "baseline")] * 9,  # for each seed the base's own, and two for 8 searched configs
        ("control", "plain"), ("control", "plain"), ("control", "observed.sigma=0.3, consistency.weight=0"),
    ]  # fmt: skip
    assert sweep.config_for(sweep.fixed_trials()[10].values).seed == 1
    config = sweep.config_for({"observed.sigma": 0.25, "consistency.ramp": "linear"})
    assert (config.observed.sigma, config.consistency.ramp, config.optimizer.lr) == (0.25, "linear", 0.01)


def test_the_baseline_is_ordinary_training_on_clean_images(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, MINIMAL), {"seed": 7})
    (trial,) = sweep.fixed_trials()
    config = sweep.config_for(trial.values)
    assert (config.objective.kind, config.observed.sigma, config.seed) == ("denoising", 0, 7)


PRESETS = """
base:
  data: {source: folder, path: photos, image_size: 32, channels: 3}
  model: {preset: unet-32, blocks: 3}
space:
  observed.sigma: {uniform: [0.1, 0.5]}
"""


def test_presets_win_over_the_layers_below_and_lose_to_what_is_given_beside_them(tmp_path: Path) -> None:
    """Layers: the base, overrides of the command line, a trial's own values."""
    m = load_sweep(write(tmp_path, PRESETS)).config_for({"observed.sigma": 0.2}).model
    assert (m.width, m.levels, m.multipliers, m.attention, m.blocks) == (128, 3, (2, 2, 2), (16,), 3)
    overrides = {"model.preset": "dit-32", "model.width": 192}
    m = load_sweep(write(tmp_path, PRESETS), overrides).config_for({}).model
    assert (m.kind, m.width, m.blocks) == ("dit", 192, 12)
    sweep = load_sweep(write(tmp_path, PRESETS), {"model.width": 64})
    m = sweep.config_for({"model.preset": "dit-8", "model.blocks": 2}).model
    assert (m.kind, m.width, m.blocks, m.multipliers) == ("dit", 64, 2, ())
    write_sweep(sweep, tmp_path / "sweep.yaml")
    assert load_sweep(tmp_path / "sweep.yaml").base == sweep.base


def test_noisy_base_copies_leave_no_baseline(tmp_path: Path) -> None:
    noisy = {"observed.base_sigma": 0.1}
    assert load_sweep(write(tmp_path, MINIMAL), noisy).fixed_trials() == ()
    path = write(tmp_path, MINIMAL + "baseline: {seeds: [0]}")
    with pytest.raises(UserError, match=r"baseline: needs clean images, so observed\.base_sigma=0; remove"):
        load_sweep(path, noisy)


@pytest.mark.parametrize("overrides", [{}, {"observed.base_sigma": 0.05}, {"search.trials": 4}])
@pytest.mark.parametrize("text", [GOOD.replace("baseline: {seeds: [0, 1, 2]}\n", ""), MINIMAL, CONDITIONAL])
def test_the_dump_reads_back_to_an_equal_sweep(tmp_path: Path, text: str, overrides: dict[str, Any]) -> None:
    sweep = load_sweep(write(tmp_path, text), overrides)
    write_sweep(sweep, tmp_path / "sweep.yaml")
    assert load_sweep(tmp_path / "sweep.yaml") == sweep


def test_an_override_of_a_distribution_that_is_none_names_it(tmp_path: Path) -> None:
    file = write(tmp_path, "space: {observed.sigma: 0.2}")
    with pytest.raises(UserError, match=r"space\.observed\.sigma: expected one of uniform,"):
        load_sweep(file, {"space.observed.sigma": {"uniform": [0.1, 0.2]}})


def test_overrides_reach_base_search_and_name(tmp_path: Path) -> None:
    changes = {"search.trials": 9, "training.images": 640, "name": "other", "baseline.seeds": [5]}
    sweep = load_sweep(write(tmp_path, GOOD), changes)
    assert (sweep.search.trials, sweep.search.sampler) == (9, "nsga2")
    assert sweep.base["training.images"] == 640
    assert (sweep.name, sweep.fixed_trials()[0].values["seed"]) == ("other", 5)


@pytest.mark.parametrize(
    ("search", "trials"),
    [
        ("{}", 20),
        ("{trials: 3}", 3),
        ("{images: 640}", 16),
        ("{images: 641}", 32),
        ("{images: 6400, trials: 12}", 12),
    ],
)
def test_how_many_configs_a_search_has_at_most(tmp_path: Path, search: str, trials: int) -> None:
    text = MINIMAL + f"search: {search}\n"
    sweep = load_sweep(write(tmp_path, text), {"training.images": 640, "training.batch_size": 64})
    assert sweep.trials == trials
    write_sweep(sweep, tmp_path / "sweep.yaml")
    assert load_sweep(tmp_path / "sweep.yaml").trials == trials


def test_sections_of_the_search_are_overridden_key_by_key(tmp_path: Path) -> None:
    text = MINIMAL + "search: {stopping: {rule: rungs, eta: 4}, constraints: {memorization: 0.05}}\nconfirm: {top: 4}\n"
    changes = {"search.stopping.eta": 2, "search.constraints.parameters": 5e6, "search.sampler_args.a": 1}
    changes["confirm.seeds"] = 2
    sweep = load_sweep(write(tmp_path, text), changes)
    assert sweep.search.stopping == Stopping(rule="rungs", eta=2)
    assert sweep.search.constraints == {"memorization": 0.05, "parameters": 5e6}
    assert sweep.search.sampler_args == {"a": 1}
    assert sweep.confirm == Confirm(seeds=2, top=4)
    emptied = load_sweep(write(tmp_path, text), {"search.constraints": {}, "search.stopping.rule": "none"}).search
    assert (emptied.constraints, emptied.stopping) == ({}, Stopping(rule="none", eta=4))
    write_sweep(sweep, tmp_path / "sweep.yaml")
    assert load_sweep(tmp_path / "sweep.yaml") == sweep
    plain = load_sweep(write(tmp_path, MINIMAL))
    assert (plain.confirm, plain.search.stopping, plain.search.stages) == (Confirm(), Stopping(), True)
    assert (plain.confirm.factor, plain.confirm.seeds) == (4, 0)


@pytest.mark.parametrize(
    ("lengths", "rule", "levels"),
    [([0.25, 0.5, 1.0], "rungs", (0.25, 0.5)), ([1.0], "rungs", ()), ([0.25, 1.0], "none", ())],
)
def test_rungs_lie_at_all_evaluated_lengths_but_the_last(
    tmp_path: Path, lengths: list[float], rule: str, levels: tuple[float, ...]
) -> None:
    changes = {"evaluation.lengths": lengths, "search.stopping.rule": rule}
    assert load_sweep(write(tmp_path, MINIMAL), changes).rung_levels == levels


def test_names_of_trials_are_short_and_unambiguous() -> None:
    assert SweepTrial("search", {"observed.sigma": 0.12345, "seed": 3}).name == "sigma=0.123, seed=3"
    assert SweepTrial("search", {"a.start": 1, "b.start": True}).name == "a.start=1, b.start=True"
    assert SweepTrial("replicate", {"seed": 3}, "t1").name == "t1 (seed 3)"
    assert SweepTrial("replicate", {"seed": 3}, "t1").replicate_of == "t1"
    assert SweepTrial("control", {}, "plain").name == "plain"
    assert SweepTrial("control", {}, "plain").replicate_of is None


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep(write(tmp_path, MINIMAL), {"data.source": "folder", "data.path": "images"})
    assert sweep.base["data.path"] == str(tmp_path / "images")


BAD = {
    "unknown section": ("spaces: {}\n" + MINIMAL, "unknown key 'spaces'; did you mean 'space'?"),
    "no space": ("base: {seed: 1}\n", "space: missing"),
    "unknown searched key": ("space: {observed.sigmas: {uniform: [0, 1]}}", "space: unknown key 'observed.sigmas'; did"),
    "unknown base key": ("base: {modle.kind: mlp}\n" + MINIMAL, "base: unknown key 'modle.kind'; did you mean"),
    "base twice": ("base: {seed: 1, 'seed': 2}\n" + MINIMAL, "key 'seed' is given twice"),
    "base dotted and nested": ("base: {model: {kind: mlp}, model.kind: unet}\n" + MINIMAL, "line 1, column 28: key 'model."),
    "no distribution": ("space: {observed.sigma: 0.2}", "space.observed.sigma: expected one of uniform,"),
    "unknown distribution": ("space: {observed.sigma: {normal: [0, 1]}}", "space.observed.sigma: expected one of"),
    "reversed": ("space: {observed.sigma: {uniform: [0.5, 0.1]}}", "the lower first, not [0.5, 0.1]"),
    "three ends": ("space: {observed.sigma: {uniform: [1, 2, 3]}}", "needs its lower and its upper end"),
    "log of zero": ("space: {consistency.weight: {loguniform: [0, 1]}}", "loguniform needs ends above 0"),
    "half an int": ("space: {consistency.chain_steps: {int: [1.5, 3]}}", "1.5 is not a whole number"),
    "infinite": ("space: {observed.sigma: {uniform: [0.1, 1e999]}}", "inf is not finite"),
    "word for a number": ("space: {observed.sigma: {uniform: [low, high]}}", "'low' is not a number"),
    "true for a number": ("space: {observed.sigma: {uniform: [false, true]}}", "'false' is not a number"),
    "one choice": ("space: {consistency.ramp: {choice: [step]}}", "at least two different values"),
    "true and 1": ("space: {seed: {choice: [true, 1]}}", "space.seed: expected a whole number"),
    "same choice": ("space: {consistency.ramp: {choice: [step, step]}}", "at least two different values"),
    "list choice": ("space: {consistency.ramp: {choice: [[step], linear]}}", "a choice must be a number, a word"),
    "searched data": ("space: {data.train_size: {int: [50, 90]}}", "data.train_size may not be searched"),
    "searched evaluation": ("space: {evaluation.samples: {int: [50, 90]}}", "evaluation.samples may not be searched"),
    "searched resources": ("space: {resources.workers: {int: [1, 2]}}", "resources.workers may not be searched"),
    "searched base noise": ("space: {observed.base_sigma: {uniform: [0, 1]}}", "observed.base_sigma may not be"),
    "searched noise seed": ("space: {observed.seed: {int: [0, 1]}}", "observed.seed may not be searched"),
    "control on data": (MINIMAL + "controls: [{set: {data.split_seed: 1}}]", "data.split_seed may not be set per"),
    "control on nothing": (MINIMAL + "controls: [{set: {sigma: 1}}]", "controls[0].set: unknown key 'sigma'"),
    "control's own key": (MINIMAL + "controls: [{name: a}]", "controls[0]: unknown key 'name'; it has label, seeds,"),
    "control without seeds": (MINIMAL + "controls: [{seeds: []}]", "controls[0].seeds: expected at least 1"),
    "two seeds": (MINIMAL + "controls: [{seeds: [1], set: {seed: 2}}]", "set.seed contradicts seeds"),
    "controls no list": (MINIMAL + "controls: {set: {seed: 2}}", "controls: expected a list"),
    "point elsewhere": (MINIMAL + "points: [{seed: 2}]", "points[0]: 'seed' is not searched; a point may name"),
    "point outside": (MINIMAL + "points: [{observed.sigma: 0.9}]", "points[0]: observed.sigma: 0.9 lies outside of"),
    "empty point": (MINIMAL + "points: [{}]", "points[0]: is empty"),
    "points over trials": (
        MINIMAL + "points: [{observed.sigma: 0.2}, {observed.sigma: 0.3}]\nsearch: {trials: 1}",
        "points: 2 of them, but search.trials=1",
    ),
    "no trials": (MINIMAL + "search: {trials: 0}", "search.trials: must be at least 1"),
    "grid of real numbers": (MINIMAL + "search: {sampler: grid}", "space.observed.sigma has neither"),
    "unknown constraint": (MINIMAL + "search: {constraints: {beauty: 1}}", "search.constraints.beauty"),
    "negative constraint": (MINIMAL + "search: {constraints: {memorization: -1}}", "memorization: must be at least 0"),
    "unknown stopping": (MINIMAL + "search: {stopping: {rule: luck}}", "search.stopping.rule: expected 'none'"),
    "unknown key of stopping": (
        MINIMAL + "search: {stopping: {levels: [1]}}", "search.stopping: unknown key 'levels'; it has rule, eta",
    ),
    "confirm's samples": (MINIMAL + "confirm: {samples: 64}", "confirm.samples: write a multiple of evaluation.samples"),
    "confirm's own key": (MINIMAL + "confirm: {seed: 3}", "confirm: unknown key 'seed'; did you mean 'seeds'?"),
    "step beside": ("space: {observed.sigma: {uniform: [0, 1], steps: 1}}", "unknown key 'steps'; did you mean 'step'?"),
    "step that misses": ("space: {observed.sigma: {uniform: [0.1, 0.5], step: 0.3}}", "0.5 is not reached from 0.1 in"),
    "step of a log": ("space: {observed.sigma: {loguniform: [0.1, 1], step: 0.1}}", "loguniform takes no step; remove"),
    "step above": ("space: {observed.sigma: {uniform: [0.1, 0.5], step: 3}}", "step: 3.0 is larger than the range from 0.1"),
    "whole step above": ("space: {consistency.chain_steps: {int: [1, 8], step: 8}}", "step: 8 is larger than the range"),
    "step below": ("space: {consistency.chain_steps: {int: [1, 8], step: -1}}", "step: -1 is not above 0"),
    "point beside a step": (
        "space: {observed.sigma: {uniform: [0.1, 0.5], step: 0.1}}\npoints: [{observed.sigma: 0.25}]",
        "points[0]: observed.sigma: 0.25 is not reached from 0.1 in steps of 0.1",
    ),
    "condition on nothing": (
        "space: {consistency.weight: {uniform: [0, 1], when: {objective.kind: ambient}}}",
        "space.consistency.weight: when: objective.kind: is not searched",
    ),
    "condition never met": (
        "space: {consistency.weight: {uniform: [0, 1], when: {observed.sigma: 0.1}}, observed.sigma: {uniform: [0, 1]}}",
        "when: observed.sigma: uniform has no step, so no value is ever met",
    ),
    "condition on no value": (
        "space: {consistency.weight: {uniform: [0, 1], when: {seed: 9}}, seed: {int: [0, 3]}}",
        "when: seed: 9 lies outside of int [0, 3]",
    ),
    "circle": (
        "space: {model.blocks: {int: [1, 2], when: {seed: 1}}, seed: {int: [0, 3], when: {model.blocks: 1}}}",
        "the conditions of model.blocks, seed go in a circle",
    ),
    "point without its parent": (
        "space: {seed: {int: [0, 3]}, consistency.weight: {uniform: [0, 1], when: {seed: [1, 2]}}}\n"
        "points: [{consistency.weight: 0.5}]",
        "points[0]: consistency.weight needs seed among [1, 2] in the point",
    ),
    "unknown search key": (MINIMAL + "search: {trial: 3}", "search: unknown key 'trial'; did you mean 'trials'?"),
    "baseline without seeds": (MINIMAL + "baseline: {seeds: []}", "baseline.seeds: expected at least 1"),
    "baseline off": (MINIMAL + "baseline: null", "baseline: is empty; give seeds: [0], or remove it"),
    "unsafe name": (MINIMAL + "name: ../up", "name: '../up' cannot name a folder"),
    "no mapping": ("- 1", "expected a mapping"),
    "not YAML": ("space: {", "line"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "complaint"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_sweep(path)
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message
    if not message.startswith("line 1, column 28: key 'model."):
        assert message.startswith(str(path))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"observed.sigma": 0.3}, "observed.sigma: this sweep searches it"),
        ({"search.trails": 3}, "search: unknown key 'trails'"),
        ({"observed.sgima": 0.3}, "base: unknown key 'observed.sgima'"),
        ({"search.trials": "many"}, "search.trials: expected a whole number"),
        ({"search.seed": 2, "search.seed.a": 3}, "search.seed.a: seed: expected a mapping of keys to values, not 2"),
    ],
)
def test_a_bad_override_is_refused_in_one_line(tmp_path: Path, overrides: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        load_sweep(write(tmp_path, MINIMAL), overrides)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


# -- corners --------------------------------------------------------------------------------------------------------


def test_all_corners_points_and_fixed_trials_are_built(tmp_path: Path) -> None:
    """Ends of two real keys, two choices, 8 whole numbers, 2 ends and 16 between them; 2 points, 12 fixed trials."""
    assert len(check_space(load_sweep(write(tmp_path, GOOD)))) == 2**3 * 8 * 18 + 2 + 12


def test_one_bad_corner_is_named_with_its_values(tmp_path: Path) -> None:
    text = "space: {observed.sigma: {uniform: [0.1, 90]}, seed: {int: [0, 1]}}\n"
    with pytest.raises(UserError) as caught:
        check_space(load_sweep(write(tmp_path, text)))
    assert str(caught.value) == (
        f"{tmp_path / 'small.yaml'}: observed.sigma=90.0, seed=0: sampling.sigma_max: 80.0 is not above observed.sigma=90.0"
    )


def test_a_value_out_of_a_knobs_range_is_found(tmp_path: Path) -> None:
    text = "space: {consistency.batch_share: {uniform: [0.5, 1.5]}}\n"
    with pytest.raises(
        UserError, match=r"small\.yaml: consistency\.batch_share=1\.5: consistency\.batch_share: must be at most 1"
    ):
        check_space(load_sweep(write(tmp_path, text)))


def test_a_bad_base_is_not_blamed_on_a_corner(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small\.yaml: optimizer\.lr: must be at least 0"):
        check_space(load_sweep(write(tmp_path, MINIMAL), {"optimizer.lr": -1}))


def test_a_bad_control_is_named_and_a_baseline_cannot_take_searched_values(tmp_path: Path) -> None:
    control = "controls: [{label: loud, set: {observed.sigma: 99}}]\n"
    with pytest.raises(UserError, match=r"small\.yaml: control 'loud': sampling\.sigma_max"):
        check_space(load_sweep(write(tmp_path, MINIMAL + control)))
    # Searched only, the batch is always a multiple of the workers; the baseline takes the base's.
    text = "base: {resources.workers: 3}\nspace: {training.batch_size: {choice: [30, 60]}}\n"
    with pytest.raises(UserError, match=r"small\.yaml: training\.batch_size: 64 is not a multiple of resources"):
        check_space(load_sweep(write(tmp_path, text)))


def test_a_wide_space_is_checked_along_every_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "CORNERS", 20)
    text = """
    space:
      seed: {int: [0, 1]}
      consistency.weight: {uniform: [0, 1]}
      consistency.start: {uniform: [0, 1]}
      observed.sigma: {uniform: [0.1, 90]}
    """
    with pytest.raises(UserError, match=r"observed\.sigma=90\.0: sampling\.sigma_max"):
        check_space(load_sweep(write(tmp_path, text)))


def test_corners_keep_to_conditions(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, CONDITIONAL))
    assert list(sweep.space) == ["objective.kind", "consistency.weight", "observed.sigma", "consistency.chain_steps"]
    # baseline; ambient: 4 levels, the ends and those of the condition; with consistency 2 weights, each at 2 levels alone
    # and at 2 with chains of either end and the one between them
    assert len(check_space(sweep)) == 1 + 4 + 2 * (2 + 2 * 3)
    bad = "space:\n  seed: {int: [0, 9]}\n  observed.sigma: {uniform: [0.1, 90], when: {seed: 7}}\n"
    with pytest.raises(UserError, match=r"small\.yaml: seed=7, observed\.sigma=90\.0: sampling\.sigma_max"):
        check_space(load_sweep(write(tmp_path, bad)))


def test_a_wide_conditional_space_is_checked_where_its_keys_are_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "CORNERS", 500)
    text = """
    space:
      seed: {int: [0, 9]}
      model.blocks: {choice: [1, 2], when: {seed: 7}}
      observed.sigma: {uniform: [0.1, 90], when: {model.blocks: 2}}
    """
    with pytest.raises(UserError, match=r"seed=7, model\.blocks=2, observed\.sigma=90\.0: sampling\.sigma_max"):
        check_space(load_sweep(write(tmp_path, text)))
