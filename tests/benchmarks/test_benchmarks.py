"""Every benchmark runs, briefly: what it prints at this size means nothing."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SCRIPTS = {
    "consistency.py": ["--seeds", "1", "--length", "0.002", "--variants", "default", "draws 3"],
    "sampling.py": ["--images", "2", "--repeats", "1"],
    "step.py": ["--repeats", "1"],
    "throughput.py": ["--device", "cpu", "--presets", "unet-8", "--batch", "2", "--no-compile"],
}
SLOW = {
    "search/compare.py": ["--seeds", "1", "--problems", "digits"],
    "search/scale.py": ["--trials", "20"],
}


@pytest.mark.parametrize("script", [*SCRIPTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_benchmark_runs(script, monkeypatch, capsys):
    path = FOLDER / script
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [script, *(SCRIPTS | SLOW)[script]])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_every_benchmark_is_run():
    found = {path.name for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert found - {Path(__file__).name} == {name for name in SCRIPTS | SLOW if "/" not in name}
