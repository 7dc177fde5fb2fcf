"""One trial: trains, saves, evaluates at its lengths, goes back where it diverged, and leaves in order when told to."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ambient_sweep.config import Config
from ambient_sweep.data.dataset import load_clean
from ambient_sweep.data.observed import Observed, observe
from ambient_sweep.errors import AmbientSweepError, TrainingDiverged
from ambient_sweep.models import Shape, describe
from ambient_sweep.stages.stages import Stages, data_key
from ambient_sweep.storage import remove_leftovers
from ambient_sweep.training.group import SINGLE, Group
from ambient_sweep.training.loop import never, train
from ambient_sweep.training.objective import step_cost
from ambient_sweep.training.posthoc_ema import SNAPSHOTS, remove_snapshots, save_snapshot, snapshot_images
from ambient_sweep.training.shards import gathered
from ambient_sweep.training.state import TrainState
from ambient_sweep.training.state_files import BEGIN_AGAIN, restore_newest, save_newest
from ambient_sweep.training.step import REWIND_FACTOR
from ambient_sweep.trial.book import Book, Report, ignore, silent
from ambient_sweep.trial.evaluations import Evaluator, remove_evaluations
from ambient_sweep.trial.records import TrialRecord, evaluation_path, read_evaluation, trial_folder
from ambient_sweep.trial.samples import class_counts
from ambient_sweep.trial.setup import cached_data, device_of, evaluated_lengths, shared_reference, use_threads
from ambient_sweep.trial.sharing import Sharing

REMOVE_STATE = BEGIN_AGAIN  # in the reason of a trial whose states cannot be read
INTERRUPTED = "interrupted"  # how the reason of an interrupted trial begins


class Interrupted(AmbientSweepError):
    """The trial was told to stop, and has saved its state."""


def run_trial(
    config: Config,
    root: Path,
    trial_id: str,
    *,
    role: str = "search",
    group: Group = SINGLE,
    on_report: Callable[[Report], None] = ignore,
    echo: Callable[[str], None] = silent,
    interrupted: Callable[[], bool] = never,
    stages: Stages | None = None,
    replicate_of: str | None = None,
) -> TrialRecord:
    """Trains `config`, evaluates it at its lengths and endpoints, and writes the trial's folder; `prepare` comes first.

    Every worker of a group calls it; rank 0 writes and reports. Goes on from the newest sound state in the folder, or from
    the longest of the same run in `stages`, whose evaluations it takes over and reports; gives there what others can use.
    The numbers are the same with stages and without. `replicate_of`: the trial of which one of that role is one.
    Raises TrainingDiverged, and AmbientSweepError for samples that
    are not finite: the record then says failed, and why. Raises Interrupted at the end of the step after which
    `interrupted` says so, and OSError that names what cannot be written.
    """
    use_threads(config)
    device = device_of(config)
    data, clean = cached_data(config.data), load_clean(config, cached_data)
    reference = shared_reference(config, root)
    place = trial_folder(root, trial_id) / "state"
    classes = data.classes if config.model.conditional else 0
    observed = observe(data, config.observed, config.objective.kind == "ambient_high_clean_low")
    state = TrainState.create(config, data.shape, device, classes, group)
    lines = [_size(config, data.shape, classes)] if group.rank == 0 else []
    found = restore_newest(place, state, lines.append)
    with _named(place.parent):
        book = Book(root, trial_id, role, state, reference.key, data.fingerprint, on_report, echo, replicate_of)
        for line in lines:
            book.note(line)
    evaluator = Evaluator(book, reference, clean, class_counts(config, data))
    sharing = None if stages is None else Sharing(stages, state, data_key(data), book, evaluator)
    run = _Run(state, observed, book, evaluator, place, interrupted, found is not None, sharing)
    try:
        with _named(book.folder):
            run.go()
    except Interrupted as error:
        book.end("stopped", str(error))
        raise
    except AmbientSweepError as error:
        book.end("failed", str(error))
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # the disk may be full; what is there already tells of a run to go on with
            book.end("stopped", f"{INTERRUPTED}: {error.filename}: {error.strerror}")
        raise
    except KeyboardInterrupt:
        book.end("stopped", INTERRUPTED)
        raise
    return book.end("completed", None)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Gives an OSError without a name, as of a full disk, that of `folder`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error


def _size(config: Config, shape: Shape, classes: int) -> str:
    """What is trained and what a step costs, for the user before the start."""
    line = describe(config.model, shape, classes)
    if config.objective.kind != "ambient_consistency":
        return line
    return f"{line}; a step with consistency costs {step_cost(config):.2f} plain steps"


@dataclass
class _Run:
    state: TrainState
    observed: Observed
    book: Book
    evaluator: Evaluator
    place: Path  # of the states
    interrupted: Callable[[], bool]
    saved: bool  # whether the state as it stands is on the disk
    sharing: Sharing | None

    def go(self) -> None:
        """Trains to the end, or raises."""
        state, config = self.state, self.state.config
        self.begun = time.perf_counter()
        self.lengths = evaluated_lengths(config)
        self.snapshots = frozenset(snapshot_images(config))
        parts = config.training.checkpoints
        points = frozenset[int]() if self.sharing is None else self.sharing.points
        self.saves = frozenset(config.images_at(i / parts) for i in range(1, parts + 1)) | points | self.lengths.keys()
        if state.group.rank == 0:
            for folder in ("checkpoints", SNAPSHOTS):
                remove_leftovers(self.book.folder / folder)
        if state.images in self.lengths:  # saved, but perhaps not evaluated any more
            self._evaluate(told=True)
        self._publish()
        self._jump()
        while not self._passed():
            self._jump()
        if state.images < config.images_at(config.training.stop):
            self._leave()

    def _passed(self) -> bool:
        """Trains on; False where it goes on from elsewhere: it diverged and went back, or others are ahead."""
        records = train(
            self.state.config,
            self.observed,
            self.state,
            stops=self.saves | self.snapshots,
            interrupted=self.interrupted,
        )
        try:
            with contextlib.closing(records):
                for record in records:
                    self.saved = False
                    self.book.training(record)
                    self._arrive()
                    self._count_time()
                    if self.state.images in self.lengths.keys() | self.snapshots and self._ahead() is not None:
                        return False
        except TrainingDiverged as error:
            self._go_back(error)
            return False
        return True

    def _arrive(self) -> None:
        """Does what is due at the present image count. The state comes before the evaluation, which may take long."""
        images = self.state.images
        if images in self.snapshots:
            tensors = gathered(self.state.averages.tensors(), self.state.group)
            if self.state.group.rank == 0:
                notes = {"shape": list(self.state.shape), **self.evaluator.notes}
                save_snapshot(self.book.folder, self.state.config, tensors, images, notes)
        if images in self.saves:
            self._save()
            self._publish()
        if images in self.lengths:
            self._evaluate()

    def _ahead(self) -> int | None:
        """Images of a longer state of this run that another trial stored, if there is one."""
        if self.sharing is None or self.state.rewinds:
            return None
        group = self.state.group
        ahead: int | None = group.broadcast(self.sharing.ahead() if group.rank == 0 else None)
        return ahead

    def _jump(self) -> None:
        """Goes on from ever longer states that others stored, as long as there are any ahead."""
        state, sharing = self.state, self.sharing
        while sharing is not None and (ahead := self._ahead()) is not None:
            stood = self.book.record.stage, self.book.record.forked_at
            if not sharing.take(ahead, self._tell):
                self.book.stands(state.images, *stood)
                continue
            self.book.forked(ahead, sharing.key(ahead))
            self._save()  # after the telling: who is cut off in between takes the same again
            self._arrive()

    def _tell(self, images: int) -> None:
        """Tells of evaluations after `images` that another made; the caller may leave there."""
        if self.sharing is not None:
            self.book.stands(images, self.sharing.key(images), images)
        for endpoint in self.state.config.endpoints():
            path = evaluation_path(self.book.root, self.book.trial_id, images, endpoint)
            self.book.evaluated(read_evaluation(path, self.book.trial_id))

    def _publish(self) -> None:
        if self.sharing is not None and self.state.group.rank == 0 and not self.state.rewinds:
            self.sharing.publish(self.place)

    def _save(self) -> None:
        save_newest(self.place, self.state)
        self.saved = True

    def _evaluate(self, told: bool = False) -> None:
        """Evaluates here, or takes what an earlier attempt measured, and had told where `told`."""
        sharing = None if self.state.rewinds or self.state.group.rank else self.sharing
        taken = sharing is not None and sharing.take_evaluation(self.state.images)
        records, new = self.evaluator(self.state, self._heed)
        if sharing is not None:
            sharing.publish_evaluation(self.state.images)
        for record in records if new or taken or not told else []:
            self.book.evaluated(record)

    def _heed(self) -> None:
        """Leaves where told to, between batches of samples; several workers, of which all must agree, wait for a step."""
        if self.state.group.size == 1 and self.interrupted():
            self._leave()

    def _leave(self) -> None:
        if not self.saved:
            self._save()
        self._count_time()
        raise Interrupted(f"{INTERRUPTED} at {self.state.images:,} images; state saved; run the same command to go on")

    def _go_back(self, error: TrainingDiverged) -> None:
        """Back to the newest state, with a lower learning rate, without which the same would happen again."""
        state, t = self.state, self.state.config.training
        self.book.reached(state.images)
        if t.on_nan != "rewind":
            raise error
        if state.rewinds >= t.rewinds:
            raise TrainingDiverged(f"{error} (after going back {state.rewinds} times, training.rewinds)")
        rewinds = state.rewinds + 1
        if restore_newest(self.place, state, self.book.note) is None:
            state.restart()
        state.rewinds = rewinds
        self.book.went_back(state.images)
        if state.group.rank == 0:
            remove_evaluations(self.book.root, self.book.trial_id, state.images)
            remove_snapshots(self.book.folder, state.images)  # of other weights than those to come
        self._save()
        self.book.note(
            f"{error}: went back to {state.images:,} images ({rewinds} of {t.rewinds} times); learning rate now times "
            f"{REWIND_FACTOR**rewinds:g}"
        )

    def _count_time(self) -> None:
        self.book.device_seconds = (time.perf_counter() - self.begun) * self.state.group.size
