"""Sweep and config files, and KEY=VALUE, as people write them: merge keys, encodings, numbers, names, and slips."""

import codecs
from pathlib import Path
from typing import Any

import pytest
from command_line import bad, good

from ambient_sweep.config import load_config, parse_overrides
from ambient_sweep.config.files import lasting_path
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space.definition import Control, Sweep
from ambient_sweep.sweep.space.file import load_sweep, write_sweep

SPACE = "space: {observed.sigma: {uniform: [0.1, 0.5]}}\n"


def sweep_of(folder: Path, text: str | bytes, *words: str) -> Sweep:
    path = folder / "s.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    sweep = load_sweep(path, parse_overrides(words))
    write_sweep(sweep, folder / "again.yaml")
    assert load_sweep(folder / "again.yaml") == sweep
    return sweep


def refusal(folder: Path, text: str | bytes, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        sweep_of(folder, text, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 's.yaml'}: ")


# -- merge keys and anchors -----------------------------------------------------------------------------------------

SHARED = """
x-small: &small {model: {kind: mlp, width: 64}, training.images: 6400, seed: 1}
x-long: &long {training.images: 12800, ema.halflife: 100}
x-range: &range {uniform: [0.1, 0.5]}
x-both: &both [*small, *long]
base: {<<: *both, model.width: 32, seed: &seed 7}
space:
  observed.sigma: {<<: *range, step: 0.1}
  consistency.start: *range
points: [&point {observed.sigma: 0.2}, {<<: *point, consistency.start: 0.3}]
controls:
  - &plain {label: plain, seeds: [*seed], set: &set {objective.kind: ambient}}
  - {<<: *plain, label: wide, set: {<<: *set, model.width: 128}}
search: {<<: &quick {trials: 3, stopping: {rule: none}}, stopping.eta: 3, trials: 4}
"""


def test_merge_keys_and_anchors_work_in_every_place(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, SHARED)
    config = sweep.config_for({})
    assert (config.model.kind, config.model.width, config.seed) == ("mlp", 32, 7)  # own keys win, dotted or nested
    assert (config.training.images, config.ema.halflife) == (6400, 100)  # earlier sources win
    assert sweep.space["observed.sigma"].dump() == {"uniform": [0.1, 0.5], "step": 0.1}
    assert sweep.space["consistency.start"].dump() == {"uniform": [0.1, 0.5]}
    assert sweep.points == ({"observed.sigma": 0.2}, {"observed.sigma": 0.2, "consistency.start": 0.3})
    assert sweep.controls == (
        Control(label="plain", seeds=(7,), set={"objective.kind": "ambient"}),
        Control(label="wide", seeds=(7,), set={"objective.kind": "ambient", "model.width": 128}),
    )
    assert (sweep.search.trials, sweep.search.stopping.rule, sweep.search.stopping.eta) == (4, "none", 3)


def test_an_own_section_replaces_a_merged_one_as_in_yaml(tmp_path: Path) -> None:
    text = "x-a: &a {model: {kind: mlp, width: 64}}\nbase: {<<: *a, model: {blocks: 3}}\n" + SPACE
    model = sweep_of(tmp_path, text).config_for({}).model
    assert (model.kind, model.blocks) == ("unet", 3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("base: {seed: 1, seed: 2}\n", "line 1, column 17: key 'seed' is given twice; keep one"),
        ("base:\n  model: {kind: mlp}\n  model.kind: dit\n", "line 3, column 3: key 'model.kind' is given twice"),
        ("x-a: {b: 1, 'b': 2}\n", "line 1, column 13: key 'b' is given twice"),
        ("x-a: &a {b: 1}\nbase: {<<: *a, <<: *a}\n", "line 2, column 16: key '<<' is given twice"),
        ("base: {<<: 3}\n", "line 1, column 12: expected a mapping or list of mappings for merging"),
        ("base: &a {model: *a}\n", "line 1, column 7: this anchor contains itself; repeat what it holds"),
        ("base: {[1]: 3}\n", "line 1, column 8: a key must be a word"),
        ("base: !include other.yaml\n", "line 1, column 7: a tag as !this is not read here; remove it"),
        ("base:\n\tseed: 1\n", "line 2, column 1: found a tab; indent with spaces"),
        ("base: !!map [a]\n", "line 1, column 7: expected a mapping node, but found sequence"),
        (
            "x-a: &a {b: 1}\nx-b: &a {b: 2}\n",
            "line 2, column 6: an anchor of this name was given before; give it another",
        ),
        ("seed: 1\n---\n", "line 2, column 1: a second document begins here; keep one in a file"),
        ("base: {seed: 20,000}\n", "line 1, column 17: '000' follows a comma, which ends a value in braces"),
        ("search: {images: 1,000,000}\n", "line 1, column 20: '000' follows a comma"),
        ("[" * 5000, "line 1, column "),
        ('name: "\\U00110000"\n', "line 1, column 10: nested too deeply, or an escape code"),
    ],
)
def test_slips_of_yaml_are_refused_with_line_and_column(tmp_path: Path, text: str, complaint: str) -> None:
    assert refusal(tmp_path, text + SPACE).startswith(complaint)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_every_usual_encoding_and_line_end_is_read(tmp_path: Path, newline: str, mark: bytes) -> None:
    text = (SPACE + "controls:\n- label: größer\n  set: {seed: 3}\n").replace("\n", newline)
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    assert sweep_of(tmp_path, mark + text.encode(encoding)).controls == (Control(label="größer", set={"seed": 3}),)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    text = (SPACE + "controls: [{label: größer}]\n").encode(encoding)
    assert refusal(tmp_path, text) == "is not text in UTF-8; save it as UTF-8, without control characters"


# -- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "number"),
    [
        *(("optimizer.lr", text, 1e-3) for text in ("1e-3", "1.e-3", "+.001", "0.001", "1E-3", "'1e-3'", "0.00_1")),
        *(
            ("training.images", text, 20_000)
            for text in ("2e4", "20_000", "+20000", "20000.0", "2.0e+4", "!!int 20000")
        ),
        ("evaluation.lengths", "[5e-1, 1]", [0.5, 1]),
        ("data.channels", "1", 1),
        ("data.train_size", "1_0", 10),
        ("compute.compile", "yes", True),
    ],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, key: str, text: str, number: Any) -> None:
    assert sweep_of(tmp_path, f"base: {{{key}: {text}}}\n{SPACE}").base[key] == number
    if not text.startswith("!!"):
        assert sweep_of(tmp_path, SPACE, f"{key}={text}").base[key] == number
    (tmp_path / "config.yaml").write_text(f"{key}: {text}\n")
    section, _, name = key.partition(".")
    found = getattr(getattr(load_config(tmp_path / "config.yaml"), section), name)
    assert (list(found) if isinstance(found, tuple) else found) == number


@pytest.mark.parametrize(
    "text", ["010", "06400", "-07", "00", "09", "1:46:40", "190:20:30.15", "0o17", "0x10", "0b1", "'010'"]
)
def test_numbers_that_tools_read_differently_are_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    complaint = "expected a decimal number, without leading zeros, colons, 0x, 0o or 0b, not "
    for key in ("training.images", "optimizer.lr"):
        assert refusal(tmp_path, f"base: {{{key}: {text}}}\n{SPACE}").startswith(f"{key}: {complaint}")
        assert refusal(tmp_path, SPACE, f"{key}={text}").startswith(f"{key}: {complaint}")
    assert complaint in refusal(tmp_path, f"search: {{trials: {text}}}\n{SPACE}")
    assert complaint in refusal(tmp_path, f"search: {{sampler_args: {{n_startup_trials: {text}}}}}\n{SPACE}")
    assert complaint in refusal(tmp_path, f"search: {{constraints: {{parameters: {text}}}}}\n{SPACE}")
    assert complaint in refusal(tmp_path, f"baseline: {{seeds: [{text}]}}\n{SPACE}")
    assert "expected a decimal number" in refusal(tmp_path, f"space: {{seed: {{choice: [{text}, 3]}}}}")
    assert "expected a decimal number" in refusal(tmp_path, f"space: {{seed: {{int: [{text}, 99]}}}}")


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "true", "2024-01-01", "1,5", "50%", "1__0", ".inf", "''"])
def test_what_is_no_number_is_named_as_it_was_written(tmp_path: Path, text: str) -> None:
    shown = repr(text.strip("'"))
    assert refusal(tmp_path, f"base:\n  training.images: {text}\n{SPACE}").endswith(f"not {shown}")
    assert refusal(tmp_path, f"confirm:\n  top: {text}\n{SPACE}").endswith(f"not {shown}")


def test_values_equal_as_numbers_are_one(tmp_path: Path) -> None:
    choice = "space: {optimizer.lr: {choice: [1e-3, 0.01]}}\n"
    assert sweep_of(tmp_path, choice + "points: [{optimizer.lr: 0.001}]").points == ({"optimizer.lr": 0.001},)
    assert sweep_of(tmp_path, choice).space["optimizer.lr"].values == (0.001, 0.01)
    for values in ("[1e-3, 0.001]", "[1e-3, '1e-3']", "[1, 1.0]"):
        assert "two different values" in refusal(tmp_path, f"space: {{optimizer.lr: {{choice: {values}}}}}")
    whole = sweep_of(tmp_path, "space: {model.width: {choice: [64.0, 1.28e2]}}").space["model.width"].values
    assert repr(whole) == "(64, 128)"
    when = "space: {seed: {choice: [1, 2]}, consistency.start: {uniform: [0, 1], when: {seed: 1e0}}}"
    assert sweep_of(tmp_path, when).space["consistency.start"].when == (("seed", (1,)),)
    assert "has a value twice" in bad("validate", tmp_path / "s.yaml", "evaluation.lengths=[0.5, 5e-1, 1]")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("points: [{observed.sigma: 0.2}, {observed: {sigma: 2e-1}}]", "points[1]: the same as points[0]; remove one"),
        (
            "baseline: {seeds: [1, 1.0]}",
            "baseline.seeds: baseline (seed 1): the same training as baseline",
        ),
        ("controls: [{label: a, seeds: [2, 2]}]", "controls: a (seed 2): the same training as a (seed 2); remove one"),
        (
            "controls: [{label: a, set: {noise.std: 1}}, {label: b, set: {noise: {std: 1e0}}}]",
            "controls: b: the same training as a",
        ),
        (
            "controls: [{label: a, seeds: [0, 1]}, {label: b, set: {seed: 1}}]",
            "controls: b (seed 1): the same training as a (seed 1)",
        ),
        (
            "controls: [{label: a, set: {objective.kind: denoising, observed.sigma: 0}}]",
            "controls: a: the same training as baseline",
        ),
        (
            "controls: [{label: a, set: {model.preset: unet-8}}, {label: b, set: {model: {width: 32, blocks: 1, levels: 2, "
            "multipliers: [1, 1], head_width: 32}}}]",
            "controls: b: the same training as a",
        ),
        (
            "controls: [{label: a, set: {objective.kind: ambient}}, "
            "{label: b, set: {objective.kind: ambient, consistency.weight: 3}}]",
            "controls: b: the same training as a",
        ),
    ],
)
def test_equal_points_controls_and_seeds_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    assert refusal(tmp_path, SPACE + text).startswith(complaint)


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2024", "1e5", "010", "1_000", "0x10", "2024-01-01", "yes", "off", "'null'"])
def test_a_word_is_the_text_as_it_was_written(tmp_path: Path, text: str) -> None:
    """Also one that looks like a number, a date or a boolean: names, labels, paths."""
    word = text.strip("'")
    rest = f"base: {{data: {{source: folder, path: {text}}}}}\ncontrols: [{{label: {text}, set: {{seed: 3}}}}]\n"
    sweep = sweep_of(tmp_path, f"name: {text}\n{rest}{SPACE}")
    assert (sweep.name, sweep.controls[0].label, Path(sweep.base["data.path"]).name) == (word, word, word)
    assert sweep_of(tmp_path, SPACE, f"name={text}").name == word


def test_a_word_on_the_command_line_is_not_cut(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, SPACE, "data.source=folder", "data.path=/data/a: b #2")
    assert sweep.base["data.path"] == "/data/a: b #2"
    message = "expected text in UTF-8, without control characters"
    assert refusal(tmp_path, SPACE, "evaluation.encoder_sha256=a\x00b").startswith(
        f"evaluation.encoder_sha256: {message}"
    )


@pytest.mark.parametrize("name", ["a\x00b", "caf\udce9"])  # the second: bytes that are not UTF-8, as Python reads them
def test_a_path_that_records_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    complaint = "is not UTF-8, or holds control characters; rename the folder"
    assert complaint in refusal(tmp_path, SPACE, f"data.path={name}")
    with pytest.raises(UserError, match=f"--storage: .*{complaint}"):
        lasting_path("--storage", tmp_path / name)


def test_a_word_on_the_command_line_that_is_not_text_is_refused(tmp_path: Path) -> None:
    name = str(tmp_path / "caf\udce9")
    assert f"{name!r} is not UTF-8; rename the file or folder" in bad("prepare", name, "data.source=digits")
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_samplers_are_what_they_look_like(tmp_path: Path) -> None:
    text = (
        "search: {sampler: TPESampler, sampler_args: {multivariate: true, n_startup_trials: 5, a: 1e-1, b: x, c: null}}"
    )
    arguments = sweep_of(tmp_path, f"{text}\n{SPACE}").search.sampler_args
    assert repr(arguments) == "{'multivariate': True, 'n_startup_trials': 5, 'a': 0.1, 'b': 'x', 'c': None}"
    whole = sweep_of(tmp_path, f"search: {{sampler: nsga2, sampler_args: {{population_size: 1e1}}}}\n{SPACE}").search
    assert repr(whole.sampler_args) == "{'population_size': 10}"
    (tmp_path / "s.yaml").write_text(f"search: {{sampler: TPESampler, sampler_args: {{multivariate: tru}}}}\n{SPACE}")
    assert "search.sampler_args.multivariate: expected true or false, not 'tru'" in bad("validate", tmp_path / "s.yaml")


def test_keys_of_the_space_may_be_nested_and_sections_empty(tmp_path: Path) -> None:
    nested = "space: {observed: {sigma: {uniform: [0.1, 0.5]}}}\n"
    empty = "base:\npoints:\ncontrols:\nsearch: {constraints:, sampler_args:}\nconfirm:\n"
    assert sweep_of(tmp_path, nested + empty).space == sweep_of(tmp_path, SPACE).space


@pytest.mark.parametrize("path", ["~nobody-here/x", "~nobody-here"])
def test_a_home_folder_that_is_not_there_is_refused(tmp_path: Path, path: str) -> None:
    complaint = f"{path}: there is no such home folder; give an absolute path"
    assert complaint in refusal(tmp_path, SPACE, f"data.path={path}")
    assert f"error: source: {complaint}" in bad("best", path)
    assert f"error: --out: {complaint}" in bad("sample", tmp_path, "--out", path)
    assert f"data.path: {complaint}" in bad("prepare", tmp_path / "o", "data.source=folder", f"data.path={path}")


# -- did you mean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("confrim: {}", "confirm"),
        ("base: {modle.kind: mlp}", "model.kind"),
        ("base: {lr: 1}", "optimizer.lr"),
        ("base: {training: {lr: 1}}", "optimizer.lr"),
        ("base: {Observed.Sigma: 1}", "observed.sigma"),
        ("base: {model.preset: unet32}", "unet-32"),
        ("base: {optimizer.schedule: cosin}", "cosine"),
        ("search: {max_failure: 1}", "max_failures"),
        ("search: {constriants: {}}", "constraints"),
        ("search: {constraints: {memorisation: 1}}", "memorization"),
        ("search: {stopping: {rle: none}}", "rule"),
        ("search: {stopping.rule: rung}", "rungs"),
        ("confirm: {sample: 64}", "samples"),
        ("baseline: {seed: [1]}", "seeds"),
        ("controls: [{labl: x}]", "label"),
        ("controls: [{set: {noise.sdt: 1}}]", "noise.std"),
        ("points: [{observed.sgima: 0.2}]", "observed.sigma"),
        ("space: {observed.sgima: {uniform: [0, 1]}}", "observed.sigma"),
        ("space: {observed.sigma: {unifrom: [0, 1]}}", "uniform"),
        ("space: {observed.sigma: {uniform: [0, 1], stpe: 1}}", "step"),
        ("space: {consistency.ramp: {choice: [step, liner]}}", "linear"),
        ("space: {seed: {int: [0, 3]}, noise.std: {uniform: [1, 2], when: {sead: 1}}}", "seed"),
    ],
)
def test_an_unknown_word_gets_the_nearest_known_one(tmp_path: Path, text: str, meant: str) -> None:
    assert refusal(tmp_path, text + "\n" + ("" if text.startswith("space") else SPACE)).endswith(
        f"did you mean {meant!r}?"
    )


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sarch.trials=3", "search.trials"),
        ("trials=3", "search.trials"),
        ("search.trails=3", "trials"),
        ("confirm.seed=3", "seeds"),
        ("baseline.sed=[3]", "seeds"),
        ("nam=x", "name"),
        ("base.training.images=5", "training.images"),
        ("data.source=foldr", "folder"),
    ],
)
def test_an_unknown_override_gets_the_nearest_known_one(tmp_path: Path, word: str, meant: str) -> None:
    assert refusal(tmp_path, SPACE, word).endswith(f"did you mean {meant!r}?")


def test_the_command_line_reads_both_kinds_of_files(tmp_path: Path) -> None:
    sweep, config = tmp_path / "2024.yaml", tmp_path / "config.yaml"
    sweep.write_bytes(codecs.BOM_UTF8 + (SHARED + "confirm: {top: 1e0}\n").replace("\n", "\r\n").encode())
    assert "valid; " in good("validate", sweep, "training.images=2e4")
    assert "did you mean 'tpe'?" in bad("validate", sweep, "search.sampler=tep")
    config.write_text("x-m: &m {kind: mlp}\nmodel: *m\ntraining: {images: 2e4}\n")
    assert "a valid config of one training run, 20,000 images" in good("validate", config)
    assert "is the config of one run, not a sweep; use `ambient-sweep train`" in bad("run", config)
    config.write_text("base: {seed: 3}\nspaces: {}\n")
    assert "unknown key 'spaces'; did you mean 'space'?" in bad("validate", config)
