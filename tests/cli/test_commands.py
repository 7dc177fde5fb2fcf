"""The command line as a user has it: real processes, exit codes, one line per error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent.parent

SWEEP = {
    "base": {
        "model": {"kind": "mlp", "width": 32, "blocks": 1},
        "training": {"images": 3200, "batch_size": 64},
        "evaluation": {"lengths": [0.5, 1.0], "samples": 64, "distances": ["fd_pixels", "fd_classifier"]},
        "sampling.steps": 5,
    },
    "space": {"observed.sigma": {"uniform": [0.1, 0.5]}, "consistency.weight": {"loguniform": [0.1, 3]}},
    "points": [{"observed.sigma": 0.3, "consistency.weight": 1.0}],
    "controls": [{"label": "ambient", "set": {"objective.kind": "ambient", "observed.sigma": 0.3}}],
    "search": {"trials": 2, "stopping": {"rule": "none"}},
}


FID = {"distances": ["fid"], "fidelity": "fid", "inception_weights": "/no/file.pt"}


def ambient_sweep(*words, cwd=ROOT):
    command = [sys.executable, "-m", "ambient_sweep", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


def good(*words):
    done = ambient_sweep(*words)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def bad(*words, code=2, cwd=ROOT):
    done = ambient_sweep(*words, cwd=cwd)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real sweep of a few trials, run by the command line; (folder of its run, what it printed)."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "little.yaml").write_text(yaml.safe_dump(SWEEP))
    printed = good("run", folder / "little.yaml", "--storage", folder / "runs")
    return folder / "runs" / "little", printed


def test_run_shows_its_progress_and_where_everything_is(sweep):
    root, printed = sweep
    assert "4/4" in printed or "4 of 4" in printed, printed
    for name in ("trials.parquet", "evaluations.parquet", "frontier.png", "report.html", "best.yaml"):
        assert str(root / name) in printed
        assert (root / name).stat().st_size > 0
    assert "frontier" in printed
    assert {"sweep.yaml", "split.json", "study.journal", "reference", "trials"} <= {p.name for p in root.iterdir()}


def test_pandas_and_duckdb_read_the_tables_and_agree_on_the_frontier(sweep):
    root, _ = sweep
    trials = pd.read_parquet(root / "trials.parquet")
    evaluations = pd.read_parquet(root / "evaluations.parquet")
    assert sorted(trials["role"]) == ["baseline", "control", "search", "search"]
    assert set(trials["status"]) == {"completed"}
    # clean training has one endpoint, the others two, at two lengths each
    assert len(evaluations) == 3 * 4 + 2
    query = f"""
        select trial_id, images, endpoint from '{root}/evaluations.parquet' a
        where not exists (select 1 from '{root}/evaluations.parquet' b
            where b.fidelity <= a.fidelity and b.memorization <= a.memorization
            and (b.fidelity < a.fidelity or b.memorization < a.memorization))"""
    front = set(duckdb.sql(query).fetchall())
    mine = evaluations[evaluations["on_front"]][["trial_id", "images", "endpoint"]]
    assert front == set(mine.itertuples(index=False, name=None))
    search = trials[trials["role"] == "search"]
    assert ((search["observed.sigma"] == 0.3) & (search["consistency.weight"] == 1.0)).any()  # the point came first
    joined = evaluations.merge(trials, on="trial_id", suffixes=("", "_trial"))
    assert (joined["observed.sigma"] == joined["observed.sigma_trial"]).all()
    assert np.isfinite(evaluations[["fd_classifier", "fd_pixels", "mem_excess", "mem_ratio"]]).all().all()


def test_the_best_config_trains_again_to_the_numbers_of_the_table(sweep, tmp_path):
    root, _ = sweep
    printed = json.loads(good("best", root, "--rule", "knee", "--out", tmp_path / "best.yaml", "--json"))
    row = printed["best"]
    assert printed["images"] == row["images"]
    again = json.loads(good("train", tmp_path / "best.yaml", "--storage", tmp_path / "runs", "--json"))
    last = again["evaluations"][-1]
    assert (last["images"], last["endpoint"]) == (row["images"], row["endpoint"])
    for name in ("fd_pixels", "fd_classifier", "mem_excess", "mem_ratio"):
        assert last["measures"][name]["value"] == row[name]
    assert "is there already" in bad("best", root, "--out", tmp_path / "best.yaml")


def test_sample_and_evaluate_a_checkpoint(sweep, tmp_path):
    root, _ = sweep
    row = pd.read_parquet(root / "evaluations.parquet").query("role == 'control' and endpoint == 'observed'").iloc[-1]
    checkpoint = root / row["checkpoint"]
    good("sample", checkpoint, "--count", 5, "--out", tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) == 5
    assert Image.open(files[0]).size == (8, 8)
    assert "not an empty folder" in bad("sample", checkpoint, "--out", tmp_path / "images")
    measured = json.loads(good("evaluate", checkpoint, "--json"))
    assert measured["measures"]["observed"]["fd_classifier"]["value"] == row["fd_classifier"]
    assert "training.images" in bad("evaluate", checkpoint, "training.images=5")


def test_report_makes_everything_anew_and_resume_of_a_finished_sweep_trains_nothing(sweep):
    root, _ = sweep
    before = pd.read_parquet(root / "evaluations.parquet")
    for name in ("trials.parquet", "evaluations.parquet", "frontier.png", "report.html"):
        (root / name).unlink()
    assert json.loads(good("report", root, "--json"))["trials"] == {"completed": 4}
    pd.testing.assert_frame_equal(before, pd.read_parquet(root / "evaluations.parquet"))
    assert json.loads(good("resume", root, "--json"))["trials"] == {"completed": 4}
    pd.testing.assert_frame_equal(before, pd.read_parquet(root / "evaluations.parquet"))


def test_a_run_that_cannot_be_written_is_told_by_resume_and_by_report(sweep, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sweep[0], copy)
    for name in (".driver.lock", "trials.parquet"):  # folders in their places stop root as well
        (copy / name).unlink()
        (copy / name / "in the way").mkdir(parents=True)
    message = bad("resume", copy)
    assert message == f"error: {copy}: cannot be written (Is a directory); make it writable, then call this again"
    table = copy / "trials.parquet"
    assert bad("report", copy).startswith(f"error: {table}: cannot be written (Is a directory); `ambient-sweep report ")


def test_a_name_that_is_taken_is_refused_and_nothing_is_touched(sweep):
    root, _ = sweep
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    message = bad("run", root.parent.parent / "little.yaml", "--storage", root.parent)
    assert "is there already" in message
    assert "resume" in message
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def test_validate(tmp_path):
    result = json.loads(good("validate", "search_spaces/digits.yaml", "--json"))
    assert result["kind"] == "sweep"
    assert {t["role"] for t in result["fixed_trials"]} == {"baseline", "control"}
    (tmp_path / "c.yaml").write_text("seed: 3\n")
    assert json.loads(good("validate", tmp_path / "c.yaml", "--json"))["config"]["seed"] == 3


def test_help_names_every_command_and_is_quick():
    text = good("--help")
    for verb in ("validate", "run", "resume", "train", "sample", "evaluate", "best", "report", "knobs"):
        assert verb in text
        assert "--help" in good(verb, "--help")


def written(path: Path, tree) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": {"observed.sigm": 1}}, ["observed.sigm", "did you mean"]),
        ({"space": {"observed.sigmaa": {"uniform": [0, 1]}}}, ["observed.sigmaa", "did you mean"]),
        ({"space": {"observed.sigma": {"uniform": [0.0, 1.0]}}}, ["observed.sigma", "0"]),
        ({"space": {"observed.sigma": {"uniform": [0.1, 200]}}, "points": []}, ["observed.sigma", "200"]),
        ({"base": {"data": {"train_size": 5000}}}, ["train_size=5000", "1797"]),
        ({"base": {"data": {"source": "folder", "path": "/no/such/folder", "train_size": 5}}}, ["/no/such/folder"]),
        ({"base": {"resources.workers": 32, "training.batch_size": 64}}, ["32", "workers"]),
        ({"base": {"evaluation": FID}}, ["file.pt"]),
    ],
)
def test_bad_sweeps_end_in_one_line_and_leave_nothing(tmp_path, changes, words):
    file = written(tmp_path / "bad.yaml", SWEEP | changes)
    message = bad("run", file, "--storage", tmp_path / "runs")
    for word in words:
        assert word in message
    assert not (tmp_path / "runs" / "bad").exists()


def test_bad_words_and_files(tmp_path):
    assert "No such command" in bad("rnu")
    assert "no such file" in bad("run", tmp_path / "none.yaml")
    assert "key=value" in bad("validate", "search_spaces/digits.yaml", "seed")
    assert "unknown rule" in bad("best", tmp_path, "--rule", "x") or "no such file" in bad("best", tmp_path)
    assert "not a readable checkpoint" in bad("sample", tmp_path, "--out", tmp_path / "o")
    assert "contains no trials" in bad("report", tmp_path)
    assert "no sweep was begun" in bad("resume", tmp_path)
    (tmp_path / "file").write_text("")
    sweep = written(tmp_path / "ok.yaml", SWEEP)
    assert "not a folder" in bad("run", sweep, "--storage", tmp_path / "file")
    assert "file" in bad("run", sweep, "--storage", tmp_path / "file" / "deeper")


def test_images_that_cannot_be_read_are_named(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"not an image")
    config = written(tmp_path / "c.yaml", {"data": {"source": "folder", "path": str(folder), "train_size": 2}})
    assert "2.png: not an image" in bad("train", config, "--storage", tmp_path / "runs")


def test_a_diverging_run_fails_with_its_reason(tmp_path):
    changes = {"optimizer": {"lr": 1.0, "warmup": 0.0, "clip_norm": 1e30}, "observed.sigma": 0.3}
    config = written(tmp_path / "c.yaml", {**SWEEP["base"], **changes, "noise": {"mean": 10, "std": 10}})
    message = bad("train", config, "--storage", tmp_path, code=1)
    assert "not finite" in message
    assert pd.read_parquet(tmp_path / "c" / "trials.parquet")["status"].tolist() == ["failed"]


def test_train_keeps_to_its_storage_and_leaves_nothing_after_bad_input(tmp_path):
    config = written(tmp_path / "c.yaml", {"data": {"train_size": 5000}})
    assert "cannot name a folder" in bad("train", config, "--storage", tmp_path / "runs", "--name", "../out")
    assert "train_size=5000" in bad("train", config, "--storage", tmp_path / "runs")
    assert not (tmp_path / "runs" / "c").exists()
    assert not (tmp_path / "out").exists()
    assert "is a sweep" in bad("train", "search_spaces/digits.yaml", "--storage", tmp_path / "runs")
    assert "workers" in bad(
        "train", written(tmp_path / "w.yaml", {"resources.workers": 64}), "--storage", tmp_path / "runs"
    )


def test_a_damaged_split_is_written_anew(tmp_path):
    config = written(tmp_path / "c.yaml", SWEEP["base"] | {"training": {"images": 640, "batch_size": 64}})
    command = ("train", config, "--storage", tmp_path)
    good(*command)
    split = tmp_path / "c" / "split.json"
    whole = split.read_bytes()
    changed = json.loads(whole)
    changed["train"].pop()
    for damaged in (whole[: len(whole) // 2], json.dumps(changed).encode()):
        split.write_bytes(damaged)
        good(*command)
        assert split.read_bytes() == whole


def test_whole_numbers_inside_a_range_are_validated(tmp_path):
    space = SWEEP | {"space": {"model.width": {"int": [16, 64]}}, "points": []}
    assert "multiple of 8" in bad("validate", written(tmp_path / "w.yaml", space))


def test_odd_values_and_tables_are_refused_in_one_line(sweep, tmp_path):
    root, _ = sweep
    assert "not a table of evaluations" in bad("best", root / "trials.parquet")
    config = written(tmp_path / "c.yaml", {"observed": {"sigma": True}})
    assert "observed.sigma" in bad("validate", config)
    assert "seed" in bad("validate", written(tmp_path / "d.yaml", {"seed": 10**23}))


def test_a_relative_path_of_images_works_from_anywhere(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "photos" / f"{i}.png")
    data = {"source": "folder", "path": "photos", "train_size": 2}
    small = {
        "data": data,
        "model": {"kind": "mlp", "width": 8, "blocks": 1},
        "training.images": 128,
        "sampling.steps": 2,
    }
    file = written(tmp_path / "c.yaml", small | {"evaluation": {"samples": 8, "lengths": [1.0], "quantile": 0.2}})
    done = ambient_sweep("train", file, "--storage", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "runs" / "c" / "trials" / "train" / "checkpoints" / "images-000000128"
    refused = bad("evaluate", checkpoint)
    assert "precision needs at least 4 training images, there are 2" in refused
    few = refused.rpartition(": ")[2].split()  # it says what to leave out
    assert few[1::2] == ["precision", "recall", "density", "coverage"]
    good("evaluate", checkpoint, *few)


def test_a_damaged_note_of_a_checkpoint_is_named(sweep, tmp_path):
    root, _ = sweep
    checkpoint = next((root / "trials").glob("*/checkpoints/*"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes().replace(b'"shape"', b'"shapf"'))
    assert "shape is missing" in bad("evaluate", copy)
