"""A trial's TensorBoard events: scalars, image grids, and hyperparameters with both objectives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ambient_sweep.config import Config, dump, knobs

FIDELITY_TAG = "objective/fidelity"
MEMORIZATION_TAG = "objective/memorization"


class TrialBoard:
    """Writes event files into the trial's own folder; steps are images.

    `resume_at`: the position in images from which training goes on; events written there or later by a run that was cut
    off are hidden. Raises OSError where the folder cannot be written.
    """

    def __init__(self, folder: Path, config: Config, *, resume_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config = config
        self._writer = SummaryWriter(str(folder), purge_step=resume_at)

    def scalars(self, images: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)
        self._writer.flush()

    def grid(self, images: int, name: str, pixels: Any) -> None:
        """One picture, uint8 [height, width, 3]."""
        self._writer.add_image(name, pixels, images, dataformats="HWC")
        self._writer.flush()

    def hparams(self, images: int, fidelity: float, memorization: float) -> None:
        """The config and both objectives, for the HPARAMS tab; call it at each evaluation of the main endpoint.

        The protos go into the trial's own run (SummaryWriter.add_hparams would make a further run below it), and the
        metrics are the scalars of the same tags, so the tab shows the newest values.
        """
        from torch.utils.tensorboard.summary import hparams

        metrics = {FIDELITY_TAG: fidelity, MEMORIZATION_TAG: memorization}
        for summary in hparams(hparam_values(self._config), metrics):  # type: ignore[no-untyped-call]
            self._writer._get_file_writer().add_summary(summary, images)  # type: ignore[no-untyped-call]
        self.scalars(images, metrics)

    def close(self) -> None:
        self._writer.close()


def hparam_values(config: Config) -> dict[str, float | str]:
    """All config values as numbers or strings, each key with one type in all trials, else TensorBoard hides runs."""
    values = dump(config)
    numbers = {key for key, knob in knobs().items() if knob.annotation in (int, float)}
    return {key: float(value) if key in numbers else str(value) for key, value in values.items()}
