"""One trial in its folder: complete, resumable after a kill, and the same numbers every time."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ambient_sweep.config import EvaluationConfig, build_config, dump
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.errors import TrainingDiverged, UserError
from ambient_sweep.models import describe
from ambient_sweep.training import files as files_module
from ambient_sweep.training.state import load_model
from ambient_sweep.trial import run as run_module
from ambient_sweep.trial.checkpoint_evaluation import evaluate_checkpoint
from ambient_sweep.trial.records import read_trial, read_trial_evaluations, trial_path
from ambient_sweep.trial.run import Interrupted, run_trial
from ambient_sweep.trial.setup import prepare

MEMORIZATION = {"mem_excess", "mem_local_excess", "mem_ratio", "mem_excess_flips", "mem_ratio_flips"}
SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 32, "blocks": 1},
    "training": {"images": 3200, "batch_size": 32, "records": 10, "checkpoints": 10},
    "evaluation": {"samples": 40, "lengths": [0.5, 1.0], "batch_size": 16},
    "sampling.steps": 4,
    "consistency.start": 0.6,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a sweep with one finished trial, to be read."""
    root = tmp_path_factory.mktemp("whole") / "sweep"
    finished(root)
    return root


@pytest.fixture
def root(whole, tmp_path):
    """The same before its first trial."""
    return shutil.copytree(whole, tmp_path / "cut", ignore=shutil.ignore_patterns("trials"))


def finished(tmp_path, name="t", **changes):
    config = build_config(SMALL, changes)
    prepare(config, tmp_path)
    return config, run_trial(config, tmp_path, name)


def values(root, name="t"):
    return {
        (e.images, e.endpoint): {k: m.value for k, m in e.measures.items()} for e in read_trial_evaluations(root, name)
    }


def measured(model, config, fingerprint):
    """What `evaluate` says of a model, of all that a trial measures."""
    rows = evaluate_checkpoint(model, config, config.length, fingerprint).samples["zero"].rows
    return {row.name: row.measure.value for row in rows if row.name != "sim_excess"}


def saved(root, name="t"):
    """The names of the states, the newest first."""
    return sorted((p.name for p in (root / "trials" / name).glob("state/images-*")), reverse=True)


def assert_same_state(root, other):
    """The newest states and the last models are the same bytes."""
    for name in (f"state/{saved(other)[0]}/state", "checkpoints/images-000003200/model"):
        file = f"trials/t/{name}.safetensors"
        assert (root / file).read_bytes() == (other / file).read_bytes()


def test_the_folder_of_a_trial(whole):
    config, record, tmp_path = build_config(SMALL), read_trial(whole, "t"), whole
    assert (record.status, record.images_done, record.images_executed) == ("completed", 3200, 3200)
    assert record.config == dump(config)
    assert record.device_seconds > 0
    assert record.versions["torch"] == torch.__version__.split("+")[0]
    folder = tmp_path / "trials" / "t"
    evaluations = read_trial_evaluations(tmp_path, "t")
    assert [(e.images, e.fraction, e.endpoint, e.main_endpoint) for e in evaluations] == [
        (1600, 0.5, "observed", False),
        (1600, 0.5, "zero", True),
        (3200, 1.0, "observed", False),
        (3200, 1.0, "zero", True),
    ]
    for e in evaluations:
        assert set(e.measures) == {"fd_pixels", *EvaluationConfig().extras, *MEMORIZATION}
        assert all(m.low <= m.value <= m.high for m in e.measures.values())
        assert {name for name, m in e.measures.items() if m.n != 40} == {"recall", "coverage"}  # shares of real images
        assert (folder / "evaluations" / f"images-{e.images:09d}-{e.endpoint}.png").exists()
        _, again, meta = load_model(tmp_path / e.checkpoint)
        assert again == config
        assert meta["images"] == e.images
    split = json.loads((tmp_path / "split.json").read_text())
    assert len(split["train"]) == 150
    assert not {i["index"] for i in split["train"]} & {i["index"] for i in split["heldout"]}
    assert sorted(p.name for p in (folder / "state").iterdir()) == ["images-000002880", "images-000003200"]
    line, *measured = (folder / "log.txt").read_text().splitlines()
    wanted = [f"{e.images:,} images, sampled to {e.endpoint}" for e in evaluations]
    assert sorted(each.split(" ", 1)[1].partition(":")[0] for each in measured) == sorted(wanted)
    size, cost = line.split("; ")
    assert size.endswith(" " + describe(config.model, (1, 8, 8)))
    assert cost == "a step with consistency costs 1.45 plain steps"
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".part"))]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("zero/fd_pixels")] == [
        (n, pytest.approx(values(whole)[n, "zero"]["fd_pixels"], rel=1e-6)) for n in (1600, 3200)
    ]
    scalars = set(events.Tags()["scalars"])
    assert {"observed/mem_excess", "objective/fidelity"} <= scalars
    assert {name for name in scalars if name.startswith("train/")} == {
        f"train/{name}" for name in (
            "loss", "loss_above", "consistency", "consistency_weight", "gradient_norm", "lr", "images_per_second",
        )
    }  # fmt: skip
    for picture in ("samples above nearest training images/zero", "noised above denoised observations"):
        assert [image.step for image in events.Images(picture)] == [1600, 3200]


def test_stopping_earlier_passes_through_the_same_models(tmp_path, whole):
    """`best` hands over a config and a length: trained again, it gives the numbers of the table."""
    config, part = finished(tmp_path, **{"training.stop": 0.5, "evaluation.endpoints": ["observed"]})
    assert part.images_done == 1600
    assert evaluated_lengths(config) == {1600: 0.5}
    assert values(tmp_path)[1600, "observed"] == values(whole)[1600, "observed"]


def test_a_killed_trial_goes_on_and_ends_with_the_same_bits(root, whole):
    code = f"""
import os, signal
from pathlib import Path
from ambient_sweep.config import build_config
from ambient_sweep.trial.run import run_trial
def stop(images, evaluation):
    if images == 2240:  # a state was saved at 1,920
        os.kill(os.getpid(), signal.SIGKILL)
run_trial(build_config({SMALL!r}), Path({str(root)!r}), "t", on_report=stop)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    before = read_trial(root, "t")
    assert (before.status, before.images_executed) == ("running", 2240)
    record = run_trial(build_config(SMALL), root, "t")
    assert (record.status, record.images_executed) == ("completed", 2240 + 3200 - 1920)
    assert record.started == before.started
    assert values(root) == values(whole)
    assert_same_state(root, whole)


def test_an_interrupted_trial_saves_its_state_and_a_finished_one_does_nothing_more(root, whole):
    config = build_config(SMALL)
    asked, seen = [], []

    def watch(images, evaluation):
        seen.append(images)
        if images == 960:
            asked.append(True)

    words = "interrupted at 992 images; state saved; run the same command to go on"
    with pytest.raises(Interrupted, match=f"^{words}$") as caught:
        run_trial(config, root, "t", on_report=watch, interrupted=lambda: bool(asked))
    assert caught.value.exit_code == 75
    assert (read_trial(root, "t").status, read_trial(root, "t").reason) == ("stopped", words)
    assert seen[-2:] == [960, 992]  # the step that was begun, and no more
    assert saved(root)[0] == "images-000000992"
    trial_path(root, "t").unlink()
    record = run_trial(config, root, "t")
    assert (record.status, record.images_executed) == ("completed", 3200), "also where its record was lost"
    assert values(root) == values(whole)
    assert_same_state(root, whole)
    files = {p: p.stat().st_mtime_ns for p in (root / "trials").rglob("*.safetensors")}
    again = run_trial(config, root, "t", on_report=pytest.fail)
    assert again.status == "completed"
    assert files == {p: p.stat().st_mtime_ns for p in (root / "trials").rglob("*.safetensors")}


def test_an_evaluation_that_was_interrupted_comes_first_when_the_trial_goes_on(root, whole):
    config, tmp_path = build_config(SMALL), root
    calls = []

    def in_the_second_batch():
        calls.append(True)
        return len(calls) == 1600 / 32 + 2  # asked after each step, then before each batch of samples

    with pytest.raises(Interrupted, match="interrupted at 1,600 images; state saved"):
        run_trial(config, tmp_path, "t", interrupted=in_the_second_batch)
    assert not read_trial_evaluations(tmp_path, "t")
    seen = []
    run_trial(config, tmp_path, "t", on_report=lambda n, e: seen.append(e))
    assert seen[0].images == 1600
    assert values(tmp_path) == values(whole)


def test_a_full_disk_ends_the_trial_by_name_and_leaves_the_older_states(root, whole, monkeypatch):
    config = build_config(SMALL)
    save = files_module.save_file

    def full(tensors, file):
        if len(saved(root)) == 2 and "state" in str(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, file)

    monkeypatch.setattr(files_module, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_trial(config, root, "t")
    place = root / "trials" / "t" / "state"
    assert caught.value.filename == str(place / "images-000000960")
    assert [p.name for p in sorted(place.iterdir())] == ["images-000000320", "images-000000640"]
    reason = f"interrupted: {place / 'images-000000960'}: No space left on device"
    assert (read_trial(root, "t").status, read_trial(root, "t").reason) == ("stopped", reason)
    monkeypatch.undo()
    run_trial(config, root, "t")
    assert_same_state(root, whole)


# -- divergence -------------------------------------------------------------------------------------------------------


def test_a_diverged_trial_is_recorded_with_its_reason_and_keeps_no_broken_state(root, monkeypatch):
    config, tmp_path = build_config(SMALL), root
    observe = run_module.observe

    def broken(*args):
        observed = observe(*args)
        observed.images[0] = math.nan
        return observed

    monkeypatch.setattr(run_module, "observe", broken)
    with pytest.raises(TrainingDiverged):
        run_trial(config, tmp_path, "t")
    record = read_trial(tmp_path, "t")
    assert record.status == "failed"
    assert "not finite at 320 images" in record.reason
    assert (record.images_done, record.images_executed) == (320, 320)
    assert not (tmp_path / "trials" / "t" / "state").exists()
    events = EventAccumulator(str(tmp_path / "trials" / "t"))
    events.Reload()
    assert set(events.PluginTagToContent("hparams")) == {f"_hparams_/session_{part}_info" for part in ("start", "end")}


# -- power averages and classes ---------------------------------------------------------------------------------------


def test_a_conditional_model_is_sampled_with_the_classes_it_was_trained_on(tmp_path):
    conditional = {"model.conditional": True, "model.label_dropout": 0.2, "sampling.guidance": 1.5}
    config, _ = finished(tmp_path, **conditional)
    model, _, meta = load_model(tmp_path / "trials" / "t" / "checkpoints" / "images-000003200")
    counts = meta["class_counts"]
    assert meta["classes"] == len(counts) == 10
    assert sum(counts) == 150
    assert measured(model, config, meta["data_fingerprint"]) == values(tmp_path)[3200, "zero"]
    plain = build_config(dump(config), {"sampling.guidance": 1.0})
    assert measured(model, plain, meta["data_fingerprint"]) != values(tmp_path)[3200, "zero"]


def test_other_data_or_other_evaluation_settings_are_refused(root):
    for changes, words in (
        ({"data.split_seed": 1}, "other images"),
        ({"evaluation.quantile": 0.05}, "other evaluation"),
    ):
        with pytest.raises(UserError, match=words):
            run_trial(build_config(SMALL, changes), root, "u")


def test_gpus_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"resources.gpus: 1.0 asked for"):
        prepare(build_config(SMALL, {"resources.gpus": 1}), tmp_path)
