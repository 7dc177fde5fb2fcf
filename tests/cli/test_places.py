"""What sample, evaluate and best take for a checkpoint, a trial or a run, and what they list."""

import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import ambient_sweep, bad, good
from small_trials import POWER, small

from ambient_sweep.cli.places import find_checkpoint
from ambient_sweep.results.export import export_tables
from ambient_sweep.results.frontier.select import select
from ambient_sweep.trial.retention import discard
from ambient_sweep.trial.run import run_trial

LENGTHS = [f"images-{images:09d}" for images in (320, 640, 1120, 1600)]


@pytest.fixture(scope="module")
def two(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two trials."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("places") / "runs" / "two")
    run_trial(small(POWER), root, "a")
    run_trial(small({"consistency.weight": 3.0}), root, "b")
    export_tables(root)
    return root


@pytest.fixture
def run(two: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two, tmp_path / "runs" / "two", copy_function=os.link)


def found(path: Path) -> tuple[Path, str | None]:
    return find_checkpoint(path, lambda line: None)


def test_a_run_means_what_best_picks_and_a_trial_its_longest_training(run: Path, tmp_path: Path) -> None:
    row = json.loads(good("best", run, "--json"))["best"]
    picked = run / row["checkpoint"]
    for path in (run, run / "evaluations.parquet", run / "trials", run.parent):
        assert found(path) == (picked, row["endpoint"])
    last = run / "trials" / "b" / "checkpoints" / LENGTHS[-1]
    for path in (
        run / "trials" / "b",
        last.parent,
        run / "trials" / "b" / "trial.json",
        run / "trials" / "b" / "evaluations",
    ):
        assert found(path) == (last, None)
    first = last.with_name(LENGTHS[0])
    for path in (first, first / "model.safetensors"):
        assert found(path) == (first, None)
    away = shutil.copytree(first, tmp_path / "away")
    assert found(away) == (away, None)
    _, out, err = ambient_sweep("sample", run, "--count", 2, "--out", tmp_path / "images", "--json")
    assert err == f"checkpoint: {picked} (the choice of `best`)\n"
    assert (json.loads(out)["checkpoint"], json.loads(out)["endpoint"]) == (str(picked), row["endpoint"])
    measured = json.loads(good("evaluate", run / "trials" / "b", "--json", "--out", tmp_path / "measures.json"))
    assert (measured["checkpoint"], measured["images"]) == (str(last), 1600)
    assert json.loads((tmp_path / "measures.json").read_bytes()) == measured


def test_a_run_of_one_trial_means_its_longest_training(run: Path) -> None:
    shutil.rmtree(run / "trials" / "b")
    assert found(run) == (run / "trials" / "a" / "checkpoints" / LENGTHS[-1], None)


def test_what_there_is_is_listed_where_it_is_not_clear(run: Path, tmp_path: Path) -> None:
    (run / "evaluations.parquet").unlink()
    shutil.copytree(run, run.parent / "copy")
    out = ("--out", tmp_path / "out")
    some = f"trials/a/checkpoints/{LENGTHS[0]}, trials/a/checkpoints/{LENGTHS[1]}, "
    assert f"{run}: holds several checkpoints, give one; in {run} there is {some}" in bad("sample", run, *out)
    assert f"{run.parent}: holds several runs, give one; in {run.parent} there is copy, two" in bad(
        "sample", run.parent, *out
    )
    for command in (("best",), ("report",), ("evaluate",)):
        assert "holds several runs, give one; in" in bad(*command, run.parent)
        assert f"no such trial or checkpoint; in {run} there is trials/a, trials/b" in bad(
            *command, run / "trials" / "c"
        )
        assert f"no such file or folder; in {run.parent} there is copy, two" in bad(*command, run.parent / "tow")
    assert f"{run / 'snapshots'}: no snapshots" in bad("average", run, *out, "--length", 0.1)
    missing = run / "trials" / "b" / "checkpoints" / "images-5"
    assert f"{missing}: there is no checkpoint; in {run} there is trials/a/checkpoints" in bad("evaluate", missing)
    shutil.rmtree(run / "trials" / "b" / "checkpoints")
    assert found(run / "trials" / "a")[0].name == LENGTHS[-1]
    assert f"b: there is no checkpoint; in {run} there is trials/a/checkpoints" in bad("evaluate", run / "trials" / "b")
    for name in LENGTHS[1:]:
        shutil.rmtree(run / "trials" / "a" / "checkpoints" / name)
    assert found(run)[0].name == LENGTHS[0]  # the only one
    assert not (tmp_path / "out").exists()


def test_of_checkpoints_that_were_removed_the_kept_ones_are_listed(run: Path) -> None:
    kept = f"trials/b/checkpoints/{LENGTHS[2]}"
    discard(run, [kept])
    lists = f"search.keep=all keeps all of a sweep; in {run} there is {kept}"
    gone = run / "trials" / "a" / "checkpoints" / LENGTHS[0]
    for path in (run / "trials" / "a", gone, gone / "model.safetensors"):
        line = bad("sample", path, "--out", run / "out")
        assert "was removed when the sweep ended (search.keep=frontier)" in line
        assert line.endswith(lists)
    assert found(run / "trials" / "b") == (run / kept, None)
    assert found(run)[0] == run / kept


def test_best_of_a_trial_and_of_a_checkpoint(run: Path) -> None:
    table = export_tables(run).evaluations
    one = f"trials/b/checkpoints/{LENGTHS[1]}"
    for path, of, rows in (("trials/b", "trials/b", 8), (one, one, 2), (f"{one}/model.safetensors", one, 2)):
        some = table.filter([str(name).startswith(of) for name in table["checkpoint"].to_pylist()])
        assert some.num_rows == rows
        best = json.loads(good("best", run / path, "--json"))["best"]
        assert best["checkpoint"] == select(some, "knee").row["checkpoint"]
