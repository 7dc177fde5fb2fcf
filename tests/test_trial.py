"""One trial in its folder: complete, resumable after a kill, and the same numbers every time."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ambient_sweep import trial as trial_module
from ambient_sweep.config import build_config, dump
from ambient_sweep.errors import TrainingDiverged, UserError
from ambient_sweep.results.records import read_trial, read_trial_evaluations
from ambient_sweep.training.state import load_model
from ambient_sweep.trial import evaluate_model, evaluated_lengths, generate, prepare, run_trial

SMALL = {
    "model": {"kind": "mlp", "width": 32, "blocks": 1},
    "training": {"images": 3200, "batch_size": 32, "records": 10, "checkpoints": 10},
    "evaluation": {"samples": 40, "lengths": [0.5, 1.0], "batch_size": 16},
    "sampling.steps": 4,
    "consistency.start": 0.6,
}


def finished(tmp_path, name="t", **changes):
    config = build_config(SMALL, changes)
    prepare(config, tmp_path)
    return config, run_trial(config, tmp_path, name)


def values(root, name="t"):
    return {
        (e.images, e.endpoint): {k: m.value for k, m in e.measures.items()} for e in read_trial_evaluations(root, name)
    }


def test_the_folder_of_a_trial(tmp_path):
    config, record = finished(tmp_path)
    assert (record.status, record.images_done, record.images_executed) == ("completed", 3200, 3200)
    assert record.config == dump(config)
    assert record.device_seconds > 0
    assert record.versions["torch"] == torch.__version__.split("+")[0]
    folder = tmp_path / "trials" / "t"
    assert read_trial(tmp_path, "t") == record
    evaluations = read_trial_evaluations(tmp_path, "t")
    assert [(e.images, e.fraction, e.endpoint, e.main_endpoint) for e in evaluations] == [
        (1600, 0.5, "observed", False),
        (1600, 0.5, "zero", True),
        (3200, 1.0, "observed", False),
        (3200, 1.0, "zero", True),
    ]
    for e in evaluations:
        assert set(e.measures) == {"fd_pixels", "mem_excess", "mem_ratio"}
        assert all(m.n == 40 and m.low <= m.value <= m.high for m in e.measures.values())
        assert (folder / "evaluations" / f"images-{e.images:09d}-{e.endpoint}.png").exists()
        _, again, meta = load_model(tmp_path / e.checkpoint)
        assert again == config
        assert meta["images"] == e.images
    split = json.loads((tmp_path / "split.json").read_text())
    assert len(split["train"]) == 150
    assert not {i["index"] for i in split["train"]} & {i["index"] for i in split["heldout"]}
    assert len(list((folder / "state").iterdir())) == 1
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".part"))]


def test_equal_configs_give_equal_numbers_and_evaluate_repeats_them(tmp_path):
    config, _ = finished(tmp_path, "a")
    run_trial(config, tmp_path, "b")
    assert values(tmp_path, "a") == values(tmp_path, "b")
    model, config, meta = load_model(tmp_path / "trials" / "a" / "checkpoints" / "images-000003200")
    again = evaluate_model(model, config, meta["data_fingerprint"])
    assert {k: m.value for k, m in again["zero"].items()} == values(tmp_path, "a")[3200, "zero"]


def test_stopping_earlier_passes_through_the_same_models(tmp_path):
    """`best` hands over a config and a length: trained again, it gives the numbers of the table."""
    finished(tmp_path / "a")
    config, part = finished(tmp_path / "b", **{"training.stop": 0.5, "evaluation.endpoints": ["observed"]})
    assert part.images_done == 1600
    assert evaluated_lengths(config) == {1600: 0.5}
    assert values(tmp_path / "b")[1600, "observed"] == values(tmp_path / "a")[1600, "observed"]
    config = build_config(SMALL, {"training.stop": 0.75})
    assert evaluated_lengths(config) == {1600: 0.5, 2400: 0.75}


def test_a_killed_trial_goes_on_and_ends_with_the_same_bits(tmp_path):
    config, _ = finished(tmp_path / "whole")
    prepare(config, tmp_path / "cut")
    code = f"""
import os, signal
from pathlib import Path
from ambient_sweep.config import build_config
from ambient_sweep.trial import run_trial
def stop(report):
    if report.images == 2240:  # a state was saved at 1,920
        os.kill(os.getpid(), signal.SIGKILL)
run_trial(build_config({SMALL!r}), Path({str(tmp_path / "cut")!r}), "t", on_report=stop)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    before = read_trial(tmp_path / "cut", "t")
    assert (before.status, before.images_executed) == ("running", 2240)
    record = run_trial(config, tmp_path / "cut", "t")
    assert record.status == "completed"
    assert record.images_executed == 2240 + 3200 - 1920
    assert record.started == before.started
    assert values(tmp_path / "cut") == values(tmp_path / "whole")
    for name in ("checkpoints/images-000003200/model", "state/images-000003200/state"):
        file = f"trials/t/{name}.safetensors"
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_an_interrupted_trial_says_so_and_a_finished_one_does_nothing_more(tmp_path):
    config = build_config(SMALL)
    prepare(config, tmp_path)

    def stop(report):
        if report.images == 960:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(config, tmp_path, "t", on_report=stop)
    assert (read_trial(tmp_path, "t").status, read_trial(tmp_path, "t").reason) == ("stopped", "interrupted")
    run_trial(config, tmp_path, "t")
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "trials").rglob("*.safetensors")}
    again = run_trial(config, tmp_path, "t")
    assert again.status == "completed"
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "trials").rglob("*.safetensors")}


def test_a_diverged_trial_is_recorded_with_its_reason_and_keeps_no_broken_state(tmp_path, monkeypatch):
    config = build_config(SMALL)
    prepare(config, tmp_path)
    observe = trial_module.observe

    def broken(*args):
        observed = observe(*args)
        observed.images[0] = math.nan
        return observed

    monkeypatch.setattr(trial_module, "observe", broken)
    with pytest.raises(TrainingDiverged):
        run_trial(config, tmp_path, "t")
    record = read_trial(tmp_path, "t")
    assert record.status == "failed"
    assert "not finite at 320 images" in record.reason
    assert not (tmp_path / "trials" / "t" / "state").exists()
    events = EventAccumulator(str(tmp_path / "trials" / "t"))
    events.Reload()
    assert math.isnan(events.Scalars("objective/memorization")[-1].value)  # so HPARAMS shows it


def test_other_data_or_other_evaluation_settings_are_refused(tmp_path):
    config, _ = finished(tmp_path)
    for changes, words in (
        ({"data.split_seed": 1}, "other images"),
        ({"evaluation.quantile": 0.05}, "other evaluation"),
    ):
        with pytest.raises(UserError, match=words):
            run_trial(build_config(SMALL, changes), tmp_path, "u")
    model, _, _ = load_model(tmp_path / "trials" / "t" / "checkpoints" / "images-000003200")
    with pytest.raises(UserError, match="not the images"):
        evaluate_model(model, config, "somethingelse")


def test_gpus_that_are_not_there_are_refused(tmp_path):
    if torch.cuda.is_available():
        return
    with pytest.raises(UserError, match=r"resources.gpus: 1.0 asked for"):
        prepare(build_config(SMALL, {"resources.gpus": 1}), tmp_path)


def test_sample_i_depends_on_the_seed_and_i_alone():
    config = build_config(SMALL)
    denoise = lambda x, s: 0.5 * x  # noqa: E731
    many = generate(config, denoise, (1, 8, 8), 40, 3)
    few = generate(config, denoise, (1, 8, 8), 5, 3)
    assert torch.equal(many["zero"][:5], few["zero"])
    assert not torch.equal(many["zero"][:5], generate(config, denoise, (1, 8, 8), 5, 4)["zero"])
    assert many["zero"].shape == (40, 1, 8, 8)


def test_tensorboard_sees_scalars_pictures_and_both_objectives(tmp_path):
    finished(tmp_path)
    events = EventAccumulator(str(tmp_path / "trials" / "t"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/lr", "zero/fd_pixels", "observed/mem_excess", "objective/fidelity"} <= set(
        tags["scalars"]
    )
    assert [s.step for s in events.Scalars("zero/fd_pixels")] == [1600, 3200]
    assert {"samples above nearest training images/zero", "samples above nearest training images/observed"} <= set(
        tags["images"]
    )
    assert [s.value for s in events.Scalars("zero/fd_pixels")] == pytest.approx(
        [values(tmp_path)[n, "zero"]["fd_pixels"] for n in (1600, 3200)], rel=1e-6
    )


def test_sigterm_during_training_leaves_a_folder_to_go_on_from(tmp_path):
    """The command line turns SIGTERM into an orderly end; here a real process gets it."""
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(SMALL | {"training": SMALL["training"] | {"images": 32 * 20_000, "checkpoints": 1000}}))
    command = [sys.executable, "-m", "ambient_sweep", "train", str(file), "--storage", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "c" / "trials" / "train" / "state"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines() == ["error: interrupted; `train` and `resume` go on from the last saved state"]
    assert read_trial(tmp_path / "c", "train").status == "stopped"
