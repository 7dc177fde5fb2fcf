import io
from pathlib import Path

import numpy as np
import pytest
from hparams_tab import tab
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2

from ambient_sweep.config import build_config, knobs
from ambient_sweep.sweep.board import MORE, begin_board, differing, show_frontier
from ambient_sweep.sweep.outcomes import mark
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.space.file import load_sweep
from ambient_sweep.trial.tensorboard import FIDELITY_TAG, MEMORIZATION_TAG, TrialBoard, hparam_values

CONFIGS = [
    build_config({"observed.sigma": 0.2, "data.heldout_size": 300}),
    build_config({"observed.sigma": 0.5, "data.flip": True}),
]
SWEEP = """
base: {data: {train_size: 150}}
space:
  objective.kind: {choice: [ambient, ambient_consistency]}
  observed.sigma: {uniform: [0.1, 0.5]}
controls: [{label: fast, set: {optimizer.lr: 0.002, training.batch_size: 64}}]
baseline: {seeds: [0, 1]}
confirm: {seeds: 2}
"""


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP)
    return load_sweep(path)


def load(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def points(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_scalars_and_pictures_come_back_and_resuming_hides_what_a_cut_off_run_wrote_later(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    board = TrialBoard(tmp_path, CONFIGS[0], "search")
    for images in (64, 128, 192, 256):
        board.scalars(images, {"loss": float(images), "lr": 0.25, "unknown": None})
    board.picture(128, "samples/zero", png(pixels))
    board.close()
    board = TrialBoard(tmp_path, CONFIGS[0], "search", resume_at=160)
    board.scalars(192, {"loss": -1.0})
    board.close()
    events = load(tmp_path)
    assert points(events, "loss") == [(64, 64.0), (128, 128.0), (192, -1.0)]
    assert points(events, "lr") == [(64, 0.25), (128, 0.25)]
    assert "unknown" not in events.Tags()["scalars"]
    (picture,) = events.Images("samples/zero")
    assert picture.step == 128
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), pixels)


def test_the_hparams_tab_lists_every_trial_with_both_objectives_and_the_searched_keys_first(tmp_path, sweep) -> None:
    begin_board(sweep, tmp_path)
    endings = ["completed", "stopped", "failed", "running"]
    for i, ending in enumerate(endings):
        config = sweep.config_for({"objective.kind": "ambient", "observed.sigma": 0.125 * (i + 1)})
        board = TrialBoard(tmp_path / "trials" / ending, config, "search")
        for images, *values in ((64, 90.0, 0.0), (128, 30.0 + i, 0.25)):
            board.scalars(images, dict(zip((FIDELITY_TAG, MEMORIZATION_TAG), values, strict=True)))
        board.close() if ending == "running" else board.end(ending)
    values = {"objective.kind": "ambient", "observed.sigma": 0.4375}
    mark(tmp_path, SweepTrial("search", values, trial_id="never"), sweep.config_for(values), "failed", "no memory")
    experiment, rows = tab(tmp_path)
    assert [info.name for info in experiment.hparam_infos] == [
        "objective.kind", "observed.sigma", "optimizer.lr", "role", "seed",
    ]  # fmt: skip
    assert [(info.name.tag, info.display_name) for info in experiment.metric_infos] == [
        (FIDELITY_TAG, "fidelity (fd_pixels)"), (MEMORIZATION_TAG, "memorization (mem_excess)"),
    ]  # fmt: skip
    assert rows.keys() == {f"trials/{name}" for name in (*endings, "never")}
    for i, ending in enumerate(endings):
        row = rows[f"trials/{ending}"]
        assert {m.name.tag: m.value for m in row.metric_values} == {FIDELITY_TAG: 30.0 + i, MEMORIZATION_TAG: 0.25}
        assert row.hparams["observed.sigma"].number_value == 0.125 * (i + 1)
        assert row.hparams.keys() == {info.name for info in experiment.hparam_infos}
    status = {name: api_pb2.Status.Name(row.sessions[0].status) for name, row in rows.items()}
    assert [status[f"trials/{name}"].partition("_")[2] for name in (*endings, "never")] == [
        "SUCCESS", "SUCCESS", "FAILURE", "UNKNOWN", "FAILURE",
    ]  # fmt: skip


def test_a_single_training_shows_every_key(tmp_path: Path) -> None:
    TrialBoard(tmp_path / "trials" / "run", CONFIGS[0], "control").end("completed")
    experiment, rows = tab(tmp_path)
    assert {info.name for info in experiment.hparam_infos} == {*knobs(), "role"}
    assert list(rows) == ["trials/run"]


def test_columns_beside_the_searched_ones_are_few_and_differ(sweep, tmp_path) -> None:
    numbers = {key: field.default for key, field in knobs().items() if isinstance(field.default, float)}
    wanted = ("optimizer", "noise")
    changes = ", ".join(f"{key}: {value * 0.9}" for key, value in numbers.items() if key.startswith(wanted))
    path = tmp_path / "many.yaml"
    more = "sampling.steps: 20, sampling.rho: 6, sampling.guidance: 1.5, model.width: 64, training.images: 6400"
    path.write_text(SWEEP.replace("optimizer.lr: 0.002", f"{changes}, {more}"))
    found = differing(load_sweep(path))
    assert len(found) == len(set(found)) == MORE
    assert differing(sweep) == ["role", "seed", "optimizer.lr"], "training.batch_size is the same in all trials"


def test_the_sweeps_own_run_shows_the_frontier(tmp_path, sweep) -> None:
    begin_board(sweep, tmp_path)
    show_frontier(tmp_path, 64, png(np.zeros((4, 6, 3), np.uint8)))
    show_frontier(tmp_path, 128, png(np.ones((4, 6, 3), np.uint8)))
    events = load(tmp_path / "sweep")
    assert [image.step for image in events.Images("frontier")] == [64, 128]
    assert list(events.PluginTagToContent("hparams")) == ["_hparams_/experiment"]


def test_every_value_is_shown_with_one_type_in_all_trials() -> None:
    first, second = (hparam_values(config) for config in CONFIGS)
    assert list(first) == list(knobs())
    assert {key: type(value) for key, value in first.items()} == {key: type(value) for key, value in second.items()}
    assert set(map(type, first.values())) == {float, str}
    expected = {
        "observed.sigma": 0.2, "training.images": 200_000.0, "data.heldout_size": "300", "data.path": "None",
        "data.flip": "False", "evaluation.lengths": "[0.25, 0.5, 0.75, 1.0]", "model.kind": "unet",
    }  # fmt: skip
    assert {key: first[key] for key in expected} == expected
    assert (second["data.heldout_size"], second["data.flip"]) == ("None", "True")
