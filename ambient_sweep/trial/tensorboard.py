"""TensorBoard events of trials and of the sweep: scalars, pictures, and the HPARAMS tab with both objectives."""

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ambient_sweep.config import Config, dump, knobs
from ambient_sweep.object_store import put

FIDELITY_TAG = "objective/fidelity"
MEMORIZATION_TAG = "objective/memorization"
ROLE = "role"  # shown beside the config's keys


class Board:
    """Writes event files into `folder`, a run of TensorBoard's; steps are images.

    `resume_at`: the position in images from which training goes on; events written there or later by a run that was cut
    off are hidden. Raises OSError where the folder cannot be written.
    """

    def __init__(self, folder: Path, *, resume_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder), purge_step=resume_at)

    def scalars(self, images: int, values: Mapping[str, float | None]) -> None:
        """Values by their tags; None: not known at this step."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, images)
        self._writer.flush()

    def picture(self, images: int, name: str, png: bytes) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._writer.add_image(name, pixels, images, dataformats="HWC")
        self._writer.flush()

    def columns(self, first: Collection[str], more: Collection[str], measures: tuple[str, str]) -> None:
        """Says which keys the HPARAMS tab shows: `first` and then `more`, each in the order of the alphabet, and no other.

        One run of a sweep may say so. measures: of fidelity and memorization.
        """
        from tensorboard.plugins.hparams import api_pb2

        kinds = {True: api_pb2.DATA_TYPE_FLOAT64, False: api_pb2.DATA_TYPE_STRING}
        infos = [  # TensorBoard puts those first that differ
            api_pb2.HParamInfo(name=key, type=kinds[key in _numbers()], differs=key in first) for key in (*first, *more)
        ]
        metrics = [
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=f"{tag.partition('/')[2]} ({measure})")
            for tag, measure in zip((FIDELITY_TAG, MEMORIZATION_TAG), measures, strict=True)
        ]
        self._hparams("experiment", api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics))

    def _hparams(self, kind: str, content: Any) -> None:
        """Adds what the HPARAMS tab reads: `experiment`, `session_start_info` or `session_end_info`.

        SummaryWriter.add_hparams would make a further run below this one.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData(**{kind: content})
        value = Summary.Value(tag=f"_hparams_/{kind}", metadata=metadata.create_summary_metadata(data))
        self._writer.file_writer.add_summary(Summary(value=[value]))  # type: ignore[attr-defined]
        self._writer.flush()

    def save(self) -> None:
        """Puts what was written into the object store, if the folder is in one."""
        self._writer.flush()
        for file in self._folder.glob("events.*"):
            put(file)

    def close(self) -> None:
        self._writer.close()
        self.save()


class TrialBoard(Board):
    """The events of a trial in its own folder. The HPARAMS tab lists it from the beginning, with its newest objectives."""

    def __init__(self, folder: Path, config: Config, role: str, *, resume_at: int | None = None) -> None:
        from tensorboard.plugins.hparams import plugin_data_pb2

        super().__init__(folder, resume_at=resume_at)
        start = plugin_data_pb2.SessionStartInfo()
        for key, value in ({ROLE: role} | hparam_values(config)).items():
            setattr(start.hparams[key], "number_value" if isinstance(value, float) else "string_value", value)
        self._hparams("session_start_info", start)

    def end(self, status: str) -> None:
        """Says how the trial ended, for good, and closes the files."""
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

        number = api_pb2.STATUS_FAILURE if status == "failed" else api_pb2.STATUS_SUCCESS
        self._hparams("session_end_info", plugin_data_pb2.SessionEndInfo(status=number))
        self.close()


def hparam_values(config: Config) -> dict[str, float | str]:
    """All config values as numbers or strings, each key with one type in all trials, else TensorBoard hides runs."""
    return {key: float(value) if key in _numbers() else str(value) for key, value in dump(config).items()}


def _numbers() -> set[str]:
    return {key for key, knob in knobs().items() if knob.annotation in (int, float)}
