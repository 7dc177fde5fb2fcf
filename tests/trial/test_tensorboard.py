import io
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups, metadata
from tensorboard.plugins.hparams.get_experiment import Handler as GetExperiment

from ambient_sweep.config import build_config, knobs
from ambient_sweep.trial.tensorboard import FIDELITY_TAG, MEMORIZATION_TAG, TrialBoard, hparam_values

CONFIGS = [
    build_config({"observed.sigma": 0.2, "data.heldout_size": 300}),
    build_config({"observed.sigma": 0.5, "data.flip": True}),
]


def load(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def points(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_scalars_and_pictures_come_back_and_resuming_hides_what_a_cut_off_run_wrote_later(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    board = TrialBoard(tmp_path, CONFIGS[0])
    for images in (64, 128, 192, 256):
        board.scalars(images, {"loss": float(images), "lr": 0.25})
    board.grid(128, "samples/zero", pixels)
    board.close()
    board = TrialBoard(tmp_path, CONFIGS[0], resume_at=160)
    board.scalars(192, {"loss": -1.0})
    board.close()
    events = load(tmp_path)
    assert points(events, "loss") == [(64, 64.0), (128, 128.0), (192, -1.0)]
    assert points(events, "lr") == [(64, 0.25), (128, 0.25)]
    (picture,) = events.Images("samples/zero")
    assert picture.step == 128
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), pixels)


def test_the_hparams_tab_shows_every_trial_with_both_objectives(tmp_path: Path) -> None:
    for i, config in enumerate(CONFIGS):
        board = TrialBoard(tmp_path / f"trial-{i}", config)
        board.hparams(64, 90.0, 0.0)
        board.hparams(128, 30.0 + i, 0.25)
        board.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial-0", "trial-1"], "no further runs"
    assert not [path for path in tmp_path.glob("*/*") if path.is_dir()]
    plugin = load(tmp_path / "trial-0").PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["observed.sigma"].number_value == 0.2
    assert metadata.EXPERIMENT_TAG in plugin
    assert metadata.SESSION_END_INFO_TAG in plugin

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    backend = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))
    context = RequestContext()
    experiment = GetExperiment(context, backend, "", api_pb2.GetExperimentRequest()).run()
    assert {info.name for info in experiment.hparam_infos} == set(knobs())
    assert {info.name.tag for info in experiment.metric_infos} == {FIDELITY_TAG, MEMORIZATION_TAG}
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING]
    columns = [api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos]
    columns += [api_pb2.ColParams(hparam=info.name, include_in_result=True) for info in experiment.hparam_infos]
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, col_params=columns, slice_size=10)
    groups = list_session_groups.Handler(context, backend, "", request).run().session_groups
    shown = {
        group.hparams["observed.sigma"].number_value: {m.name.tag: m.value for m in group.metric_values}
        for group in groups
    }
    assert shown == {
        0.2: {FIDELITY_TAG: 30.0, MEMORIZATION_TAG: 0.25},
        0.5: {FIDELITY_TAG: 31.0, MEMORIZATION_TAG: 0.25},
    }
    assert {group.hparams["data.heldout_size"].string_value for group in groups} == {"300", "None"}


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
