"""One trial: trains, saves, evaluates at its lengths, and stops in order when asked to."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ambient_sweep.config import Config
from ambient_sweep.config.cost import step_cost
from ambient_sweep.config.positions import evaluated_lengths, snapshot_images
from ambient_sweep.data.dataset import load_clean
from ambient_sweep.data.observed import ObservedImages, observe
from ambient_sweep.errors import AmbientSweepError, Resumable
from ambient_sweep.models import describe
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.stages.stages import Stages
from ambient_sweep.storage import naming, remove_leftovers
from ambient_sweep.training.group import SINGLE, Group
from ambient_sweep.training.loop import train
from ambient_sweep.training.posthoc_ema import SNAPSHOTS, save_snapshot
from ambient_sweep.training.state import TrainState, restore_newest, save_newest
from ambient_sweep.trial.evaluations import Evaluator
from ambient_sweep.trial.recorder import Report, TrialRecorder
from ambient_sweep.trial.records import INTERRUPTED, TrialRecord, trial_folder
from ambient_sweep.trial.samples import class_counts
from ambient_sweep.trial.setup import cached_data, keeps_clean, shared_reference, use_device
from ambient_sweep.trial.stage_client import StageClient

RECORDED = ("*.json", "*.yaml", "*.png", "*.txt")  # all but tensors and events


class Interrupted(Resumable):
    """The trial was asked to stop, and has saved its state."""


def run_trial(
    config: Config,
    root: Path,
    trial_id: str,
    *,
    role: str = "search",
    group: Group = SINGLE,
    on_report: Report = lambda images, evaluation: None,
    echo: Callable[[str], None] = lambda line: None,
    interrupted: Callable[[], bool] = lambda: False,
    stages: Stages | None = None,
    replicate_of: str | None = None,
) -> TrialRecord:
    """Trains `config`, evaluates it at its lengths and endpoints, and writes the trial's folder; `prepare` comes first.

    Every worker of a group calls it; rank 0 writes and reports. It goes on from the newest sound state in the folder, or
    from the longest state of the same run in `stages`, whose evaluations it takes over and reports; and stores there what
    others can use. The numbers are the same with stages and without. `replicate_of`: the trial that a replicate repeats.
    Raises TrainingDiverged, and AmbientSweepError for samples that are not finite: the record then says failed, and why.
    Raises Interrupted at the end of the step after which `interrupted` returns True, and OSError that names what cannot be
    written.
    """
    device = use_device(config)
    data, clean = cached_data(config.data), load_clean(config, cached_data)
    reference = shared_reference(config, root)
    folder = trial_folder(root, trial_id)
    fetch_folder(folder, *RECORDED)  # of an earlier attempt, perhaps on another machine
    classes = data.classes if config.model.conditional else 0
    observed = observe(data, config.observed, keeps_clean(config))
    state = TrainState.create(config, data.shape, device, classes, group)
    lines = [describe(config.model, data.shape, classes)]
    if config.objective.kind == "ambient_consistency":
        lines[0] += f"; a step with consistency costs {step_cost(config):.2f} plain steps"
    if config.objective.kind == "ambient_distilled":
        lines[0] += f"; a step of distillation costs {step_cost(config):.2f} plain steps"
    found = restore_newest(folder / "state", state, lines.append)
    with naming(folder, unnamed=True):
        recorder = TrialRecorder(
            root, trial_id, role, state, reference.settings.key, data.fingerprint, on_report, echo, replicate_of
        )
        for line in lines:
            recorder.note(line)
    evaluator = Evaluator(recorder, reference, clean, observed, class_counts(config, data))
    client = None if stages is None else StageClient(stages, state, recorder, evaluator)
    try:
        with naming(folder, unnamed=True):
            _Run(state, observed, recorder, evaluator, client, interrupted, saved=found is not None).go()
    except Interrupted as error:
        recorder.end("stopped", str(error))
        raise
    except AmbientSweepError as error:
        recorder.reached(state.images)
        recorder.end("failed", str(error))
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # the disk may be full; the record then says running, and `resume` goes on
            recorder.end("stopped", f"{INTERRUPTED}: {error.filename}: {error.strerror}")
        raise
    except KeyboardInterrupt:
        recorder.end("stopped", INTERRUPTED)
        raise
    return recorder.end("completed", recorder.record.reason)


@dataclass
class _Run:
    """A trial under way. `saved`: whether the state as it stands is on the disk."""

    state: TrainState
    observed: ObservedImages
    recorder: TrialRecorder
    evaluator: Evaluator
    client: StageClient | None
    interrupted: Callable[[], bool]
    saved: bool

    def __post_init__(self) -> None:
        config, self.place = self.state.config, self.recorder.folder / "state"
        self.last = config.images_at(config.training.stop)
        self.lengths = frozenset(evaluated_lengths(config))
        self.snapshots = frozenset(snapshot_images(config))
        parts = config.training.checkpoints
        points = frozenset[int]() if self.client is None else self.client.points
        self.saves = frozenset(config.images_at(i / parts) for i in range(1, parts + 1)) | points | self.lengths

    def go(self) -> None:
        if self.state.group.rank == 0:
            for folder in ("checkpoints", SNAPSHOTS):
                remove_leftovers(self.recorder.folder / folder)
        self._arrive(reported=True)  # an attempt that was cut off may have saved its state and no more
        self._jump()
        while not self._passed():
            self._jump()
        if self.state.images < self.last:
            self._leave()

    def _passed(self) -> bool:
        """Trains on; False where others are ahead, and it goes on from there."""
        state, stops = self.state, self.saves | self.snapshots
        with contextlib.closing(
            train(state.config, self.observed, state, stops=stops, interrupted=self.interrupted)
        ) as records:
            for record in records:
                self.saved = False
                self.recorder.training(record)
                self._arrive()
                at_length = state.images in self.lengths | self.snapshots
                if at_length and self.client is not None and self.client.ahead() is not None:
                    return False
        return True

    def _arrive(self, reported: bool = False) -> None:
        """Writes and evaluates what belongs to this position. The state comes before the evaluation, which may take long."""
        images, state = self.state.images, self.state
        if images in self.snapshots and state.group.rank == 0:
            tensors = state.averages.tensors()
            save_snapshot(self.recorder.folder, state.config, tensors, images, self.evaluator.notes)
        if images in self.saves:
            self._save()
            if self.client is not None:
                self.client.publish(self.place)
        if images in self.lengths:
            self._evaluate(reported)

    def _jump(self) -> None:
        """Goes on from the longest state that others stored, until none is ahead."""
        client = self.client
        while client is not None and (ahead := client.ahead()) is not None:
            if client.take(ahead):
                self.saved = False
                self._save()  # after the reports: a trial that is cut off in between takes the same again
                self._arrive()

    def _evaluate(self, reported: bool) -> None:
        """Evaluates here, or takes what another trial stored or what an earlier attempt measured and `reported`."""
        client = self.client
        taken = client is not None and client.take_evaluation(self.state.images)
        records, new = self.evaluator(self.state, self._check_interrupted)
        if client is not None:
            client.publish(self.place)
        for record in records if new or taken or not reported else []:
            self.recorder.evaluated(record)

    def _check_interrupted(self) -> None:
        """Stops between batches of samples where asked to; several workers, which must all agree, wait for a step."""
        if self.state.group.size == 1 and self.interrupted():
            self._leave()

    def _leave(self) -> None:
        self._save()
        raise Interrupted(f"{INTERRUPTED} at {self.state.images:,} images; state saved; run the same command to go on")

    def _save(self) -> None:
        if not self.saved:
            save_newest(self.place, self.state)
        self.saved = True
