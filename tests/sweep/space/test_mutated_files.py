"""Sweep files with random faults: each is read, or refused in one line; what is read can be written and read again."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambient_sweep.config import parse_overrides
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import validation
from ambient_sweep.sweep.space.file import load_sweep, write_sweep
from ambient_sweep.sweep.space.validation import check_space

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
PIECES = [
    "", " ", "  ", "\t", "\n", ":", ": ", ",", "[", "]", "{", "}", "- ", "#", "'", '"', "*range", "&range ", "<<: ", "!x ",
    "!!int ", "---\n", "? ", "| ", "~", "null", "yes", "off", "010", "1e-3", "1:30", "0x1F", "1_000", "-1", "1e999", ".nan",
    "1e-300", "99999999999999999999", "2024-01-01", "\u00e9", "\ufeff", "\x00", '"\\0"', '"\\ud800"', '"\\U00110000"',
    "seed", "model.width", "observed.sigma", "choice", "when", "step", "[0, 0]", "{}", "[]", "[[1]]", "{a: {b: 1}}",
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = WHOLE
    for _ in range(draw(st.integers(1, 3))):
        word = draw(st.sampled_from(list(re.finditer(r"[\w.-]+|[^\w.-]", text))))
        first, last = word.span() if draw(st.booleans()) else (word.start(), word.start())
        text = text[:first] + draw(st.sampled_from(PIECES)) + text[last:]
    newline = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    return text.replace("\n", newline).encode(draw(st.sampled_from(ENCODINGS)), "replace")


@pytest.fixture(autouse=True, scope="module")
def few_corners() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "CORNERS", 3)
        yield


def read_or_refused(content: bytes, words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.yaml"
        path.write_bytes(content)
        try:
            sweep = load_sweep(path, parse_overrides(words))
            check_space(sweep)
        except UserError as error:
            message = str(error)
            assert "\n" not in message
            assert message.startswith((str(path), *(word.partition("=")[0] for word in words)))
        else:
            write_sweep(sweep, path)
            assert load_sweep(path) == sweep


EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@EXAMPLES
@given(mutated())
def test_a_mutated_file_is_read_or_refused_in_one_line(content: bytes) -> None:
    read_or_refused(content, [])


@EXAMPLES
@given(
    st.sampled_from(["seed", "name", "training.images", "search.trials", "model", "search", "baseline.seeds"]),
    st.text(),
)
def test_a_mutated_override_is_read_or_refused_in_one_line(key: str, text: str) -> None:
    read_or_refused(WHOLE.encode(), [f"{key}={text}"])


@EXAMPLES
@given(st.binary())
def test_bytes_that_are_no_sweep_are_refused_in_one_line(content: bytes) -> None:
    read_or_refused(content, [])
