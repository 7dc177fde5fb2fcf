"""Sweep and config files, and KEY=VALUE, with random faults, through the commands themselves.

Each is valid, and then `run` or `train` gets as far as to start; or it is refused with exit code 2 in one line, which names
the key with the fault, or line and column.
"""

import copy
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import ray
import yaml
from command_line import ambient_sweep, good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ambient_sweep.config import build_config, knobs, parse_overrides, write_config
from ambient_sweep.data.dataset import load_data
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation import encoders
from ambient_sweep.sweep import single
from ambient_sweep.sweep.checks import dry_run
from ambient_sweep.sweep.running import cluster
from ambient_sweep.sweep.space import validation
from ambient_sweep.sweep.space.file import OWN, load_sweep, write_sweep
from ambient_sweep.trial import setup

WHOLE = """\
name: mutated
x-shared: &shared {training.images: 2e4, model: {kind: mlp, width: 64}}
base:
  <<: *shared
  model.blocks: 1
  data: {source: digits, image_size: 8}
  evaluation: {lengths: [5e-1, 1], samples: 64}
space:
  observed.sigma: &range {uniform: [0.1, 0.5], step: 0.1}
  consistency.start: {<<: *range, uniform: [0.1, 0.9]}
  consistency.weight: {loguniform: [1e-1, 10], when: {objective.kind: ambient_consistency}}
  objective.kind: {choice: [ambient, ambient_consistency]}
  consistency.chain_steps: {int: [1, 4]}
points:
  - &point {observed.sigma: 0.2, objective.kind: ambient}
  - {<<: *point, observed.sigma: 3e-1}
controls:
  - {label: plain, seeds: [0, 1], set: {observed.sigma: 0.3, noise: {std: 1.0}}}
baseline: {seeds: [0, 1]}
search: {trials: 8, sampler: tpe, sampler_args: {n_startup_trials: 4}, stopping: {rule: rungs, eta: 2}}
confirm: {seeds: 1, top: 2}
"""
VALUES = [
    "", "~", "[]", "{}", "0", "-1", "1", "1.5", "1e-300", ".nan", "nan", "inf", "-.inf", "1e999", "1e300", "-1e300",
    "99999999999999999999", "9223372036854775807", "1_000", "20,000", "010", "0x1F", "1:30", "true", "off",
    "2024-01-01", "2001-12-14t21:59:43.10-05:00", "word", '"a\\nb"', '"\\0"', '"\\e[31m"', '"\\ud800"',
    '"\\U00110000"', "it's", '"a\\"b"', "'{}'", "'%'", "%x", "@x", "`x`", "'", '"', "*nowhere", "&a 3", "&a [*a]",
    "!!python/object/apply:os.system [x]", "!include x.yaml", "!!binary aGVsbG8=", "!!set {a}",
    "!!timestamp 2024-01-01", "!!int x", "!!float 1", "!!bool 3", "!!omap [a: 1]", "!!map [a]", "!!seq {a: 1}",
    "!!str {a: 1}", "[1, 2]", "[2, 1]", "[[1]]", "[a, 1, ~]", "[0, 0]", "{a: 1}", "{a: {b: 1}}", "{a.b: 1, a: {b: 2}}",
    "{1: 2}", "{'': 1}", "{[1]: 2}", "- 1", "|", ">", "x" * 5000, "[" * 99 + "]" * 99, "é", "\u2028", "\U0001f600",
    "a: b", "a #b", "{uniform: [0, 1]}", "{choice: [1, 2]}", "fid", "unet", "mlp", "dit", "~nobody/x", "/dev/null",
    ".", "..",
]  # fmt: skip
KEYS = [
    "", "~", "1", "1.5", "true", "[a]", "{a: 1}", "'a\\nb'", '"a\\nb"', '"\\e[31m"', '"\\ud800"', ".", "..", "a..b",
    "a.", "? a", "<<", "*nowhere", "&a b", "!x a", "'a b'", "é", "x" * 2000, "x-", "space", "base", "seed", "model",
    "model.width", "observed.sigma", "when", "step", "choice", "name",
]  # fmt: skip
KINDS = ["uniform", "loguniform", "int", "logint", "choice"]
ENDS = [
    "0", "1", "2", "4", "64", "-1", "0.1", "0.5", "1e-300", "1e300", "inf", "nan", "~", "true", "word", "''", "[]", "{}",
]  # fmt: skip
PIECES = [
    "", " ", "  ", "\t", "\n", "\r", ":", ": ", ",", "[", "]", "{", "}", "- ", "#", "'", '"', "*range", "&range ",
    "<<: ", "!x ", "!!int ", "---\n", "...\n", "? ", "| ", "~", "\u00e9", "\ufeff", "\x00", "\x07", "\x85", "\u2028",
    "%YAML 9.9\n", "[[1]]",
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"]
ODD = [
    b"", b"\x00", b"\xff", b"\xfe\xff", b"\xc3", b"\xed\xa0\x80", b"- 1\n- 2\n", b"3", b"~", b"''", b"[]", b"{}", b"#",
]  # fmt: skip
RAW = re.compile(  # a library's own words
    r"[Ii]nput should|Traceback|validation error|pydantic|<class|object at 0x|Error\(|could not determine|expected (<|'<)|"
    r"not None\b|unable to parse|constructor|unhashable|errno|keyword argument"
)
LONGEST, FAULT = 1500, "FAULT0"


@dataclass(frozen=True)
class Mutated:
    """A file with a fault, and words of the command line; names: a refusal has one of them, FILE being the file's."""

    content: bytes
    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class Started(UserError):
    """A command has got as far as to start Ray, or training."""


def start(*_: Any, **__: Any) -> NoReturn:
    raise Started("started")


def never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("Ray was started")


@contextmanager
def nothing_starts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "CORNERS", 3)
        patch.setattr(dry_run, "measure_pace", lambda *_: dry_run.Pace(1000.0, 1000.0))
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**15))
        patch.setattr(setup, "cached_data", functools.cache(load_data))
        patch.setattr(encoders, "lite0_encoder", functools.cache(encoders.lite0_encoder))
        patch.setattr(setup, "prepare", lambda config, _: setup.image_lines(config))
        patch.setattr(single, "prepare", lambda config, _: start(setup.image_lines(config)))
        patch.setattr(cluster, "ray_session", start)
        patch.setattr(ray, "init", never)
        yield


@contextmanager
def files() -> Iterator[list[str]]:
    """Whole files: those that are shipped or written by commands, and one with all there is."""
    with tempfile.TemporaryDirectory() as name, nothing_starts():
        folder = Path(name)
        (folder / "photos").mkdir()
        for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)):
            Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
        good("init", folder / "photos", "--out", folder / "first.yaml")
        small = {"model": {"kind": "mlp", "width": 8, "blocks": 1}, "training.images": 6400, "evaluation.samples": 64}
        write_config(build_config(small), folder / "config.yaml", "a config")
        spaces = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))
        shipped = [path for path in spaces if "source: digits" in path.read_text()]  # whose images are there
        yield [WHOLE, *(path.read_text() for path in (*shipped, *sorted(folder.glob("*.yaml"))))]


# -- faults ---------------------------------------------------------------------------------------------------------

WORD = st.text(max_size=8).map(json.dumps)
VALUE = st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), WORD, st.integers().map(str), st.floats().map(str))
KEY = st.one_of(st.sampled_from(KEYS), st.sampled_from([*knobs()]), WORD)


def parsed(text: str) -> Any:
    """The content of a whole file, to be changed."""
    return copy.deepcopy(_parsed(text))


_parsed = functools.cache(yaml.safe_load)


def written(tree: Any, fault: str, names: tuple[str, ...]) -> Mutated:
    """The file whose FAULT is the text `fault`."""
    text = yaml.safe_dump(tree, sort_keys=False, width=10_000).replace(FAULT, fault)
    return Mutated(text.encode("utf-8", "surrogatepass"), names)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def at(tree: Any, path: Sequence[Any]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def named(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The key at a place, or the one that holds it; for what a distribution is made of, the searched key."""
    keys = [key for key in path if isinstance(key, str)]
    if keys[0] == "space" and len(keys) > 2:
        return keys[-1], keys[1]
    return keys[-1].rpartition(".")[2], keys[-1].partition(".")[0], *["controls"] * (keys[0] == "controls")


@st.composite
def faulty_tree(draw: st.DrawFn, text: str) -> Mutated:
    """A value is replaced; or a key is removed, moved to another section, given twice, misspelt or replaced."""
    tree, fault = parsed(text), ""
    *above, key = path = draw(st.sampled_from([*places(tree)]))
    inner, names = at(tree, above), named(path)
    kind = draw(st.sampled_from(["value", "value", "value", "remove", "move", "twice", "misspell", "rename"]))
    if isinstance(key, int) or kind == "value":
        inner[key], fault = FAULT, draw(VALUE)
    elif kind in ("remove", "move"):
        value = inner.pop(key)
        sections = [each for each in ((), *places(tree)) if isinstance(at(tree, each), dict)]
        if kind == "move":
            at(tree, draw(st.sampled_from(sections)))[key] = value
    elif kind == "twice":
        inner[FAULT], fault = copy.deepcopy(inner[key]), key
    else:
        where = draw(st.integers(0, len(key) - 1))
        letters = st.sampled_from(["", "x", key[where].upper(), key[where] * 2])
        fault = draw(KEY) if kind == "rename" else key[:where] + draw(letters) + key[where + 1 :]
        items = [(FAULT if each == key else each, value) for each, value in inner.items()]
        inner.clear()
        inner.update(items)
        names += (fault, "unknown key", "is not searched")
    return written(tree, fault, names)


@st.composite
def faulty_space(draw: st.DrawFn, text: str) -> Mutated:
    """A distribution with other ends, steps or conditions, or of a key that was not searched."""
    tree = parsed(text)
    key = draw(st.one_of(st.sampled_from([*tree["space"]]), st.sampled_from([*knobs()])))
    end, parts = st.sampled_from(ENDS), []
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=1 + draw(st.booleans()))):
        parts.append(f"{kind}: [{', '.join(draw(st.lists(end, max_size=3)))}]")
    if draw(st.booleans()):
        parts.append(f"step: {draw(end)}")
    if draw(st.booleans()):
        parent = draw(st.sampled_from([*tree["space"], "seed", "nowhere", "observed", "''", "~"]))
        parts.append(f"when: {draw(st.sampled_from([f'{{{parent}: {draw(VALUE)}}}', parent, '[]', '{}']))}")
    tree["space"][key] = FAULT
    return written(tree, f"{{{', '.join(parts)}}}", (key,))


@st.composite
def faulty_text(draw: st.DrawFn, text: str) -> Mutated:
    """Pieces put in, cut out, other indents, encodings and ends of lines."""
    for _ in range(draw(st.integers(0, 2))):
        word = draw(st.sampled_from(list(re.finditer(r"[\w.-]+|[^\w.-]", text))))
        first, last = word.span() if draw(st.booleans()) else (word.start(), word.start())
        text = text[:first] + draw(st.sampled_from(PIECES)) + text[last:]
    newline = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"]))
    content = text.replace("\n", newline).encode(draw(st.sampled_from(ENCODINGS)), "replace")
    where, odd = draw(st.integers(0, len(content))), draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=8)))
    content = draw(st.sampled_from([content, content, content[:where], content[:where] + odd + content[where:], odd]))
    return Mutated(content, ("FILE", "data."))


@st.composite
def faulty_words(draw: st.DrawFn, text: str) -> Mutated:
    """A whole file, and KEY=VALUE with a fault."""
    keys = [f"{name}.{key}" for name, section in OWN.items() for key in section.model_fields]
    keys += ["name", "model", "search", *(f"space.{key}" for key in parsed(text).get("space", {}))]
    key = draw(st.one_of(st.sampled_from([*knobs()]), st.sampled_from(keys), KEY)).replace("\x00", "")
    value = draw(st.one_of(VALUE, st.text())).replace("\x00", "")
    words = [f"{key}={value}"] * 9 + [
        key,
        f"={value}",
        f"{key}:{value}",
        f" {key} = {value}",
        "=",
        "",
    ]
    name = key.partition("=")[0].rpartition(".")[2]
    names = (name, "expected key=value", "unknown key", "given twice")
    return Mutated(text.encode(), names, (draw(st.sampled_from(words)),))


FAULTS = [faulty_tree, faulty_tree, faulty_tree, faulty_space, faulty_text, faulty_words]


# -- what becomes of them -------------------------------------------------------------------------------------------


def refusal(path: Path, *words: Any) -> tuple[str, str]:
    """The line by which a command refuses a file, none where it is valid or the command starts; and its output."""
    code, out, err = ambient_sweep(*words)
    if code == 0 or err == "error: started\n":
        return "", out
    line = err.removesuffix("\n").replace(str(path), "FILE")
    assert code == 2, (code, line)
    assert line.startswith("error: "), line
    assert line.isprintable(), line
    assert len(line) <= LONGEST, line
    assert not RAW.search(line), line
    return line, out


def is_named(name: str, line: str) -> bool:
    return bool(name) and re.search(rf"(?<!\w){re.escape(name[:100])}", line) is not None


def check(mutated: Mutated) -> None:
    """It is valid and starts, or is refused by name, by `validate` and by what would run it."""
    with tempfile.TemporaryDirectory() as folder:
        path, storage = Path(folder) / "mutated.yaml", Path(folder) / "runs"
        path.write_bytes(mutated.content)
        said, out = refusal(path, "validate", path, *mutated.words)
        verb = "train" if "a valid config" in out else "run"
        again, _ = refusal(path, verb, path, *mutated.words, "--storage", storage)
        if again.endswith("use `ambient-sweep train`"):
            again, _ = refusal(path, "train", path, *mutated.words, "--storage", storage)
        assert bool(said) == bool(again), (said, again)
        for line in filter(None, (said, again)):
            assert re.search(r"line \d+, column \d+: ", line) or any(is_named(each, line) for each in mutated.names), (
                line
            )
        assert not storage.exists() or not any(storage.iterdir())
        if not said and verb == "run":
            sweep = load_sweep(path, parse_overrides(mutated.words))
            write_sweep(sweep, path)
            assert load_sweep(path) == sweep


def check_many(count: int, **more: Any) -> None:
    with files() as texts:
        faults = [fault(text) for fault in FAULTS for text in texts if fault is not faulty_space or "space:" in text]

        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck], **more)
        @given(st.one_of(faults))
        def checked(mutated: Mutated) -> None:
            check(mutated)

        checked()


def test_mutated_files_and_words_are_valid_or_refused_by_name() -> None:
    check_many(150, derandomize=True)


@pytest.mark.slow
def test_many_mutated_files_and_words_are_valid_or_refused_by_name() -> None:
    check_many(2000)
