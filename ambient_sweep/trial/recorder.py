"""Records a trial while it runs: its trial.json, its log and its TensorBoard events, and reports to its caller."""

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ambient_sweep.config import dump, write_config
from ambient_sweep.models import count_parameters
from ambient_sweep.object_store import put, with_urls
from ambient_sweep.provenance import code_revision, versions
from ambient_sweep.storage import write_atomic
from ambient_sweep.text import sampled
from ambient_sweep.training.loop import Record
from ambient_sweep.training.state import TrainState
from ambient_sweep.trial.records import (
    UNUSABLE,
    EvaluationRecord,
    TrialRecord,
    evaluation_path,
    known_trial,
    trial_folder,
    write_trial,
)
from ambient_sweep.trial.tensorboard import FIDELITY_TAG, MEMORIZATION_TAG, TrialBoard

LOG = "log.txt"
# of a running trial to its caller, with its position in images; None: a training record
Report = Callable[[int, EvaluationRecord | None], None]


class TrialRecorder:
    """Keeps a trial's record, log and events up to date; only rank 0 writes and reports.

    `record` continues what an earlier attempt recorded. A stage that the trial took over counts only from when the trial
    saved its state: before, it takes the stage again.
    """

    def __init__(
        self,
        root: Path,
        trial_id: str,
        role: str,
        state: TrainState,
        reference_key: str,
        data_fingerprint: str,
        on_report: Report,
        echo: Callable[[str], None],
        replicate_of: str | None = None,
    ) -> None:
        config = state.config
        self.root, self.config, self.trial_id, self.writes = root, config, trial_id, state.group.rank == 0
        self.folder = trial_folder(root, trial_id)
        self._start, self._begun, self._workers = state.images, time.perf_counter(), state.group.size
        self._on_report, self._echo = on_report, echo
        before = known_trial(root, trial_id)
        self.record = TrialRecord(
            trial_id=trial_id,
            role=role,
            status="running",
            reason=None,
            config=dump(config),
            images_asked=config.length,
            images_done=state.images,
            images_executed=state.images,  # where the record was lost, and the state was not
            device_seconds=0.0,
            parameters=count_parameters(state.denoiser),
            device=torch.cuda.get_device_name() if state.device.type == "cuda" else "cpu",
            started=_now(),
            finished=None,
            data_fingerprint=data_fingerprint,
            reference_key=reference_key,
            versions=versions(),
            code_revision=code_revision(),
            replicate_of=replicate_of,
        )
        if before is not None:
            kept = ["images_executed", "device_seconds", "started", "discarded"]
            kept += ["reason"] if (before.reason or "").startswith(UNUSABLE) else []
            kept += ["stage", "forked_at"] if before.forked_at <= state.images else []
            taken = _until(before.taken, state.images)
            self.record = dataclasses.replace(
                self.record, taken=taken, **{name: getattr(before, name) for name in kept}
            )
        self._executed, self._seconds = self.record.images_executed, self.record.device_seconds
        if self.writes:
            write_config(config, self.folder / "config.yaml")
            write_trial(root, self.record)
            self._board = TrialBoard(self.folder, config, role, resume_at=state.images + 1 if before else None)

    def note(self, line: str) -> None:
        """One line for the user, and for the trial's log."""
        if self.writes:
            with (self.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(f"{_now()} {line}\n")
            self._echo(line)

    def reached(self, images: int) -> None:
        self._update(images_done=images)

    def training(self, record: Record) -> None:
        self.reached(record.images)
        if not self.writes:
            return
        values = {f"train/{name}": value for name, value in dataclasses.asdict(record).items() if name != "images"}
        self._board.scalars(record.images, values)
        self._on_report(record.images, None)

    def stands(self, images: int, stage: str | None, forked_at: int) -> None:
        """The trial is at `images` without having trained what lies between; `stage` is what it went on from last."""
        before, taken = self.record.images_done, self.record.taken
        self._executed += before - self._start
        self._start = images
        taken = _until(taken, images) if images <= before else (*taken, (before, images))
        self._update(images_done=images, stage=stage, forked_at=forked_at, taken=taken)

    def evaluated(self, evaluation: EvaluationRecord) -> None:
        """Also called for evaluations of an earlier attempt at lengths that the trial passes again.

        Those from before the sweep ended and the trial's states were discarded were reported then, and are not again.
        """
        if not self.writes:
            return
        values = {f"{evaluation.endpoint}/{name}": m.value for name, m in evaluation.measures.items()}
        if evaluation.main_endpoint:
            values[FIDELITY_TAG] = evaluation.measures[evaluation.fidelity].value
            values[MEMORIZATION_TAG] = evaluation.measures[evaluation.memorization].value
        self._board.scalars(evaluation.images, values)
        if evaluation.images > self.record.discarded:
            measures = ", ".join(f"{name} {measure.value:.4g}" for name, measure in evaluation.measures.items())
            self.note(f"{evaluation.images:,} images, {sampled(evaluation.endpoint)}: {measures}")
            self._board.save()
            if evaluation.problem is not None:
                self.note(evaluation.problem)
            self._update(reason=evaluation.problem)
            put(self.folder / LOG)
            self._on_report(evaluation.images, evaluation)

    def picture(self, images: int, endpoint: str, png: bytes) -> None:
        """The picture of an evaluation, as `image_grid` makes it."""
        write_atomic(evaluation_path(self.root, self.trial_id, images, endpoint, ".png"), png)
        self._board.picture(images, f"samples above nearest training images/{endpoint}", png)

    def denoised(self, images: int, png: bytes) -> None:
        """Observations at rising noise levels above what the model makes of them, as `denoising_grid` shows them."""
        self._board.picture(images, "noised above denoised observations", png)

    def end(self, status: str, reason: str | None) -> TrialRecord:
        self._update(status=status, reason=reason and with_urls(reason), finished=_now())
        if self.writes and self.record.ended:
            self._board.end(status)
        elif self.writes:
            self._board.close()
        if self.writes:
            put(self.folder / LOG)
        return self.record

    def _update(self, **changes: Any) -> None:
        record = dataclasses.replace(self.record, **changes)
        self.record = dataclasses.replace(
            record,
            images_executed=self._executed + record.images_done - self._start,
            device_seconds=self._seconds + (time.perf_counter() - self._begun) * self._workers,
        )
        if self.writes:
            write_trial(self.root, self.record)


def _until(taken: tuple[tuple[int, int], ...], images: int) -> tuple[tuple[int, int], ...]:
    """What of these stretches lies before `images`."""
    return tuple((begin, min(end, images)) for begin, end in taken if begin < images)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
