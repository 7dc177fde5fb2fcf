"""What a trial leaves behind, as JSON files: the source from which the tables are made.

<root>/trials/<trial_id>/trial.json
<root>/trials/<trial_id>/evaluations/images-000038400-zero.json
<root>/trials/<trial_id>/remeasured/images-000038400-zero-seed-7.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.object_store import fetch, fetch_folder
from ambient_sweep.storage import write_atomic

Time = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*(Z|[+-]\d\d:\d\d)$")
]  # ISO 8601 with a time zone
INTERRUPTED, LOST = "interrupted", "worker failed"  # how the reasons of trials begin that `resume` goes on with
UNUSABLE = "unusable generator"  # and that of one that ends all the same
UNREADABLE_STATE = "and the run begins again"  # in the reason of one that does so once its states are removed


@dataclass(frozen=True)
class TrialRecord:
    """One trial: what was asked, how far it came, on what."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    trial_id: str
    role: Annotated[str, Field(pattern="^(search|baseline|control|replicate)$")]
    status: Annotated[str, Field(pattern="^(running|completed|stopped|failed)$")]
    reason: str | None  # why it failed or was stopped, or what is wrong with its model
    config: dict[str, Any]  # dotted keys, as config.dump gives them
    images_asked: int
    images_done: int  # logical training position
    images_executed: int  # really trained here, counting repeats after a restart
    device_seconds: float  # training and evaluation, wall seconds times workers
    parameters: int
    device: str
    started: Time
    finished: Time | None
    data_fingerprint: str
    reference_key: str
    versions: dict[str, str]  # package -> version
    code_revision: str | None
    stage: str | None = None  # key of the shared state that it went on from, the last where there were several
    forked_at: int = 0  # images of that state, which another trial trained
    rung: int | None = None  # the highest at which it was compared with others, from 0
    replicate_of: str | None = None  # the trial whose config this one trains with another seed
    taken: tuple[tuple[int, int], ...] = ()  # from and to images that other trials trained, rising
    discarded: int = 0  # images of the last evaluation when the sweep ended and the trial's states were removed

    @property
    def ended(self) -> bool:
        """Whether the trial completed, failed or was stopped for good; `resume` goes on with all others."""
        reason = self.reason or ""
        resumable = reason.startswith((LOST, INTERRUPTED)) or UNREADABLE_STATE in reason
        return self.status == "completed" or (self.status != "running" and not resumable)

    def executed_at(self, images: int) -> int:
        """The images trained here up to the position `images`; repeats after restarts spread evenly over all."""
        whole = self._own(self.images_done)
        return round(self.images_executed * self._own(min(images, self.images_done)) / whole) if whole else 0

    def _own(self, images: int) -> int:
        """Of the first `images`, those that no other trial trained."""
        return images - sum(max(0, min(end, images) - begin) for begin, end in self.taken)


@dataclass(frozen=True)
class EvaluationRecord:
    """One model at one length and endpoint, measured in full. Raises ValueError for an objective that is not measured."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    trial_id: str
    images: int
    fraction: float
    endpoint: Annotated[str, Field(pattern="^(zero|observed|distilled)$")]
    main_endpoint: bool  # whether the objective was made for this endpoint
    samples: int
    seed: int
    seconds: float
    measures: dict[str, Measure]
    fidelity: str  # which measure is the first objective
    memorization: str  # which measure is the second objective
    checkpoint: str  # relative to root
    similarities: dict[str, list[float]] | None = None  # histograms, of samples and held-out images
    problem: str | None = None  # what makes the model, a generator, unusable

    def __post_init__(self) -> None:
        for name in (self.fidelity, self.memorization):
            if name not in self.measures:
                raise ValueError(f"{name} is not one of {', '.join(self.measures)}")


Record = TypeVar("Record", TrialRecord, EvaluationRecord)
_TRIAL, _EVALUATION = TypeAdapter(TrialRecord), TypeAdapter(EvaluationRecord)
_JSON = TypeAdapter[Any](Any, config=ConfigDict(ser_json_inf_nan="strings"))

# -- places -----------------------------------------------------------------------------------------------------------


def is_trial_id(name: object) -> bool:
    """Whether this is the name of a folder, as all ids are: one in a stranger's files may lead elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & {*name}


def trial_folder(root: Path, trial_id: str) -> Path:
    """Raises UserError for an id that is none."""
    if not is_trial_id(trial_id):
        raise UserError(f"{root}: damaged, names a trial {trial_id!r:.80}; restore its records")
    return root / "trials" / trial_id


def trial_path(root: Path, trial_id: str) -> Path:
    return trial_folder(root, trial_id) / "trial.json"


def evaluation_path(root: Path, trial_id: str, images: int, endpoint: str, suffix: str = ".json") -> Path:
    """The file of an evaluation's record or, with suffix `.png`, of its picture."""
    return trial_folder(root, trial_id) / "evaluations" / f"images-{images:09d}-{endpoint}{suffix}"


def checkpoint_folder(root: Path, trial_id: str, images: int) -> Path:
    return trial_folder(root, trial_id) / "checkpoints" / f"images-{images:09d}"


# -- writing ----------------------------------------------------------------------------------------------------------


def write_trial(root: Path, record: TrialRecord) -> None:
    write_json(trial_path(root, record.trial_id), record)


def write_evaluation(root: Path, record: EvaluationRecord) -> None:
    write_json(evaluation_path(root, record.trial_id, record.images, record.endpoint), record)


def write_remeasurement(root: Path, record: EvaluationRecord) -> None:
    """Writes the record of a checkpoint measured again, on samples of another seed."""
    name = f"images-{record.images:09d}-{record.endpoint}-seed-{record.seed}.json"
    write_json(trial_folder(root, record.trial_id) / "remeasured" / name, record)


def write_json(path: Path, tree: Any) -> None:
    """Writes a record or other tree as strict JSON, atomically; floats that are not finite become strings ("NaN")."""
    write_atomic(path, _JSON.dump_json(tree, indent=1) + b"\n")


# -- reading: each raises UserError naming a damaged file ----------------------------------------------------------------


def read_trial(root: Path, trial_id: str) -> TrialRecord:
    fetch(trial_path(root, trial_id))
    return _read(trial_path(root, trial_id), trial_id, _TRIAL)


def known_trial(root: Path, trial_id: str) -> TrialRecord | None:
    """The record of a trial, if it has one."""
    fetch(trial_path(root, trial_id))
    return _read(trial_path(root, trial_id), trial_id, _TRIAL) if trial_path(root, trial_id).exists() else None


def read_trials(root: Path) -> list[TrialRecord]:
    fetch_folder(root / "trials", "/trial.json")
    return [_read(path, path.parent.name, _TRIAL) for path in sorted(root.glob("trials/*/trial.json"))]


def read_evaluation(path: Path, trial_id: str | None = None) -> EvaluationRecord:
    """The evaluation in `path`, of this trial or, if None, of any."""
    return _read(path, trial_id, _EVALUATION)


def read_trial_evaluations(root: Path, trial_id: str) -> list[EvaluationRecord]:
    """One trial's evaluations, shortest first."""
    return _evaluations(root, f"{trial_id}/evaluations")


def read_evaluations(root: Path) -> list[EvaluationRecord]:
    """All evaluations, ordered by trial id, length and endpoint."""
    return _evaluations(root, "*/evaluations")


def read_remeasurements(root: Path, trial_id: str = "*") -> list[EvaluationRecord]:
    """All evaluations of checkpoints measured again, or one trial's, ordered as `read_evaluations`."""
    return _evaluations(root, f"{trial_id}/remeasured")


def _evaluations(root: Path, folders: str) -> list[EvaluationRecord]:
    trial, _, kind = folders.partition("/")
    fetch_folder(root / "trials" if trial == "*" else trial_folder(root, trial), f"/{kind}/images-*.json")
    paths = sorted(root.glob(f"trials/{folders}/images-*.json"))
    return [read_evaluation(path, path.parent.parent.name) for path in paths]


def _read(path: Path, trial_id: str | None, adapter: TypeAdapter[Record]) -> Record:
    """One record. Pydantic checks every field's type and reads "NaN" and "Infinity" as floats."""
    try:
        record = adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise UserError(f"{path}: damaged ({where}{first['msg']}); restore or remove it") from None
    if trial_id not in (None, record.trial_id):
        raise UserError(f"{path}: is the record of trial {record.trial_id}; move it back or remove it")
    return record
