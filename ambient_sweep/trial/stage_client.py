"""What one trial takes from the stages of its sweep, and what it stores there.

Anything missing, damaged, or made by another version of torch or on another kind of device, the trial trains and evaluates
itself: a stage only ever saves work.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from ambient_sweep.config.positions import evaluated_lengths, snapshot_images
from ambient_sweep.errors import UserError
from ambient_sweep.stages.keys import data_key, evaluation_part, fork_points, images_of, prefix_of
from ambient_sweep.stages.stages import STATE, Gone, Stages
from ambient_sweep.training.files import read_tensors
from ambient_sweep.training.posthoc_ema import SNAPSHOT, save_snapshot, snapshot_folder
from ambient_sweep.training.state import Tensors, TrainState, read_state, save_model, state_name
from ambient_sweep.trial.evaluations import Evaluator
from ambient_sweep.trial.recorder import TrialRecorder
from ambient_sweep.trial.records import (
    EvaluationRecord,
    checkpoint_folder,
    evaluation_path,
    read_evaluation,
    write_evaluation,
)

T = TypeVar("T")


def made_with(device: torch.device) -> dict[str, str]:
    """What bits depend on beside the config: only where it is the same is a stage the trial's own training."""
    kind = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {"torch": torch.__version__, "device": f"{device.type} {kind}"}


class StageClient:
    """One trial's access to the stages. Every worker has one."""

    def __init__(self, stages: Stages, state: TrainState, recorder: TrialRecorder, evaluator: Evaluator) -> None:
        config = state.config
        self.stages, self.state, self.recorder, self.evaluator = stages, state, recorder, evaluator
        self.config, self.prefix, self.data = config, prefix_of(config), data_key(stages.root)
        self.made_with = made_with(state.device)
        self.first = state.group.rank == 0  # the worker that looks for stages and stores them
        self.points = frozenset(fork_points(config, stages.every_length))
        self.lengths = tuple(evaluated_lengths(config))
        self.snapshots = snapshot_images(config)
        self._passed_over: set[tuple[str, str]] = set()  # parts found to be unusable

    def key(self, images: int) -> str:
        return self.prefix.key(images, self.data)

    # -- taking -----------------------------------------------------------------------------------------------------

    def ahead(self) -> int | None:
        """Images of the longest stored state of this very run beyond its position, with all that lies between.

        The same on every worker; None where there is none.
        """
        return self.state.group.broadcast(self._longest() if self.first else None)

    def _longest(self) -> int | None:
        after = self.state.images
        try:
            stored = self.stages.stored()
        except OSError as error:
            self.recorder.note(f"stages: {error.filename}: {error.strerror}; going on without them")
            return None
        limit = min(self._first_missing(after), self.prefix.last)
        positions = {images_of(key) for key in stored if after < images_of(key) <= limit}
        return max((n for n in positions if self.key(n) in stored and self._there(n, STATE)), default=None)

    def _first_missing(self, after: int) -> int:
        """The first position beyond `after` that the trial must come to itself, to evaluate or to make a snapshot."""
        missing = [
            n for n in self.lengths if n > after and not self._evaluated(n) and not self._there(n, self._part(n))
        ]
        missing += [n for n in self.snapshots if n > after and not self._kept(n) and not self._there(n, SNAPSHOT)]
        return min(missing, default=self.prefix.last)

    def take(self, images: int) -> bool:
        """Brings the trial to the stored state after `images`, with the evaluations and snapshots before it.

        Each evaluation on the way is reported as soon as the trial has it; the report may raise, and nothing beyond that
        length is taken. Every worker calls it. False, and the state stays as it is, where something is unusable.
        """
        record, after = self.recorder.record, self.state.images
        found = self._found(after, images)
        if found is None:
            self.recorder.stands(after, record.stage, record.forked_at)
            return False
        tensors, meta = found
        self.state.restore(Path(self.key(images)), tensors, meta | {"config": self.config.model_dump(mode="json")})
        self.recorder.note(f"goes on from {images:,} images, which another trial trained (stage {self.key(images)})")
        self.recorder.stands(images, self.key(images), images)
        return True

    def _found(self, after: int, images: int) -> tuple[Tensors, dict[str, Any]] | None:
        """The state after `images`, once the trial has taken all before it; None, on every worker, where one cannot."""
        group = self.state.group
        found = self._reading(images, STATE, read_state)
        failed = torch.tensor([float(found is None)], device=self.state.device)
        if group.max(failed).item() > 0:  # for one of the workers, and so for all
            self._passed_over.add((self.key(images), STATE))
            return None
        taken = not self.first or (self._take_snapshots(after, images) and self._take_evaluations(after, images))
        return found if group.broadcast(taken) else None

    def _take_snapshots(self, after: int, images: int) -> bool:
        """What the trial would have made on its way is there before it saves the state; so it may be cut off anywhere."""
        for n in self.snapshots:
            if after < n < images and not self._kept(n):
                tensors = self._reading(n, SNAPSHOT, lambda folder: read_tensors(folder, SNAPSHOT, "cpu")[0])
                if tensors is None:
                    return False
                save_snapshot(self.recorder.folder, self.config, tensors, n, self.evaluator.notes)
        return True

    def _take_evaluations(self, after: int, images: int) -> bool:
        for n in self.lengths:
            if after < n < images:
                if not (self._evaluated(n) or self.take_evaluation(n)):
                    return False
                self.recorder.stands(n, self.key(n), n)
                for endpoint in self.config.endpoints(n):
                    self.recorder.evaluated(read_evaluation(self._file(n, endpoint), self.recorder.trial_id))
        return True

    def take_evaluation(self, images: int) -> bool:
        """Takes over the evaluations after `images` as this trial's own; False where there are none, or it has them.

        A record that the trial has stays: only the checkpoint may be missing, as after the end of a sweep.
        """
        if not self.first or self._evaluated(images) or not self._there(images, self._part(images)):
            return False

        def read(folder: Path) -> tuple[Tensors, list[EvaluationRecord], list[bytes]]:
            tensors = read_tensors(folder, "model", "cpu", meta_name="checkpoint")[0]
            endpoints = self.config.endpoints(images)
            records = [read_evaluation(folder / f"{endpoint}.json") for endpoint in endpoints]
            return tensors, records, [(folder / f"{endpoint}.png").read_bytes() for endpoint in endpoints]

        found = self._reading(images, self._part(images), read)
        if found is None:
            return False
        tensors, records, pictures = found
        save_model(self._checkpoint(images), tensors, self.config, images, self.state.shape, self.evaluator.notes)
        for record, picture in zip(records, pictures, strict=True):
            self.recorder.picture(images, record.endpoint, picture)
            if not self._file(images, record.endpoint).exists():
                write_evaluation(self.recorder.root, self.evaluator.own(record))
        return True

    def _reading(self, images: int, part: str, read: Callable[[Path], T]) -> T | None:
        """read(folder) of a part; None where it is gone and, with a line for the user, where it is unusable."""
        key = self.key(images)
        try:
            with self.stages.reading(key, part) as (folder, notes):
                if notes["made_with"] == self.made_with:
                    return read(folder)
                words = " on ".join(notes["made_with"].values())
                self._pass_over(key, part, f"made by torch {words}, unlike here; going on without it")
        except Gone:
            pass
        except UserError as error:
            self._pass_over(key, part, f"{error}; going on without it")
            if self.first:
                with suppress(OSError):
                    self.stages.remove(key, part)  # so that a sound one can take its place
        except OSError as error:
            self._pass_over(key, part, f"{error.filename}: {error.strerror}; going on without it")
        return None

    def _pass_over(self, key: str, part: str, why: str) -> None:
        self._passed_over.add((key, part))
        self.recorder.note(f"stage {key}, {part}: {why}")

    def _there(self, images: int, part: str) -> bool:
        key = self.key(images)
        return (key, part) not in self._passed_over and self.stages.has(key, part)

    # -- storing ----------------------------------------------------------------------------------------------------

    def publish(self, place: Path) -> None:
        """Stores the state as it stands, saved in `place`, and all evaluations and snapshots up to it.

        If the store cannot be written, the user gets a line and the trial goes on.
        """
        images = self.state.images
        if not self.first or images not in self.points:
            return
        try:
            for n in self.lengths:
                if n <= images:
                    self._put(n, self._part(n), self._evaluation_files(n))
            for n in self.snapshots:
                if n <= images:
                    folder = snapshot_folder(self.recorder.folder, n)
                    self._put(n, SNAPSHOT, _files(folder, f"{SNAPSHOT}.safetensors", f"{SNAPSHOT}.json"))
            self._put(images, STATE, _files(place / state_name(images), "state.safetensors", "state.json"))
        except OSError as error:
            self.recorder.note(f"stage {self.key(images)}: not stored ({error.filename}: {error.strerror})")

    def _put(self, images: int, part: str, files: dict[str, Path]) -> None:
        """Stores a part, unless one of its files does not exist yet."""
        if all(file.exists() for file in files.values()):
            self.stages.put(self.key(images), part, files, {"made_with": self.made_with})

    def _evaluation_files(self, images: int) -> dict[str, Path]:
        files = _files(self._checkpoint(images), "model.safetensors", "checkpoint.json")
        for endpoint in self.config.endpoints(images):
            for suffix in (".json", ".png"):
                files[f"{endpoint}{suffix}"] = self._file(images, endpoint, suffix)
        return files

    # -- the trial's own --------------------------------------------------------------------------------------------

    def _part(self, images: int) -> str:
        return evaluation_part(self.config, images, self.evaluator.reference.settings.key)

    def _file(self, images: int, endpoint: str, suffix: str = ".json") -> Path:
        return evaluation_path(self.recorder.root, self.recorder.trial_id, images, endpoint, suffix)

    def _checkpoint(self, images: int) -> Path:
        return checkpoint_folder(self.recorder.root, self.recorder.trial_id, images)

    def _evaluated(self, images: int) -> bool:
        files = [self._file(images, endpoint) for endpoint in self.config.endpoints(images)]
        return all(path.exists() for path in (*files, self._checkpoint(images)))

    def _kept(self, images: int) -> bool:
        return snapshot_folder(self.recorder.folder, images).exists()


def _files(folder: Path, *names: str) -> dict[str, Path]:
    return {name: folder / name for name in names}
