"""Every benchmark runs, briefly: what it prints at this size means nothing."""

import contextlib
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
RUNS = [
    (
        "below_the_noise.py",
        "--to",
        "out",
        "--seeds",
        "1",
        "--length",
        "0.002",
        "--samples",
        "100",
        "--problems",
        "mixture",
        "digits",
        "patches",
        "--sizes",
        "150",
        "--sigmas",
        "0.3",
        "--ways",
        "clean",
        "distilled",
    ),
    ("consistency.py", "--seeds", "1", "--length", "0.002", "--variants", "default", "draws 3"),
    ("sampling.py", "--images", "2", "--repeats", "1"),
    ("step.py", "--repeats", "1"),
    ("throughput.py", "--device", "cpu", "--presets", "unet-8", "--batch", "2", "--no-compile"),
    *(
        ("search/compare.py", "--seeds", "1", "--problems", problem, "--methods", "random", "default")
        for problem in ("digits", "Branin-Currin", "ZDT1")
    ),
    ("search/record.py", "--help"),  # it trains 560 configs
    ("search/scale.py", "--trials", "20"),
    ("tables.py", "--rows", "40"),
]
WITH_RAY = [("search/overhead.py", "--workers", "1", "--trials", "1")]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        *((script, words) for script, *words in RUNS),
        *(pytest.param(script, words, marks=pytest.mark.xdist_group("ray")) for script, *words in WITH_RAY),
    ],
)
def test_a_benchmark_runs(script, words, monkeypatch, capsys, tmp_path):
    path = FOLDER / script
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [script, *words])
    with contextlib.suppress(SystemExit):  # of --help
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_every_benchmark_is_run():
    found = {path for path in FOLDER.rglob("*.py") if '__name__ == "__main__"' in path.read_text()} - {Path(__file__)}
    assert {path.relative_to(FOLDER).as_posix() for path in found} == {script for script, *_ in RUNS + WITH_RAY}
