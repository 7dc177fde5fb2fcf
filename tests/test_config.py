from pathlib import Path
from typing import get_args

import pytest
import yaml

from ambient_sweep.config import (
    build_config,
    dump,
    flatten,
    knobs,
    load_config,
    parse_overrides,
    read_yaml,
    write_config,
)
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.config.presets import MODEL
from ambient_sweep.errors import UserError

SMALL = {"evaluation.lengths": [1.0]}


def complaint(*layers):
    with pytest.raises(UserError) as caught:
        build_config(*layers)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_later_layers_win_whether_nested_or_dotted():
    config = build_config({"observed": {"sigma": 0.1}, "seed": 3}, {"observed.sigma": 0.2}, {"observed": {"seed": 7}})
    assert (config.observed.sigma, config.observed.seed, config.seed) == (0.2, 7, 3)


def test_every_knob_has_a_line_of_help_and_a_range_or_choice():
    for key, field in knobs().items():
        assert field.description, key
        unlimited = field.annotation in (int, float) and not field.metadata
        assert not unlimited, f"{key} has no range"


def test_a_written_config_reads_back_equal(tmp_path):
    config = build_config({"observed.sigma": 0.123456789012345, "evaluation.lengths": [0.1, 1.0], "optimizer.lr": 1e-7})
    write_config(config, tmp_path / "c.yaml", "a note\nof two lines")
    assert load_config(tmp_path / "c.yaml") == config
    assert build_config(dump(config)) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"observed.sigm": 1}, ["unknown key 'observed.sigm'", "did you mean 'observed.sigma'"]),
        ({"xyzzy": 1}, ["unknown key 'xyzzy'"]),
        ({"observed": 0.3}, ["observed: expected a mapping of keys to values"]),
        (
            {"evaluation.distances": ["fd_pixel"]},
            ["evaluation.distances[0]", "not 'fd_pixel'; did you mean 'fd_pixels'?"],
        ),
        ({"observed.sigma": -0.1}, ["observed.sigma", "must be at least 0", "-0.1"]),
        ({"observed.sigma": "much"}, ["observed.sigma", "expected a number", "'much'"]),
        ({"observed.sigma": float("inf")}, ["observed.sigma", "finite"]),
        ({"objective.kind": "magic"}, ["objective.kind", "'ambient_consistency'", "'magic'"]),
        ({"observed.sigma": 0}, ["observed.sigma", "objective.kind=ambient_consistency"]),
        ({"observed.sigma": 0.1, "observed.base_sigma": 0.2}, ["observed.sigma", "base_sigma=0.2"]),
        ({"objective.kind": "ambient_high_clean_low", "observed.base_sigma": 0.1}, ["observed.base_sigma", "clean"]),
        ({"data.image_size": 16}, ["data.image_size", "8x8"]),
        ({"data.source": "folder"}, ["data.path"]),
        ({"data.path": "x"}, ["data.path", "digits"]),
        (
            {"data.split": {"train": "x"}},
            ["data.split.heldout: missing", "data.split={train: FOLDER, heldout: FOLDER}"],
        ),
        ({"data.group_pattern": "^(p"}, ["data.group_pattern: ^(p is not a regular expression"]),
        ({"data.group_pattern": "^p"}, ["data.group_pattern: ^p has no group"]),
        ({"data.group_pattern": "(p)", "data.group_column": "x"}, ["each says how to split; keep one"]),
        ({"data.split.train": "x", "data.split.heldout": "y", "data.group_column": "x"}, ["each says how to split"]),
        ({"resources.workers": 3}, ["training.batch_size", "resources.workers=3"]),
        ({"sampling.sigma_max": 0.2}, ["sampling.sigma_max", "observed.sigma"]),
        ({"evaluation.fidelity": "fid"}, ["evaluation.fidelity", "evaluation.distances"]),
        ({"evaluation.lengths": [0.5]}, ["evaluation.lengths", "1.0"]),
        ({"evaluation.lengths": [0.5, 0.2, 1.0]}, ["evaluation.lengths", "rise"]),
        ({"evaluation.distances": ["fd_pixels", "fd_pixels"]}, ["evaluation.distances", "twice"]),
        ({"training.images": 100}, ["evaluation.lengths", "same step"]),
        ({"model.levels": 5}, ["model.levels", "16"]),
        ({"model.kind": "lora"}, ["model.base: missing"]),
        ({"model.base": "b"}, ["model.base: model.kind=unet reads none"]),
        ({"model.kind": "lora", "model.base": "b"}, ["data.source: digits holds no latents"]),
        ({"model.targets": ["\ud800"]}, ["model.targets: expected text in UTF-8"]),
        ({"noise.law": "timesteps"}, ["noise.law", "model.kind=unet has none"]),
        ({"model.kind": "mlp", "compute.channels_last": True}, ["compute.channels_last", "no convolutions"]),
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_the_key(values, words):
    message = complaint(values)
    for word in words:
        assert word in message


def test_one_key_given_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"observed.sigma: given twice"):
        flatten({"observed": {"sigma": 1}, "observed.sigma": 2})
    (tmp_path / "c.yaml").write_text("seed: 1\ndata: {train_size: 3}\nseed: 2\n")
    with pytest.raises(UserError, match=r"c.yaml: line 3, column 1: key 'seed' is given twice"):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "\x00", "a: !!python/object:os.system {}", ""])
def test_files_that_are_not_a_mapping_are_refused_by_name(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=r"c.yaml") as caught:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_overrides_are_text_that_their_keys_read() -> None:
    words = ["optimizer.lr=1e-3", "training.images=2e4", "evaluation.lengths=[5e-1, 1]", "data.train_size=null"]
    assert parse_overrides([*words, "e=x=y", "f=a: b #c"])["f"] == "a: b #c"
    config = build_config(parse_overrides(words))
    assert (config.optimizer.lr, config.training.images, config.evaluation.lengths) == (1e-3, 20_000, (0.5, 1.0))
    assert config.data.train_size is None
    with pytest.raises(UserError, match="key=value"):
        parse_overrides(["observed.sigma"])
    for twice in (["seed=1", "seed=2"], ["model={kind: mlp, kind: unet}"], ["model={kind: mlp}", "model.kind=dit"]):
        with pytest.raises(UserError, match="given twice; keep one"):
            flatten(parse_overrides(twice))


def test_lengths_fall_on_steps():
    config = build_config({"training.images": 1000, "training.batch_size": 64})
    assert config.steps == 16
    assert [config.images_at(f) for f in (0.25, 0.5, 1.0)] == [256, 512, 1024]
    assert config.images_at(1e-9) == 64
    lengths = {"training": {"images": 3200, "batch_size": 32}, "evaluation.lengths": [0.5, 1.0]}
    for stop, expected in ((1, {1600: 0.5, 3200: 1}), (0.75, {1600: 0.5, 2400: 0.75}), (0.5, {1600: 0.5})):
        assert evaluated_lengths(build_config(lengths, {"training.stop": stop})) == expected


def test_endpoints_are_those_that_differ():
    assert build_config({}).endpoints(64) == ("zero", "observed")
    assert build_config({"objective.kind": "denoising", "observed.sigma": 0}).endpoints(64) == ("zero",)
    assert build_config({"objective.kind": "ambient"}).main_endpoint(64) == "observed"
    assert build_config({"objective.kind": "ambient", "evaluation.endpoints": ["zero"]}).main_endpoint(64) == "zero"
    assert build_config({"evaluation.endpoints": ["observed"]}).main_endpoint(64) == "observed"


SEARCH_SPACES = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda p: p.name)
def test_every_search_space_is_valid_and_opens_with_its_command(path):
    from ambient_sweep.sweep.space.file import load_sweep
    from ambient_sweep.sweep.space.validation import check_space

    assert path.read_text().splitlines()[0].startswith(f"# ambient-sweep run search_spaces/{path.name}")
    assert len(check_space(load_sweep(path))) > 1
    assert yaml.safe_load(path.read_text()).keys() >= {"base", "space", "search"}


def test_paths_of_a_file_and_of_the_command_line_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: {source: folder, path: photos, image_size: 8}\n")
    assert load_config(Path("c.yaml")).data.path == str(tmp_path / "photos")
    assert load_config(Path("c.yaml"), {"data.path": "others"}).data.path == str(tmp_path / "others")
    (tmp_path / "l.yaml").write_text("data: {source: store, path: s}\nmodel: {kind: lora, base: sdxl}\n")
    assert load_config(Path("l.yaml")).model.base == str(tmp_path / "sdxl")


def test_a_model_preset_sets_what_is_not_given_beside_it_and_a_later_layer_single_keys():
    field = knobs()["model.preset"]
    assert set(get_args(field.annotation)) == set(MODEL)
    small = build_config({"model.preset": "dit-8", "model.blocks": 3})
    assert (small.model.kind, small.model.width, small.model.blocks) == ("dit", 64, 3)
    assert build_config(dump(small)) == small
    assert build_config(dump(small), {"model.width": 128}).model.blocks == 3


def test_a_preset_of_the_command_line_wins_over_a_file_that_gives_every_key(tmp_path):
    path = tmp_path / "c.yaml"
    write_config(build_config({"model.kind": "mlp", "model.width": 32}), path)
    config = load_config(path, {"model.preset": "dit-8", "model.patch": 4})
    assert (config.model.kind, config.model.width, config.model.blocks, config.model.patch) == ("dit", 64, 6, 4)
