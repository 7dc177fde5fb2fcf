"""The commands as a user calls them: what they print and write, exit codes, one line per error."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import bad, good
from PIL import Image

pytestmark = pytest.mark.xdist_group("ray")

DIGITS = Path(__file__).parent.parent.parent / "search_spaces" / "digits.yaml"
SWEEP: dict[str, Any] = {
    "base": {
        "model": {"kind": "mlp", "width": 32, "blocks": 1},
        "training": {"images": 3200, "batch_size": 64},
        "evaluation": {"lengths": [0.5, 1.0], "samples": 64, "distances": ["fd_pixels", "fd_classifier"]},
        "sampling.steps": 5,
    },
    "space": {"observed.sigma": {"uniform": [0.1, 0.5]}, "consistency.weight": {"loguniform": [0.1, 3]}},
    "points": [{"observed.sigma": 0.3, "consistency.weight": 1.0}],
    "controls": [{"label": "ambient", "set": {"objective.kind": "ambient", "observed.sigma": 0.3}}],
    "search": {"trials": 2, "stopping": {"rule": "none"}, "keep": "all"},
}


def written(path: Path, tree: Any) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def sweep(ray_head: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of a few trials: the folder of its run, and what the command printed."""
    folder = tmp_path_factory.mktemp("sweep")
    file = written(folder / "little.yaml", SWEEP)
    return folder / "runs" / "little", good("run", file, "--storage", folder / "runs")


def test_the_module_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "ambient_sweep", "rnu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: No such command 'rnu'")


TWICE = """
import signal, sys
from ambient_sweep import cli

@cli.commands.command()
def command() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.raise_signal(signal.SIGTERM)

sys.argv[1:] = ["command"]
cli.main()
"""
WHILE_IMPORTING = """
import signal, sys
from ambient_sweep.__main__ import main

class Finder:
    def find_spec(self, name, *_):
        if name == "ambient_sweep.cli":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [(TWICE, 130, "error: interrupted\n"), (WHILE_IMPORTING, -signal.SIGINT, "")],
    ids=["twice", "while importing"],
)
def test_signals_end_a_command_without_a_traceback(script: str, code: int, said: str) -> None:
    """`timeout` sends two at once."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.lstrip()) == (code, said)


def test_help_names_every_command() -> None:
    text = good("--help")
    for verb in (
        "validate",
        "run",
        "resume",
        "train",
        "sample",
        "evaluate",
        "status",
        "best",
        "report",
        "export",
        "tensorboard",
        "knobs",
    ):
        assert verb in text
        assert "--help" in good(verb, "--help")


def test_help_shows_a_sweep_file_that_is_valid(tmp_path: Path) -> None:
    for verb in ("run", "validate"):
        shape = good(verb, "--help").partition("The sweep file: ")[2].partition("\n")[2]
        tree = yaml.safe_load(textwrap.dedent(shape))
        assert {"base", "space", "points", "controls", "baseline", "search", "confirm"} <= set(tree)
        good("validate", written(tmp_path / "shape.yaml", tree))


def test_what_an_option_holds_is_refused_by_the_options_name(tmp_path: Path) -> None:
    config = written(tmp_path / "c.yaml", SWEEP["base"])
    for verb in ("run", "train"):
        assert bad(verb, config, "--name", "a/b").startswith("error: --name: 'a/b' cannot name a folder; use letters")
    (tmp_path / "taken").touch()
    for command in (("best", tmp_path), ("evaluate", tmp_path)):
        assert bad(*command, "--out", tmp_path / "taken").startswith("error: --out: ")


def test_run_shows_its_progress_and_duckdb_agrees_on_the_frontier(sweep: tuple[Path, str]) -> None:
    root, printed = sweep
    assert "4 of 4" in printed
    for name in ("trials.parquet", "evaluations.parquet", "frontier.png", "frontier.svg", "report.html", "best.yaml"):
        assert str(root / name) in printed
        assert (root / name).stat().st_size > 0
    assert {"sweep.yaml", "split.json", "study.journal", "reference", "trials"} <= {p.name for p in root.iterdir()}
    trials = pd.read_parquet(root / "trials.parquet")
    evaluations = pd.read_parquet(root / "evaluations.parquet")
    assert sorted(trials["role"]) == ["baseline", "control", "search", "search"]
    assert set(trials["status"]) == {"completed"}
    # clean training has one endpoint, the others two, at two lengths each, clean training at twice as many
    own = evaluations[evaluations["samples"] == 64]
    assert len(own) == 3 * 4 + 4
    # of the checkpoints measured again, those on the frontier are measured once more
    query = f"""
        with first as (from '{root}/evaluations.parquet' where samples = 4 * 64 and evaluation_seed = 1)
        select trial_id, images, endpoint from first a where not exists (select 1 from first b
            where b.fidelity <= a.fidelity and b.memorization <= a.memorization
            and (b.fidelity < a.fidelity or b.memorization < a.memorization))"""
    front = evaluations[evaluations["on_front"]]
    found = front[["trial_id", "images", "endpoint"]]
    assert set(duckdb.sql(query).fetchall()) == set(found.itertuples(index=False, name=None))
    assert set(front["evaluation_seed"]) == {2}
    assert "confirming: measuring what could be on the frontier again" in printed
    search = trials[trials["role"] == "search"]
    assert ((search["observed.sigma"] == 0.3) & (search["consistency.weight"] == 1.0)).any()  # the point came first
    assert np.isfinite(evaluations[["fd_classifier", "fd_pixels", "mem_excess", "mem_ratio"]]).all().all()


def test_the_best_config_trains_again_to_the_numbers_of_the_table(sweep: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = sweep
    printed = json.loads(good("best", root, "--rule", "knee", "--out", tmp_path / "best.yaml", "--json"))
    row = printed["best"]
    assert printed["images"] == row["images"]
    again = json.loads(good("train", tmp_path / "best.yaml", "--storage", tmp_path / "runs", "--json"))
    last = again["evaluations"][-1]
    assert (last["images"], last["endpoint"]) == (row["images"], row["endpoint"])
    for name in ("fd_pixels", "fd_classifier", "mem_excess", "mem_ratio"):
        assert last["measures"][name]["value"] == row[name]
    assert "already exists" in bad("best", root, "--out", tmp_path / "best.yaml")

    fresh = json.loads(good("evaluate", root / row["checkpoint"], "evaluation.seed=7", "--json"))
    found = fresh["measures"][row["endpoint"]][row["fidelity_measure"]]
    assert found["n"] == row["samples"] == 256
    low, high = row["fidelity_low"], row["fidelity_high"]
    assert low - (high - low) / 2 < found["value"] < high + (high - low) / 2  # both are noisy: sqrt(2) of it


def test_best_says_whether_its_checkpoint_is_still_there(sweep: tuple[Path, str], tmp_path: Path) -> None:
    copy = shutil.copytree(sweep[0], tmp_path / "copy")
    checkpoint = copy / json.loads(good("best", copy, "--json"))["best"]["checkpoint"]
    printed = good("best", copy)
    assert f"checkpoint: {checkpoint}\n" in printed
    assert f"`ambient-sweep sample {checkpoint} --endpoint " in printed
    shutil.rmtree(checkpoint)
    out = tmp_path / "best.yaml"
    lines = good("best", copy, "--out", out).splitlines()
    assert "checkpoint: not kept (search.keep=frontier); train it again" in lines[-2]
    assert lines[-1] == f"config: {out}; train it again with `ambient-sweep train {out}`"


def test_sample_and_evaluate_a_checkpoint(sweep: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = sweep
    row = pd.read_parquet(root / "evaluations.parquet").query("role == 'control' and endpoint == 'observed'").iloc[-1]
    checkpoint = root / row["checkpoint"]
    good("sample", checkpoint, "--count", 5, "--out", tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) == 5
    assert Image.open(files[0]).size == (8, 8)
    assert "not an empty folder" in bad("sample", checkpoint, "--out", tmp_path / "images")
    measured = json.loads(
        good(
            "evaluate",
            checkpoint,
            f"evaluation.samples={row['samples']}",
            f"evaluation.seed={row['evaluation_seed']}",
            "--json",
        )
    )
    assert measured["measures"]["observed"]["fd_classifier"]["value"] == row["fd_classifier"]
    assert "training.images" in bad("evaluate", checkpoint, "training.images=5")


def test_report_makes_everything_anew_and_resume_of_a_finished_sweep_trains_nothing(sweep: tuple[Path, str]) -> None:
    root, _ = sweep
    before = pd.read_parquet(root / "evaluations.parquet")
    for name in ("trials.parquet", "evaluations.parquet", "frontier.png", "frontier.svg", "report.html"):
        (root / name).unlink()
    for command in ("report", "resume"):
        assert json.loads(good(command, root, "--json"))["trials"] == {"completed": 4}
        pd.testing.assert_frame_equal(before, pd.read_parquet(root / "evaluations.parquet"))


def test_resume_and_report_name_a_run_that_cannot_be_written(sweep: tuple[Path, str], tmp_path: Path) -> None:
    copy = shutil.copytree(sweep[0], tmp_path / "copy")
    for name in (".driver.lock", "trials.parquet"):  # folders in their places stop root as well
        (copy / name).unlink()
        (copy / name / "in the way").mkdir(parents=True)
    assert bad("resume", copy).startswith(f"error: {copy}: cannot be written or locked (Is a directory); make it")
    table = copy / "trials.parquet"
    assert bad("report", copy).startswith(f"error: {table}: cannot be written (Is a directory); `ambient-sweep report ")


def test_a_name_that_is_taken_is_refused_and_nothing_is_touched(sweep: tuple[Path, str]) -> None:
    root, _ = sweep
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert "`ambient-sweep resume" in bad("run", root.parent.parent / "little.yaml", "--storage", root.parent)
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def test_validate(tmp_path: Path) -> None:
    result = json.loads(good("validate", DIGITS, "--json"))
    assert result["kind"] == "sweep"
    assert {t["role"] for t in result["fixed_trials"]} == {"baseline", "control"}
    assert json.loads(good("validate", written(tmp_path / "c.yaml", {"seed": 3}), "--json"))["config"]["seed"] == 3
    space = SWEEP | {"space": {"model.width": {"int": [16, 64]}}, "points": []}
    assert "multiple of 8" in bad("validate", written(tmp_path / "w.yaml", space))
    for key, value in (("observed.sigma", True), ("seed", 10**23)):
        assert key in bad("validate", written(tmp_path / "odd.yaml", {key: value}))


FID = {"distances": ["fid"], "fidelity": "fid", "weights_folder": "/no/folder"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": {"observed.sigm": 1}}, ["observed.sigm", "did you mean"]),
        ({"space": {"observed.sigmaa": {"uniform": [0, 1]}}}, ["observed.sigmaa", "did you mean"]),
        ({"space": {"observed.sigma": {"uniform": [0.0, 1.0]}}}, ["observed.sigma", "0"]),
        ({"space": {"observed.sigma": {"uniform": [0.1, 200]}}, "points": []}, ["observed.sigma", "200"]),
        ({"base": {"data": {"train_size": 5000}}}, ["train_size=5000", "1797"]),
        ({"base": {"data": {"source": "folder", "path": "/no/such/folder", "train_size": 3}}}, ["/no/such/folder"]),
        ({"base": {"resources.workers": 32, "training.batch_size": 64}}, ["32", "workers"]),
        ({"base": {"evaluation": FID}}, ["/no/folder is not a folder"]),
    ],
)
@pytest.mark.usefixtures("ray_head")
def test_bad_sweeps_end_in_one_line_and_leave_nothing(tmp_path: Path, changes: Any, words: list[str]) -> None:
    message = bad("run", written(tmp_path / "bad.yaml", SWEEP | changes), "--storage", tmp_path / "runs")
    assert [word for word in words if word not in message] == []
    assert not (tmp_path / "runs" / "bad").exists()


def test_bad_words_and_files(tmp_path: Path) -> None:
    assert "no such file" in bad("run", tmp_path / "none.yaml")
    assert "key=value" in bad("validate", DIGITS, "seed")
    assert "no such file" in bad("best", tmp_path / "none.parquet")
    assert "is a directory; give the YAML file" in bad("validate", tmp_path)
    for command in (("sample", tmp_path, "--out", tmp_path / "o"), ("best", tmp_path), ("report", tmp_path)):
        assert f"{tmp_path}: neither a run nor a trial or checkpoint of one; in {tmp_path} there is none" in bad(
            *command
        )
    assert "no such file or folder" in bad("evaluate", tmp_path / "none")
    assert "sweep.yaml is missing" in bad("resume", tmp_path)
    (tmp_path / "file").write_text("")
    sweep = written(tmp_path / "ok.yaml", SWEEP)
    assert "Not a directory" in bad("run", sweep, "--storage", tmp_path / "file")
    assert "file" in bad("run", sweep, "--storage", tmp_path / "file" / "deeper")


def test_best_needs_a_table_of_evaluations(sweep: tuple[Path, str]) -> None:
    assert "not a table of evaluations" in bad("best", sweep[0] / "trials.parquet")
    assert "error: --rule: unknown rule" in bad("best", sweep[0], "--rule", "elbow")


def test_a_diverging_run_fails_with_its_reason(tmp_path: Path) -> None:
    changes = {"optimizer": {"lr": 1.0, "warmup": 0.0, "clip_norm": 1e30}, "observed.sigma": 0.3}
    config = written(tmp_path / "c.yaml", {**SWEEP["base"], **changes, "noise": {"mean": 10, "std": 10}})
    assert "not finite" in bad("train", config, "--storage", tmp_path, code=1)
    assert pd.read_parquet(tmp_path / "c" / "trials.parquet")["status"].tolist() == ["failed"]


@pytest.mark.usefixtures("ray_head")
def test_train_keeps_to_its_storage_and_leaves_nothing_after_bad_input(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "2.png").write_bytes(b"not an image")
    runs = ("--storage", tmp_path / "runs")
    config = written(tmp_path / "c.yaml", {"data": {"train_size": 5000}})
    assert "cannot name a folder" in bad("train", config, *runs, "--name", "../out")
    assert "train_size=5000" in bad("train", config, *runs)
    assert "is a sweep" in bad("train", DIGITS, *runs)
    images = {"data": {"source": "folder", "path": str(tmp_path / "photos"), "train_size": 2}}
    assert "2.png: not an image" in bad("train", written(tmp_path / "c.yaml", images), *runs)
    assert not (tmp_path / "runs" / "c").exists()
    assert not (tmp_path / "out").exists()
    assert "workers" in bad("train", written(tmp_path / "w.yaml", {"resources.workers": 64}), *runs)


def test_a_damaged_split_is_written_anew(tmp_path: Path) -> None:
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


def test_a_relative_path_of_images_works_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "photos" / f"{i}.png")
    small = {
        "data": {"source": "folder", "path": "photos", "train_size": 3},
        "model": {"kind": "mlp", "width": 8, "blocks": 1},
        "training.images": 128,
        "sampling.steps": 2,
        "evaluation": {"samples": 8, "lengths": [1.0], "quantile": 0.2},
    }
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        good("train", written(tmp_path / "c.yaml", small), "--storage", "runs")
    checkpoint = tmp_path / "runs" / "c" / "trials" / "train" / "checkpoints" / "images-000000128"
    refused = bad("evaluate", checkpoint)
    assert "precision needs at least 4 training images, there are 3" in refused
    few = refused.rpartition(": ")[2].split()  # it says what to leave out
    assert few[1::2] == ["precision", "recall", "density", "coverage"]
    good("evaluate", checkpoint, *few)
