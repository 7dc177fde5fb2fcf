"""The full evaluation of the averaged weights: samples, checkpoint, measures, pictures, records."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ambient_sweep.config import Config
from ambient_sweep.config.positions import evaluated_lengths, samples_at
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.evaluation.evaluator import evaluate
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.training.posthoc_ema import POOR, evaluated_average
from ambient_sweep.training.shards import whole
from ambient_sweep.training.state import TrainState, save_model
from ambient_sweep.trial.recorder import TrialRecorder
from ambient_sweep.trial.records import (
    EvaluationRecord,
    checkpoint_folder,
    evaluation_path,
    read_evaluation,
    write_evaluation,
)
from ambient_sweep.trial.samples import generate

GRID_SAMPLES = 32


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a trial's state where it stands; every worker calls it and makes a part of the samples."""

    recorder: TrialRecorder
    reference: Reference
    clean: ImageData
    counts: tuple[int, ...]  # of training images, per class, for a conditional model

    def __call__(self, state: TrainState, before_batch: Callable[[], None]) -> tuple[list[EvaluationRecord], bool]:
        """One evaluation per endpoint, on rank 0, and whether they are new; those of an earlier attempt are read.

        A checkpoint that is missing beside them, as after the end of a sweep, is written again. `before_batch` is called
        before each batch of samples, and may raise.
        """
        config, group, recorder, images = state.config, state.group, self.recorder, state.images
        root, trial_id = recorder.root, recorder.trial_id
        checkpoint = checkpoint_folder(root, trial_id, images)
        paths = [evaluation_path(root, trial_id, images, endpoint) for endpoint in config.endpoints()]
        done, saved = group.broadcast((all(path.exists() for path in paths), checkpoint.exists()))
        if done and saved:
            return [read_evaluation(path, trial_id) for path in paths], False
        begun = time.perf_counter()
        denoiser = self._averaged(state)
        if done:
            if group.rank == 0:
                save_model(checkpoint, denoiser, config, images, state.shape, self.notes)
            return [read_evaluation(path, trial_id) for path in paths], False
        e, device, count = config.evaluation, str(state.device), samples_at(config, images)
        samples = generate(
            config, denoiser, state.shape, count, e.seed, group, device, counts=self.counts, before_batch=before_batch
        )
        seconds = (time.perf_counter() - begun) / len(samples)
        if group.rank == 0:
            save_model(checkpoint, denoiser, config, images, state.shape, self.notes)
        records: list[EvaluationRecord] = []
        for endpoint, generated in samples.items():
            begun = time.perf_counter()
            measures = evaluate(generated, self.reference, device=device, group=group)
            if group.rank != 0:
                continue
            shown = generated[:GRID_SAMPLES]
            nearest = self.reference.nearest_train(to_uint8(shown), device).cpu().numpy()
            recorder.grid(images, endpoint, shown, self.clean.train.read(nearest.astype(np.int64)))
            record = evaluation_record(
                config, trial_id, images, endpoint, measures,
                samples=count, seed=e.seed, seconds=seconds + time.perf_counter() - begun,
            )  # fmt: skip
            write_evaluation(root, record)
            records.append(record)
        return records, True

    def own(self, record: EvaluationRecord) -> EvaluationRecord:
        """The evaluation that another trial made of the same weights and samples, as this trial would record it."""
        return evaluation_record(
            self.recorder.config, self.recorder.trial_id, record.images, record.endpoint, record.measures,
            samples=record.samples, seed=record.seed, seconds=record.seconds,
        )  # fmt: skip

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
        weights, residual = evaluated_average(state.config, tensors, self.recorder.folder, state.images)
        if residual > POOR:
            self.recorder.note(
                f"ema.length={state.config.ema.length} at {state.images:,} images: poorly represented by the snapshots "
                f"so far (relative error {residual:.0%} of its profile)"
            )
        return state.with_weights(weights)


def evaluation_record(
    config: Config,
    trial_id: str,
    images: int,
    endpoint: str,
    measures: dict[str, Measure],
    *,
    samples: int,
    seed: int,
    seconds: float,
) -> EvaluationRecord:
    """The record of a checkpoint's measures at one endpoint."""
    return EvaluationRecord(
        trial_id=trial_id,
        images=images,
        fraction=evaluated_lengths(config).get(images, images / config.images_at(1.0)),
        endpoint=endpoint,
        main_endpoint=endpoint == config.main_endpoint(),
        samples=samples,
        seed=seed,
        seconds=seconds,
        measures=measures,
        fidelity=config.evaluation.fidelity,
        memorization=config.evaluation.memorization,
        checkpoint=checkpoint_folder(Path(), trial_id, images).as_posix(),
    )
