"""check.py runs at tiny sizes on a CPU, keeps what parts say, and says why others say nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import check
import pytest
from check import CHECKS, PARTS, Part

DOCS = Path(__file__).parents[2] / "docs" / "gpu.md"


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Runs made-up parts, and gives the cells of the rows that are kept."""

    def run(**works):
        parts = {name: Part(CHECKS, ((f"{name} 1",), (f"{name} 2",)), *work) for name, work in works.items()}
        monkeypatch.setattr(check, "PARTS", parts)
        check.main(["--device", "cpu", "--out", str(tmp_path), "--parts", *parts])
        return {row["label"][0]: row["cells"][0] for row in check.rows_in(tmp_path)}

    return run


def test_every_part_runs_at_tiny_sizes(tmp_path):
    names = [name for name in PARTS if name != "sweep"]  # which needs a Ray of its own
    words = [sys.executable, check.__file__, "--device", "cpu", "--tiny", "--out", tmp_path, "--parts", *names]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    rows = {(row["table"], *row["label"]): row["cells"] for row in check.rows_in(tmp_path)}
    assert rows.keys() == {(PARTS[name].table, *label) for name in names for label in PARTS[name].labels}
    missing = {label[1]: cells for label, cells in rows.items() if cells[0] == "not run: no weights in the cache"}
    assert all("fid" in label or "dinov2" in label or "sscd" in label for label in missing)
    words = [cells[0] for label, cells in rows.items() if label[1] not in missing]
    assert [each for each in words if each.startswith(("failed", "not run", "NO"))] == [], done.stderr
    assert all(cells[0] in done.stdout.split("Measured on CPU")[1] for cells in rows.values())


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_sweep_runs(tmp_path):
    check.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--parts", "sweep"])
    assert [row["cells"] for row in check.rows_in(tmp_path)] == [["yes: completed"]]


def test_a_part_that_fails_or_takes_too_long_says_so_and_the_others_go_on(made_up, monkeypatch, capfd):
    def broken(setting):
        yield ("yes",)
        raise ValueError("no | good")

    def endless(setting):
        time.sleep(600)
        yield ("yes",)

    def good(setting):
        yield ("yes",)
        yield (str(setting.folder.exists()),)

    assert made_up(broken=(broken,), lacking=(good, ("no_such_package",)), good=(good,)) == {
        "broken 1": "yes",
        "broken 2": "failed (exit code 1): ValueError: no / good",
        "lacking 1": "not run: needs no_such_package",
        "lacking 2": "not run: needs no_such_package",
        "good 1": "yes",
        "good 2": "True",
    }
    assert "| broken 2 | failed (exit code 1): ValueError: no / good |\n" in capfd.readouterr().out
    monkeypatch.setattr(check, "PART", 1)
    rows = made_up(endless=(endless,))
    assert rows["endless 1"] == "failed: took more than 1 s"
    assert rows["endless 2"] == "not run: endless ended before"
    monkeypatch.setattr(check, "SECONDS", 0)
    assert made_up(good=(good,))["good 1"] == "not run: no time was left"


def test_docs_have_the_tables_that_are_printed(tmp_path, capsys):
    check.main(["--table", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("not run") == sum(len(part.labels) for part in PARTS.values())
    docs = DOCS.read_text()
    for table, columns in check.TABLES.items():
        assert f"## {table}\n" in docs
        assert f"| {' | '.join(columns)} |\n" in docs
    assert all(f"\n| {' | '.join(label)} | " in docs for part in PARTS.values() for label in part.labels)
