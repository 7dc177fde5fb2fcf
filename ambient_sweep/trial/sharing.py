"""What one trial takes from the stages and gives to them.

What is missing or damaged there, is being written, or was made by another torch or on another kind of device, is trained and
evaluated by the trial itself: a stage only ever saves work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from ambient_sweep.errors import UserError
from ambient_sweep.stages.prefix import prefix_of
from ambient_sweep.stages.stages import NEEDS, STATE, Stages, evaluation_part, fork_points, images_of, made_with
from ambient_sweep.stages.store import DamagedPart, Gone
from ambient_sweep.training.files import read_tensors
from ambient_sweep.training.posthoc_ema import SNAPSHOT, save_snapshot, snapshot_folder, snapshot_images
from ambient_sweep.training.state import Tensors, TrainState, read_state, save_model
from ambient_sweep.training.state_files import state_name
from ambient_sweep.trial.book import Book
from ambient_sweep.trial.evaluations import Evaluator, checkpoint_folder
from ambient_sweep.trial.records import EvaluationRecord, adopt_evaluation, evaluation_path, write_evaluation
from ambient_sweep.trial.setup import evaluated_lengths

T = TypeVar("T")
State = tuple[Tensors, dict[str, Any]]


class Sharing:
    """One trial's part in it. Every worker has one; rank 0 alone looks and writes."""

    def __init__(self, stages: Stages, state: TrainState, data: str, book: Book, evaluator: Evaluator) -> None:
        config = state.config
        self.store, self.state, self.book, self.evaluator, self.data = stages.store, state, book, evaluator, data
        self.config, self.prefix = config, prefix_of(config)
        self.made_with = made_with(state.device)
        self.points = frozenset(fork_points(config, stages.every_length))
        self.lengths = tuple(evaluated_lengths(config))
        self.snapshots = snapshot_images(config)
        self._passed_over: set[tuple[str, str]] = set()  # parts that were found to be of no use

    def key(self, images: int) -> str:
        """The stage of this trial after `images`."""
        return self.prefix.key(images, self.data)

    # -- taking -----------------------------------------------------------------------------------------------------

    def ahead(self) -> int | None:
        """Images of the longest stored state of this very run beyond where it is, with all that lies between; else None."""
        after, stored = self.state.images, self._stored()
        limit = min(self._first_missing(after), self.prefix.last)
        candidates = {images_of(key) for key in stored if after < images_of(key) <= limit}
        for images in sorted(candidates, reverse=True):
            key = self.key(images)
            if key in stored and self._there(images, STATE):
                return images
        return None

    def _stored(self) -> set[str]:
        try:
            return self.store.stored()
        except OSError as error:
            self.book.note(f"stages: {error.filename}: {error.strerror}; going on without them")
            return set()

    def _first_missing(self, after: int) -> int:
        """The first image count beyond `after` that the trial must come to itself, to evaluate or make a snapshot."""
        missing = [
            n for n in self.lengths if n > after and not self._evaluated(n) and not self._there(n, self._part(n))
        ]
        missing += [n for n in self.snapshots if n > after and not self._kept(n) and not self._there(n, SNAPSHOT)]
        return min(missing, default=self.prefix.last)

    def take(self, images: int, tell: Callable[[int], None]) -> bool:
        """Brings the trial to the stored state after `images`, with the evaluations and snapshots before it.

        `tell` hears of every evaluated length on the way, as soon as the trial has it; it may raise, and nothing beyond that
        length is taken. Every worker calls it. False, and the state stays as it is, where something is gone or damaged.
        """
        group, key, after = self.state.group, self.key(images), self.state.images
        if not group.broadcast(group.rank != 0 or self._take_snapshots(after, images)):
            return False
        found = self._read_state(images)
        failed = torch.tensor([float(found is None)], device=self.state.device)
        if group.max(failed).item() > 0 or found is None:  # for one of the workers, and so for all
            self._passed_over.add((key, STATE))
            return False
        if not group.broadcast(group.rank != 0 or self._take_evaluations(after, images, tell)):
            return False
        tensors, meta = found
        self.state.restore(Path(key), tensors, meta | {"config": self.config.model_dump(mode="json")})
        return True

    def _take_snapshots(self, after: int, images: int) -> bool:
        """What the trial would have made on its way comes before the state, each whole; so it may be cut off anywhere."""
        return all(self._kept(n) or self._take_snapshot(n) for n in self.snapshots if after < n < images)

    def _take_evaluations(self, after: int, images: int, tell: Callable[[int], None]) -> bool:
        for n in self.lengths:
            if after < n < images:
                if not (self._evaluated(n) or self.take_evaluation(n)):
                    return False
                tell(n)
        return True

    def _read_state(self, images: int) -> State | None:
        def read(folder: Path) -> State:
            tensors, meta = read_state(folder)
            if (meta["images"], meta["rewinds"]) != (images, 0):
                raise DamagedPart(f"{folder}: is another state")
            return tensors, meta

        return self._reading(images, STATE, read)

    def _take_snapshot(self, images: int) -> bool:
        tensors = self._reading(images, SNAPSHOT, lambda folder: read_tensors(folder, SNAPSHOT, "cpu")[0])
        if tensors is None:
            return False
        save_snapshot(self.book.folder, self.config, tensors, images, self.notes)
        return True

    def take_evaluation(self, images: int) -> bool:
        """Takes over the evaluations after `images`, as this trial's own; False where that cannot be, or is done already."""
        if self._evaluated(images) or not self._there(images, self._part(images)):
            return False

        def read(folder: Path) -> tuple[Tensors, list[EvaluationRecord], list[bytes]]:
            tensors = read_tensors(folder, "model", "cpu", meta_name="checkpoint")[0]
            endpoints = self.config.endpoints()
            records = [adopt_evaluation(folder / f"{endpoint}.json", self.book.trial_id) for endpoint in endpoints]
            return tensors, records, [(folder / f"{endpoint}.png").read_bytes() for endpoint in endpoints]

        found = self._reading(images, self._part(images), read)
        if found is None:
            return False
        tensors, records, pictures = found
        checkpoint = checkpoint_folder(self.book.root, self.book.trial_id, images)
        denoiser = self.state.with_weights(tensors)
        save_model(checkpoint, denoiser, self.config, images, self.state.shape, self.evaluator.notes)
        for record, picture in zip(records, pictures, strict=True):
            self.book.picture(images, record.endpoint, picture)
            write_evaluation(self.book.root, self.evaluator.own(record))
        return True

    def _reading(self, images: int, part: str, read: Callable[[Path], T]) -> T | None:
        """read(folder) of a part; None where it is gone and, with a line for the user, where it is of no use."""
        key = self.key(images)
        try:
            with self.store.reading(key, part) as (folder, notes):
                if notes["made_with"] == self.made_with:
                    return read(folder)
                words = " on ".join(notes["made_with"].values())
                self._pass_over(key, part, f"made by torch {words}, other than here; going on without it")
        except Gone:
            pass
        except UserError as error:
            self._pass_over(key, part, f"{error}; going on without it")
            if self.state.group.rank == 0:
                with suppress(OSError):
                    self.store.remove(key, part)  # so that a sound one can take its place
        except OSError as error:
            self._pass_over(key, part, f"{error.filename}: {error.strerror}; going on without it")
        return None

    def _pass_over(self, key: str, part: str, why: str) -> None:
        self._passed_over.add((key, part))
        self.book.note(f"stage {key}, {part}: {why}")

    def _there(self, images: int, part: str) -> bool:
        key = self.key(images)
        try:
            return (key, part) not in self._passed_over and self.store.has(key, part)
        except OSError as error:
            self._pass_over(key, part, f"{error.filename}: {error.strerror}; going on without it")
            return False

    # -- giving -----------------------------------------------------------------------------------------------------

    def publish(self, place: Path) -> None:
        """Gives the state as it stands, saved in `place`, with what others need to go on from it."""
        images = self.state.images
        if images not in self.points:
            return
        key = self.key(images)
        with self._told(key):
            needs = {self.key(n) for n in self.lengths if n < images and self._publish_evaluation(n)}
            needs |= {self.key(n) for n in self.snapshots if n <= images and self._publish_snapshot(n)}
            folder, notes = place / state_name(images, 0), {NEEDS: sorted(needs - {key}), "made_with": self.made_with}
            names = ("state.safetensors", "state.json")
            self.store.put(key, STATE, {name: folder / name for name in names}, notes)

    def publish_evaluation(self, images: int) -> None:
        """Gives the evaluations of a state that others may take."""
        if images in self.points:
            with self._told(self.key(images)):
                self._publish_evaluation(images)

    def _publish_evaluation(self, images: int) -> bool:
        """False where the trial does not have them."""
        if not self._evaluated(images):
            return False
        root, trial_id = self.book.root, self.book.trial_id
        checkpoint = checkpoint_folder(root, trial_id, images)
        files = {name: checkpoint / name for name in ("model.safetensors", "checkpoint.json")}
        for endpoint in self.config.endpoints():
            for suffix in (".json", ".png"):
                files[f"{endpoint}{suffix}"] = evaluation_path(root, trial_id, images, endpoint, suffix)
        if not all(file.exists() for file in files.values()):
            return False
        self.store.put(self.key(images), self._part(images), files, {"made_with": self.made_with})
        return True

    def _publish_snapshot(self, images: int) -> bool:
        if not self._kept(images):
            return False
        folder, names = snapshot_folder(self.book.folder, images), (f"{SNAPSHOT}.safetensors", f"{SNAPSHOT}.json")
        files = {name: folder / name for name in names}
        self.store.put(self.key(images), SNAPSHOT, files, {"made_with": self.made_with})
        return True

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """A store that cannot be written is told of: the trial itself goes on."""
        try:
            yield
        except OSError as error:
            self.book.note(f"stage {key}: not stored ({error.filename}: {error.strerror})")

    # -- the trial's own --------------------------------------------------------------------------------------------

    @property
    def notes(self) -> dict[str, object]:
        return {"shape": list(self.state.shape), **self.evaluator.notes}

    def _part(self, images: int) -> str:
        return evaluation_part(self.config, images, self.evaluator.reference.key)

    def _evaluated(self, images: int) -> bool:
        paths = (evaluation_path(self.book.root, self.book.trial_id, images, e) for e in self.config.endpoints())
        return all(path.exists() for path in paths)

    def _kept(self, images: int) -> bool:
        return snapshot_folder(self.book.folder, images).exists()
