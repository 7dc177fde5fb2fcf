"""Commands on a URL of an object store, on a real S3 server: a run without Ray, what reads it, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
from command_line import bad

from ambient_sweep.object_store import PREFIX

CONFIG = """
model: {kind: mlp, width: 16, blocks: 1}
data.train_size: 150
training: {images: 1600, batch_size: 64, checkpoints: 4}
evaluation: {lengths: [0.5, 1.0], samples: 32}
sampling.steps: 4
ema: {kind: power}
"""


@pytest.fixture(scope="module")
def command(s3, tmp_path_factory):
    """Runs a command with a scratch folder of its own; gives its output, or the line of its error."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "scratch").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder / "scratch")}

    def run(*words, fails=False):
        command = [sys.executable, "-m", "ambient_sweep", *words]
        done = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == (2 if fails else 0), done.stderr
        assert not list((folder / "scratch").glob(f"{PREFIX}*"))  # nothing is left on this machine
        assert "/scratch/" not in done.stdout + done.stderr  # and nobody reads of the working copy
        if fails:
            assert done.stderr.count("\n") == 1
        return done.stderr if fails else done.stdout

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def trained(s3, command):
    command("train", "small.yaml", "--storage", s3.url("sweeps"))
    command("train", "small.yaml", "--storage", "runs")
    return s3.url("sweeps/small")


def test_a_run_by_url_is_the_run_in_a_folder(trained, command, s3):
    mine, theirs = s3.files("sweeps/small"), command.folder / "runs/small"
    names = {str(p.relative_to(theirs)) for p in theirs.rglob("*") if p.is_file()}
    kept = {name for name in names if ".lock" not in name and "events." not in name}
    assert kept <= mine.keys()
    assert all(mine[name] == (theirs / name).read_bytes() for name in kept if name.endswith((".safetensors", ".png")))
    assert any("events." in name for name in mine)
    again = command("train", "small.yaml", "--storage", s3.url("sweeps"))
    assert "trained 1,600 images; all is in s3://bucket/sweeps/small" in again


def test_commands_read_a_run_by_url(trained, command, s3):
    best = json.loads(command("best", trained, "--json"))
    assert best["best"]["fidelity"] == json.loads(command("best", "runs/small", "--json"))["best"]["fidelity"]
    assert "s3://bucket/sweeps/small/report.html" in command("report", trained)
    assert b"s3://bucket/sweeps/small/best.yaml" in s3.files("sweeps/small")["report.html"]
    assert f"checkpoint: {trained}/trials/train/checkpoints/images-000001600" in command(
        "sample", trained, "--count", "2", "--out", "samples"
    )
    command("sample", "runs/small", "--count", "2", "--out", "same")
    images = [sorted((command.folder / name).glob("*.png")) for name in ("samples", "same")]
    assert [p.read_bytes() for p in images[0]] == [p.read_bytes() for p in images[1]]
    command("average", f"{trained}/trials/train", "--length", "0.07", "--out", "averaged")
    command("evaluate", f"{trained}/trials/train/checkpoints/images-000001600", "evaluation.samples=32")
    assert json.loads(command("best", f"{trained}/evaluations.parquet", "--json")) == best


def test_tables_are_exported_to_an_object_store_and_replaced_there(trained, command, s3):
    for _ in range(2):
        files = json.loads(command("export", trained, "--to", "s3://bucket/tables", "--json"))["files"]
        assert sorted(s3.files("tables")) == [name.removeprefix("bucket/tables/") for name in sorted(files)]
    found = s3.files("tables")
    assert found["evaluations/sweep=small/part-0.parquet"] == s3.files("sweeps/small")["evaluations.parquet"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("best", "s3://nowhere/x"), "s3://nowhere/x: there is no bucket nowhere; make it, or give another URL"),
        (("best", "s3:///x"), "Missing bucket name"),
        (("best", "s3://bucket/x?color=red"), "Unexpected query parameter in S3 URI: 'color'"),
        (("best", "s3://key:secret@bucket/x"), "s3://bucket: leave keys out of the URL; the environment holds them"),
        (("best", "s3://bucket/nothing"), "s3://bucket/nothing: neither a run nor a trial"),
        (("best", "s3://b/x?endpoint_override=127.0.0.1:1&scheme=http"), "; check URL, network, and credentials"),
        (("train", "small.yaml", "--storage", "s3://nowhere"), "there is no bucket nowhere"),
        (("validate", "s3://bucket/x.yaml"), "file: s3://bucket/x.yaml: give a file or folder here, not a URL"),
        (("export", "runs/small", "--to", "hdfs://x/y"), "written: give a path, or a URL that begins with s3://, gs"),
        (("export", "runs/small", "--to", "s3://nowhere/x"), "--to: s3://nowhere/x cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_that_names_the_url(trained, command, words, said):
    line = command(*words, fails=True)
    assert said in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("word", "key", "url"),
    [
        ("--storage=http://foo/x", "--storage", "http://"),
        ("--storage=file:///x", "--storage", "file://"),
        ("data.path=az://c/x", "data.path", "az://"),
    ],
)
def test_a_url_that_is_none_of_an_object_store_makes_no_folder(tmp_path, monkeypatch, word, key, url):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(CONFIG)
    said = "expected a path; runs and tables may lie at a URL, which begins with"
    line = bad("train", "small.yaml", word)
    assert line == f"error: {key}: {url}...: {said} s3://, gs://, gcs://, abfs:// or abfss://"
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_url_with_a_space_is_told_how_to_write_it():
    said = (
        "not a URL of an object store: Cannot parse URI: 's3://bucket/my sweeps' due to syntax error at character ' '"
    )
    assert bad("best", "s3://bucket/my sweeps") == (
        f"error: s3://bucket/my sweeps: {said} (position 14); give s3://BUCKET/FOLDER, with %20 for a space"
    )


def test_a_store_that_cannot_be_asked_for_its_region(monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    line = bad("best", "s3://bucket/x?endpoint_override=nowhere.invalid")
    said = "cannot be used: AWS Error NETWORK_CONNECTION during HeadBucket operation: Could not resolve hostname"
    cure = "check URL, network, and credentials (and AWS_REGION, for S3) in the environment"
    assert line == f"error: s3://bucket/x?endpoint_override=nowhere.invalid: {said}; {cure}"
