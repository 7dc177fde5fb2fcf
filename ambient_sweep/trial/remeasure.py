"""A checkpoint measured again, on samples of another seed: what chance in sampling does to a candidate."""

from pathlib import Path

from ambient_sweep.config import build_config
from ambient_sweep.training.state import load_model
from ambient_sweep.trial.evaluations import measured
from ambient_sweep.trial.records import EvaluationRecord, read_trial, write_remeasurement
from ambient_sweep.trial.retention import train_again
from ambient_sweep.trial.samples import class_counts
from ambient_sweep.trial.setup import cached_data, device_of, shared_reference, use_threads


def remeasure(
    root: Path, trial_id: str, images: int, checkpoint: Path, seed: int, samples: int
) -> list[EvaluationRecord]:
    """Measures a trial's checkpoint on so many fresh samples and writes a record for each endpoint.

    A checkpoint that was removed when the sweep ended is trained again first. Raises UserError for one that is missing or
    damaged, and where the images are others than the sweep's.
    """
    if not checkpoint.exists():
        train_again(root, trial_id, checkpoint)
    config = build_config(read_trial(root, trial_id).config, {"evaluation.samples": samples}, where=trial_id)
    use_threads(config)
    denoiser, _, notes = load_model(checkpoint, device_of(config))
    counts, reference = class_counts(config, cached_data(config.data)), shared_reference(config, root)
    records = []
    for _, record in measured(
        config, trial_id, images, denoiser, tuple(notes["shape"]), reference, counts, seed=seed
    ):  # fmt: skip
        write_remeasurement(root, record)
        records.append(record)
    return records
