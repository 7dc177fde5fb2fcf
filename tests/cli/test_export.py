"""The model for others that `export` writes, and TensorBoard on a run, as a user starts both."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import bad, good
from safetensors.torch import load_file
from small_trials import small

from ambient_sweep.config import load_config
from ambient_sweep.trial.records import read_trial_evaluations
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.run import run_trial


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one trial, whose last checkpoint was confirmed; the one before was not on the frontier."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("export") / "runs" / "one")
    run_trial(small(), root, "a")
    for images, seed in ((1600, 1), (1600, 2), (1120, 1)):
        remeasure(root, "a", images, root / f"trials/a/checkpoints/images-{images:09d}", seed, 32)
    return root


def test_a_trial_becomes_weights_config_and_a_card_with_what_was_measured(run: Path, tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "digits-model", run / "trials" / "a" / "checkpoints" / "images-000001600"
    told = json.loads(good("export", run / "trials" / "a", "--to", out, "--json"))
    assert told == {"checkpoint": str(checkpoint), "to": str(out)}
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "checkpoint.json", "config.yaml", "model.safetensors",
    ]  # fmt: skip
    assert load_config(out / "config.yaml") == small()
    assert load_file(out / "model.safetensors").keys() == load_file(checkpoint / "model.safetensors").keys()
    text = (out / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert "license" not in yaml.safe_load(front), "it is the user's to choose"
    assert body.startswith("\n# digits-model\n")
    assert "sigma_n, pixels in [-1, 1]): 0.3\n" in body
    assert json.loads((run / "trials/a/trial.json").read_text())["data_fingerprint"] in body
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines() if line.startswith("| seed")]
    last = [each for each in read_trial_evaluations(run, "a") if each.images == 1600]
    measured = [(row[0], row[1], row[2], row[5]) for row in rows]
    assert measured == [
        (f"seed {seed}", endpoint, name, n)
        for seed, n in ((0, "16"), (1, "32"), (2, "32"))
        for endpoint in ("observed", "zero")
        for name in ("fd_pixels (fidelity)", "mem_excess (memorization)")
    ]
    for record, (fidelity, memorization) in zip(last, ((rows[0], rows[1]), (rows[2], rows[3])), strict=True):
        for name, row in (("fd_pixels", fidelity), ("mem_excess", memorization)):
            m = record.measures[name]
            assert row[3] == f"{m.value:.4g}"
            assert row[4] == ("not known" if m.low is None else f"{m.low:.4g} to {m.high:.4g}")
    assert (
        "seed 0 chose the model first, those of seed 1 put it on the sweep's frontier, and both may flatter\nit."
        in body
    )
    assert "Those of seed 2 took no part in the choice and state its values.\n" in body
    assert "evaluate` measures fresh" not in body
    assert not re.search(r"\n{3,}|[{}]|None", body)


def test_what_is_exported_is_sampled_and_measured_like_any_checkpoint(run: Path, tmp_path: Path) -> None:
    first = run / "trials" / "a" / "checkpoints" / "images-000000640"
    good("export", first, "--to", tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text()
    assert "they flatter it" in text
    assert "frontier" not in text
    good("export", first.with_name("images-000001120"), "--to", tmp_path / "second")
    text = (tmp_path / "second" / "README.md").read_text()
    assert (
        "those of seed 1 decided whether it is on the sweep's frontier.\nIf the model was chosen by these values"
        in text
    )
    for place, name in ((first, "a"), (tmp_path / "m", "b")):
        good("sample", place, "--count", 3, "--out", tmp_path / name)
    images = [[path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "ab"]
    assert images[0] == images[1]
    good("export", tmp_path / "m", "--to", tmp_path / "again")
    assert "These weights have not been evaluated" in (tmp_path / "again" / "README.md").read_text()
    assert bad("export", first, "--to", tmp_path / "m").startswith("error: --to: ")
    assert "give a single trial or checkpoint, or runs alone" in bad("export", run, first, "--to", tmp_path / "n")
    assert "no such file or folder" in bad("export", tmp_path / "none", "--to", tmp_path / "n")
    assert "a model is written to a folder of this machine" in bad("export", first, "--to", "s3://bucket/m")


def test_an_attack_is_shown_in_tensorboard_which_starts_by_one_command(run: Path, tmp_path: Path) -> None:
    good("evaluate", run / "trials" / "a", "--attack", tmp_path / "attack", "--attack-images", 99)
    command = [sys.executable, "-m", "ambient_sweep", "tensorboard", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.fullmatch(rf"TensorBoard on {run}: (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n", line)
            assert address is not None, line

            def ask(path: str, body: Any = None) -> Any:
                data = None if body is None else json.dumps(body).encode()
                asked = urllib.request.Request(f"{address[1]}/{path}", data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    return json.load(answer)

            shown = ask("data/plugin/images/tags")
            assert shown.keys() == {"trials/a", "trials/a/attack"}
            assert {path.stem for path in (tmp_path / "attack").glob("*.png")} == shown["trials/a/attack"].keys()
            groups = ask("data/plugin/hparams/session_groups", {"allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 9})
            assert [group["name"] for group in groups["sessionGroups"]] == ["trials/a"]
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert bad("tensorboard", tmp_path / "none").endswith("none")
