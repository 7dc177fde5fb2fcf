"""A checkpoint measured again, on samples of another seed: what chance in sampling does to a candidate."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ambient_sweep.config import build_config
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.storage import locked, remove_whole
from ambient_sweep.training.state import load_model
from ambient_sweep.trial.evaluations import measured
from ambient_sweep.trial.records import (
    EvaluationRecord,
    evaluation_path,
    read_evaluation,
    read_trial,
    trial_folder,
    write_remeasurement,
    write_trial,
)
from ambient_sweep.trial.retention import STATE, check_kept
from ambient_sweep.trial.run import Interrupted, run_trial
from ambient_sweep.trial.samples import class_counts
from ambient_sweep.trial.setup import cached_data, shared_reference, use_device


def remeasure(
    root: Path, trial_id: str, images: int, checkpoint: Path, seed: int, samples: int, base: str | None = None
) -> list[EvaluationRecord]:
    """Measures a trial's checkpoint on so many fresh samples and writes a record for each endpoint.

    base: the folder that holds the base of LoRA now.
    A checkpoint that was removed when the sweep ended is trained again first. Raises UserError for one that is missing or
    damaged, and where the images are others than the sweep's.
    """
    moved = {} if base is None else {"model.base": base}
    fetch_folder(checkpoint)
    if not checkpoint.exists():
        _train_again(root, trial_id, checkpoint, moved)
    config = build_config(read_trial(root, trial_id).config, moved, {"evaluation.samples": samples}, where=trial_id)
    denoiser, _, notes = load_model(checkpoint, use_device(config), moved)
    counts, reference = class_counts(config, cached_data(config.data)), shared_reference(config, root)
    records = []
    for _, record in measured(
        config, trial_id, images, denoiser, tuple(notes["shape"]), reference, counts, seed=seed
    ):  # fmt: skip
        if config.is_distilled(images):  # only observations show what is wrong with one
            first = read_evaluation(evaluation_path(root, trial_id, images, record.endpoint))
            record = replace(record, problem=first.problem)
        write_remeasurement(root, record)
        records.append(record)
    return records


def _train_again(root: Path, trial_id: str, checkpoint: Path, moved: dict[str, str]) -> None:
    """Brings back a checkpoint that `discard` removed, to the same bits, by training the trial again up to there.

    The trial's record stays as it was, but for what was executed. Raises UserError for a trial of several workers.
    """
    with locked(trial_folder(root, trial_id) / ".trainer.lock", wait=True):
        before = read_trial(root, trial_id)
        config = build_config(before.config, moved, where=trial_id)
        if config.resources.workers > 1:  # only as many workers give the same bits
            check_kept(checkpoint)
        if checkpoint.exists() or not before.discarded:
            return
        with suppress(Interrupted):
            run_trial(
                config, root, trial_id,
                role=before.role, replicate_of=before.replicate_of, interrupted=checkpoint.exists,
            )  # fmt: skip
        after = read_trial(root, trial_id)
        spent = replace(before, images_executed=after.images_executed, device_seconds=after.device_seconds)
        write_trial(root, spent)
        remove_whole(trial_folder(root, trial_id) / STATE)
