"""One config from nothing to its evaluations, in a folder of its own. Knows nothing of Ray.

`<root>/trials/<trial_id>/` holds the record, the config, the checkpoints, the evaluations, the newest training state and
the TensorBoard events. Called again on the same folder, a trial goes on from that state.
"""

import dataclasses
import functools
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from ambient_sweep import rng
from ambient_sweep.config import Config, DataConfig, dump, write_config
from ambient_sweep.data.images import ImageData, load_data
from ambient_sweep.data.observed import observe
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.sampling import sample, sampling_levels
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.evaluation import Measure, Reference, evaluate
from ambient_sweep.evaluation.reference import reference_key, to_uint8
from ambient_sweep.models import Shape, count_parameters
from ambient_sweep.provenance import code_revision, versions
from ambient_sweep.results.grids import image_grid
from ambient_sweep.results.records import (
    EvaluationRecord,
    TrialRecord,
    evaluation_path,
    read_evaluation,
    read_trial,
    trial_folder,
    trial_path,
    write_evaluation,
    write_json,
    write_trial,
)
from ambient_sweep.results.tensorboard import TrialBoard
from ambient_sweep.training.group import SINGLE, Group
from ambient_sweep.training.loop import Record, train
from ambient_sweep.training.state import TrainState, save_model

GRID_SAMPLES = 32
REFERENCE = "reference"
REMOVE_STATE = "remove the state and the trial begins again"

cached_data = functools.lru_cache(maxsize=1)(load_data)


@dataclass(frozen=True)
class Report:
    """What a running trial tells its caller; `evaluation` is None for a training record."""

    images: int
    fraction: float
    scalars: dict[str, float]
    evaluation: EvaluationRecord | None = None


def ignore(report: Report) -> None:
    """The caller that needs no reports."""


def evaluated_lengths(config: Config) -> dict[int, float]:
    """Images -> fraction of the run, at which the trial is evaluated: the config's lengths up to its stop, and the stop."""
    stop = config.training.stop
    return {config.images_at(f): f for f in (*(f for f in config.evaluation.lengths if f < stop), stop)}


def device_of(config: Config) -> str:
    """The torch device of a worker. Raises UserError where GPUs are asked for and torch sees none."""
    if config.resources.gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(f"resources.gpus: {config.resources.gpus} asked for, but torch finds no GPU here; use 0")
    return "cuda"


def use_threads(config: Config) -> None:
    """As many torch threads as a worker has cores: sums depend on it, so a config gives the same bits everywhere."""
    torch.set_num_threads(max(1, int(config.resources.cpus)))


# -- the real images ------------------------------------------------------------------------------------------------


def prepare(config: Config, root: Path) -> Reference:
    """Writes what all trials under `root` share, where it is not there yet: split.json and reference/.

    Raises UserError for bad images, or where `root` holds those of other data or other evaluation settings.
    """
    device = device_of(config)
    use_threads(config)
    data = cached_data(config.data)
    if not (root / REFERENCE).exists():
        reference = Reference.build(data, config.evaluation, device=device)
        write_json(root / "split.json", data.split())
        reference.save(root / REFERENCE)
    return _shared(config.data, str(root), reference_key(data, config.evaluation))[1]


@functools.lru_cache(maxsize=1)
def _shared(config: DataConfig, root: str, key: str) -> tuple[ImageData, Reference]:
    data, reference = cached_data(config), Reference.load(Path(root) / REFERENCE)
    if reference.settings.data_fingerprint != data.fingerprint:
        raise UserError(
            f"{root}: began with other images than {config.path or config.source} holds now; use a new name"
        )
    if reference.key != key:
        raise UserError(f"{root}: began with other evaluation settings; use a new name")
    return data, reference


# -- one trial ------------------------------------------------------------------------------------------------------


def run_trial(
    config: Config,
    root: Path,
    trial_id: str,
    *,
    role: str = "search",
    group: Group = SINGLE,
    on_report: Callable[[Report], None] = ignore,
) -> TrialRecord:
    """Trains `config`, evaluates it at its lengths and endpoints, and writes the trial's folder; `prepare` comes first.

    Every worker of a group calls it; rank 0 writes and reports. Goes on from the newest state in the folder. Raises
    TrainingDiverged, and AmbientSweepError for samples that are not finite: the record then says failed, and why.
    """
    use_threads(config)
    device = device_of(config)
    data, reference = _shared(config.data, str(root), reference_key(cached_data(config.data), config.evaluation))
    folder = trial_folder(root, trial_id)
    state = _newest_state(folder, config, data.shape, device, group)
    begun = time.perf_counter()
    book = _Book(config, root, trial_id, role, group, state, reference.key, data.fingerprint)
    lengths = evaluated_lengths(config)
    saves = {config.images_at(i / config.training.checkpoints) for i in range(1, config.training.checkpoints + 1)}
    keep_clean = config.objective.kind == "ambient_high_clean_low"
    observed = observe(data, config.observed, keep_clean)
    try:
        for record in train(config, observed, state, stops=frozenset(saves | set(lengths)), group=group, device=device):
            book.training(record, on_report)
            if record.images in lengths:
                for evaluation in _evaluations(config, root, book, state, reference, group, device):
                    book.evaluated(evaluation, on_report)
            if record.images in saves | set(lengths) and group.rank == 0:
                _save_state(folder, state, config)
            book.device_seconds = (time.perf_counter() - begun) * group.size
    except AmbientSweepError as error:
        book.end("failed", str(error))
        raise
    except KeyboardInterrupt:
        book.end("stopped", "interrupted")
        raise
    return book.end("completed", None)


class _Book:
    """The trial's record and TensorBoard events; rank 0 alone writes them."""

    def __init__(
        self, config: Config, root: Path, trial_id: str, role: str, group: Group, state: TrainState, key: str, data: str
    ) -> None:  # fmt: skip
        self.root, self.config, self.trial_id, self.writes = root, config, trial_id, group.rank == 0
        self.device_seconds, self._start = 0.0, state.images
        self._asked = config.images_at(config.training.stop)
        device = next(state.denoiser.parameters()).device
        before = read_trial(root, trial_id) if trial_path(root, trial_id).exists() else None
        self.record = TrialRecord(
            trial_id=trial_id,
            role=role,
            status="running",
            reason=None,
            config=dump(config),
            images_asked=self._asked,
            images_done=state.images,
            images_executed=before.images_executed if before else 0,
            device_seconds=before.device_seconds if before else 0.0,
            parameters=count_parameters(state.denoiser),
            device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            started=before.started if before else _now(),
            finished=None,
            data_fingerprint=data,
            reference_key=key,
            versions=versions(),
            code_revision=code_revision(),
        )
        self._before = self.record
        self._has_objectives = False
        if self.writes:
            folder = trial_folder(root, trial_id)
            folder.mkdir(parents=True, exist_ok=True)
            write_config(config, folder / "config.yaml")
            write_trial(root, self.record)
            self._board = TrialBoard(folder, config, resume_at=state.images if state.images else None)

    def training(self, record: Record, on_report: Callable[[Report], None]) -> None:
        self._update(images_done=record.images)
        if not self.writes:
            return
        values = {f"train/{name}": value for name, value in dataclasses.asdict(record).items() if name != "images"}
        self._board.scalars(record.images, values)
        on_report(Report(record.images, record.images / (self.config.steps * self.config.training.batch_size), values))

    def evaluated(self, evaluation: EvaluationRecord, on_report: Callable[[Report], None]) -> None:
        """Also called for evaluations that an earlier attempt wrote: the events may lack them."""
        if not self.writes:
            return
        values = {f"{evaluation.endpoint}/{name}": m.value for name, m in evaluation.measures.items()}
        self._board.scalars(evaluation.images, values)
        if evaluation.main_endpoint:
            fidelity, memorization = (
                evaluation.measures[m].value for m in (evaluation.fidelity, evaluation.memorization)
            )
            self._board.hparams(evaluation.images, fidelity, memorization)
            self._has_objectives = True
        on_report(Report(evaluation.images, evaluation.fraction, values, evaluation))

    def grid(self, images: int, endpoint: str, samples: torch.Tensor, neighbours: torch.Tensor) -> None:
        path = evaluation_path(self.root, self.trial_id, images, endpoint, ".png")
        self._board.grid(
            images, f"samples above nearest training images/{endpoint}", image_grid(samples, neighbours, path)
        )

    def end(self, status: str, reason: str | None) -> TrialRecord:
        self._update(status=status, reason=reason, finished=_now())
        if self.writes:
            if status == "failed" and not self._has_objectives:  # else the HPARAMS tab would not show the trial
                self._board.hparams(self.record.images_done, math.nan, math.nan)
            self._board.close()
        return self.record

    def _update(self, **changes: object) -> None:
        changes.setdefault("images_done", self.record.images_done)
        done = int(str(changes["images_done"]))
        changes["images_executed"] = self._before.images_executed + done - self._start
        changes["device_seconds"] = self._before.device_seconds + self.device_seconds
        self.record = dataclasses.replace(self.record, **changes)  # type: ignore[arg-type]
        if self.writes:
            write_trial(self.root, self.record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# -- evaluation -----------------------------------------------------------------------------------------------------


def generate(
    config: Config,
    denoiser: DenoiserFn,
    shape: Shape,
    count: int,
    seed: int,
    group: Group = SINGLE,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """`count` samples [N,C,H,W] per endpoint, on the CPU and on every worker, each worker having made a part.

    Sample i starts from noise keyed by (seed, i).
    """
    s, stop = config.sampling, config.observed.sigma
    levels = sampling_levels(s.sigma_max, s.sigma_min, s.steps, s.rho, stop)
    part = group.share(count)
    pieces: dict[str, list[torch.Tensor]] = {"zero": [], "observed": []}
    for start in range(part.start, part.stop, config.evaluation.batch_size):
        size = min(config.evaluation.batch_size, part.stop - start)
        noise = rng.normal("sample", seed, start, size, shape).to(device)
        for endpoint, images in zip(pieces, sample(denoiser, noise, levels, stop), strict=True):
            pieces[endpoint].append(images)
    empty = torch.zeros(0, *shape, device=device)
    return {
        endpoint: group.gather(torch.cat([empty, *pieces[endpoint]]), count).cpu() for endpoint in config.endpoints()
    }


def _evaluations(
    config: Config, root: Path, book: _Book, state: TrainState, reference: Reference, group: Group, device: str
) -> list[EvaluationRecord]:
    """The evaluations of the averaged weights at the present length, one per endpoint."""
    trial_id, images = book.trial_id, state.images
    paths = {endpoint: evaluation_path(root, trial_id, images, endpoint) for endpoint in config.endpoints()}
    if group.broadcast(all(path.exists() for path in paths.values())):
        return [read_evaluation(path, trial_id) for path in paths.values()]
    begun = time.perf_counter()
    e, shape = config.evaluation, reference.settings.shape
    samples = generate(config, state.average, shape, e.samples, e.seed, group, device)
    sampling_seconds = (time.perf_counter() - begun) / len(samples)
    if group.rank != 0:
        return []
    checkpoint = trial_folder(root, trial_id) / "checkpoints" / f"images-{images:09d}"
    save_model(
        checkpoint, state.average, config, images, shape, {"data_fingerprint": reference.settings.data_fingerprint}
    )
    data = cached_data(config.data)
    records = []
    for endpoint, generated in samples.items():
        begun = time.perf_counter()
        measures = evaluate(generated, reference, device=device)
        shown = generated[:GRID_SAMPLES]
        nearest = reference.nearest_train(to_uint8(shown), 1, device)[1][:, 0].cpu()
        book.grid(images, endpoint, shown, data.train[nearest])
        record = EvaluationRecord(
            trial_id=trial_id,
            images=images,
            fraction=evaluated_lengths(config)[images],
            endpoint=endpoint,
            main_endpoint=endpoint == config.main_endpoint(),
            samples=e.samples,
            seed=e.seed,
            seconds=sampling_seconds + time.perf_counter() - begun,
            measures=measures,
            fidelity=e.fidelity,
            memorization=e.memorization,
            checkpoint=checkpoint.relative_to(root).as_posix(),
        )
        write_evaluation(root, record)
        records.append(record)
    return records


def evaluate_model(denoiser: Denoiser, config: Config, data_fingerprint: str) -> dict[str, dict[str, Measure]]:
    """All measures of a trained model, per endpoint, against the images of `config`, which must be those it was made of.

    Raises UserError where they are not: `data_fingerprint` is that of its training.
    """
    use_threads(config)
    device = device_of(config)
    data = cached_data(config.data)
    if data.fingerprint != data_fingerprint:
        raise UserError(f"{config.data.path or config.data.source}: not the images this model was trained with")
    reference = Reference.build(data, config.evaluation, device=device)
    e = config.evaluation
    samples = generate(config, denoiser.to(device), data.shape, e.samples, e.seed, device=device)
    return {endpoint: evaluate(images, reference, device=device) for endpoint, images in samples.items()}


# -- resuming -------------------------------------------------------------------------------------------------------


def _save_state(folder: Path, state: TrainState, config: Config) -> None:
    """Writes the state, then removes the older ones."""
    newest = folder / "state" / f"images-{state.images:09d}"
    state.save(newest, config)
    for old in (folder / "state").iterdir():
        if old != newest:
            shutil.rmtree(old)


def _newest_state(folder: Path, config: Config, shape: Shape, device: str, group: Group) -> TrainState:
    """The newest state in the folder, the same on every worker, or a new one."""
    saved = sorted((folder / "state").glob("images-*")) if (folder / "state").is_dir() else []
    name = group.broadcast(saved[-1].name if saved else None)
    if name is None:
        return TrainState.create(config, shape, device)
    newest = folder / "state" / name
    try:
        return TrainState.load(newest, config, shape, device)
    except UserError as error:
        raise UserError(f"{error}; {REMOVE_STATE}: {newest}") from None
