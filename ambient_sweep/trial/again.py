"""A checkpoint measured once more, on samples of another seed: what chance in sampling does to a candidate."""

import time
from pathlib import Path

from ambient_sweep.config import build_config
from ambient_sweep.evaluation import evaluate
from ambient_sweep.training.state import load_model
from ambient_sweep.trial.records import (
    EvaluationRecord,
    again_path,
    read_trial,
    write_again,
)
from ambient_sweep.trial.samples import class_counts, generate
from ambient_sweep.trial.setup import cached_data, device_of, shared_reference, use_threads


def is_evaluated_again(root: Path, trial_id: str, images: int, seed: int) -> bool:
    """Whether a checkpoint was measured on samples of `seed` at all its endpoints."""
    config = build_config(read_trial(root, trial_id).config, where=trial_id)
    return all(again_path(root, trial_id, images, endpoint, seed).exists() for endpoint in config.endpoints())


def evaluate_again(root: Path, trial_id: str, images: int, checkpoint: Path, seed: int) -> list[EvaluationRecord]:
    """Measures a trial's checkpoint on evaluation.samples fresh samples and writes a record for each endpoint.

    Raises UserError for a checkpoint that is missing or damaged, and where the images are others than the sweep's.
    """
    config = build_config(read_trial(root, trial_id).config, where=trial_id)
    use_threads(config)
    device = device_of(config)
    reference, e = shared_reference(config, root), config.evaluation
    counts = class_counts(config, cached_data(config.data))
    denoiser, _, notes = load_model(checkpoint, device)
    begun = time.perf_counter()
    shape = tuple(notes["shape"])
    samples = generate(config, denoiser, shape, e.samples, seed, device=device, counts=counts)
    seconds = (time.perf_counter() - begun) / len(samples)
    records = []
    for endpoint, generated in samples.items():
        begun = time.perf_counter()
        record = EvaluationRecord(
            trial_id=trial_id,
            images=images,
            fraction=images / config.images_at(1.0),
            endpoint=endpoint,
            main_endpoint=endpoint == config.main_endpoint(),
            samples=e.samples,
            seed=seed,
            seconds=seconds + time.perf_counter() - begun,
            measures=evaluate(generated, reference, device=device),
            fidelity=e.fidelity,
            memorization=e.memorization,
            checkpoint=checkpoint.relative_to(root).as_posix(),
        )
        write_again(root, record)
        records.append(record)
    return records
