"""The full evaluation of the averaged weights: samples, checkpoint, measures, pictures, records."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ambient_sweep.config import Config
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.evaluation import Measure, Reference, evaluate
from ambient_sweep.training.posthoc_ema import POOR, evaluated_average
from ambient_sweep.training.shards import whole
from ambient_sweep.training.state import TrainState, save_model
from ambient_sweep.trial.book import Book
from ambient_sweep.trial.examine import checked_data
from ambient_sweep.trial.records import (
    EvaluationRecord,
    evaluation_path,
    read_evaluation,
    trial_folder,
    write_evaluation,
)
from ambient_sweep.trial.samples import class_counts, generate, samples_at
from ambient_sweep.trial.setup import device_of, evaluated_lengths, use_threads

GRID_SAMPLES = 32


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a trial's state where it stands; every worker calls it and makes a part of the samples."""

    book: Book
    reference: Reference
    clean: ImageData
    counts: tuple[int, ...]

    def __call__(self, state: TrainState, before_batch: Callable[[], None]) -> tuple[list[EvaluationRecord], bool]:
        """One evaluation per endpoint, on rank 0, and whether they are new; those of an earlier attempt are read.

        `before_batch` is called before each batch of samples, and may raise.
        """
        config, group, book, images = state.config, state.group, self.book, state.images
        paths = [evaluation_path(book.root, book.trial_id, images, endpoint) for endpoint in config.endpoints()]
        if group.broadcast(all(path.exists() for path in paths)):
            return [read_evaluation(path, book.trial_id) for path in paths], False
        begun = time.perf_counter()
        e, shape, device = config.evaluation, state.shape, str(state.device)
        denoiser = self._averaged(state)
        count = samples_at(config, images)
        samples = generate(
            config, denoiser, shape, count, e.seed, group, device, counts=self.counts, before_batch=before_batch
        )
        seconds = (time.perf_counter() - begun) / len(samples)
        checkpoint = checkpoint_folder(book.root, book.trial_id, images)
        if group.rank == 0:
            save_model(checkpoint, denoiser, config, images, shape, self.notes)
        records: list[EvaluationRecord] = []
        for endpoint, generated in samples.items():
            begun = time.perf_counter()
            measures = evaluate(generated, self.reference, device=device, group=group)
            if group.rank != 0:
                continue
            shown = generated[:GRID_SAMPLES]
            nearest = self.reference.nearest_train(to_uint8(shown), 1, device)[1][:, 0].cpu().numpy()
            book.grid(images, endpoint, shown, self.clean.train.read(nearest.astype(np.int64)))
            record = EvaluationRecord(
                trial_id=book.trial_id,
                images=images,
                fraction=evaluated_lengths(config)[images],
                endpoint=endpoint,
                main_endpoint=endpoint == config.main_endpoint(),
                samples=count,
                seed=e.seed,
                seconds=seconds + time.perf_counter() - begun,
                measures=measures,
                fidelity=e.fidelity,
                memorization=e.memorization,
                checkpoint=checkpoint.relative_to(book.root).as_posix(),
            )
            write_evaluation(book.root, record)
            records.append(record)
        return records, True

    def own(self, record: EvaluationRecord) -> EvaluationRecord:
        """The evaluation that another trial made of the same weights and samples, with what this trial says of it."""
        book, config = self.book, self.book.config
        return replace(
            record,
            fraction=evaluated_lengths(config)[record.images],
            main_endpoint=record.endpoint == config.main_endpoint(),
            fidelity=config.evaluation.fidelity,
            memorization=config.evaluation.memorization,
            checkpoint=checkpoint_folder(book.root, book.trial_id, record.images).relative_to(book.root).as_posix(),
        )

    @property
    def notes(self) -> dict[str, object]:
        """What a checkpoint needs beside config and weights."""
        return {
            "data_fingerprint": self.reference.settings.data_fingerprint,
            "classes": len(self.counts),
            "class_counts": list(self.counts),
        }

    def _averaged(self, state: TrainState) -> Denoiser:
        """The averaged weights of ema.length, on every worker; reconstructed from the snapshots where it is not tracked."""
        if not state.averages.needs_reconstruction:
            return state.average
        tensors = {name: whole(tensor).cpu() for name, tensor in state.averages.tensors().items()}
        weights, residual = evaluated_average(state.config, tensors, self.book.folder, state.images)
        if residual > POOR:
            self.book.note(
                f"ema.length={state.config.ema.length} at {state.images:,} images: poorly represented by the snapshots "
                f"so far (relative error {residual:.0%} of its profile)"
            )
        return state.with_weights(weights)


def checkpoint_folder(root: Path, trial_id: str, images: int) -> Path:
    """Where the evaluated weights of a trial lie."""
    return trial_folder(root, trial_id) / "checkpoints" / f"images-{images:09d}"


def evaluate_model(denoiser: Denoiser, config: Config, data_fingerprint: str) -> dict[str, dict[str, Measure]]:
    """All measures of a trained model, per endpoint, against the images of `config`, which must be those it was made of.

    Raises UserError where they are not: `data_fingerprint` is that of its training.
    """
    use_threads(config)
    device = device_of(config)
    clean = checked_data(config, data_fingerprint)
    reference = Reference.build(clean, config.evaluation, device=device)
    e, counts = config.evaluation, class_counts(config, clean)
    samples = generate(config, denoiser.to(device), clean.shape, e.samples, e.seed, device=device, counts=counts)
    return {endpoint: evaluate(images, reference, device=device) for endpoint, images in samples.items()}


def remove_evaluations(root: Path, trial_id: str, images: int) -> None:
    """Removes the evaluations made after `images`: training went back there and will not pass through the same weights."""
    for path in (trial_folder(root, trial_id) / "evaluations").glob("images-*"):
        if int(path.name.split("-")[1].split(".")[0]) > images:
            path.unlink()
