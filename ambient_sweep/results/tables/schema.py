"""The columns of both tables, each named once, and the Arrow schemas that the Parquet files declare.

Times are UTC without a zone (hence `_utc`) and versions are a JSON object in a string, so that pandas, Polars and DuckDB
read them without another package. Config columns have the dotted keys of the config.
"""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa

from ambient_sweep.config import knobs
from ambient_sweep.config.sections import Distance, Extra, Memorization

VERSION = 6  # raise it when a column is added, removed or renamed, or its type or meaning changes

# -- in both tables
TRIAL_ID = "trial_id"
ROLE = "role"
REFERENCE_KEY = "reference_key"
FIDELITY = "fidelity"
MEMORIZATION = "memorization"
FIDELITY_MEASURE = "fidelity_measure"
MEMORIZATION_MEASURE = "memorization_measure"
IMAGES_EXECUTED = "images_executed"

# -- trials
STATUS = "status"
IMAGES_FORKED = "images_forked"
DEVICE_SECONDS = "device_seconds"
STARTED = "started_utc"
FINISHED = "finished_utc"
VERSIONS = "versions"
FOLDER = "folder"

# -- evaluations
TRIAL_STATUS = "trial_status"
IMAGES = "images"
IMAGES_PLAIN = "images_plain"
FRACTION = "fraction"
ENDPOINT = "endpoint"
SAMPLES = "samples"
EVALUATION_SEED = "evaluation_seed"
CHECKPOINT = "checkpoint"
ON_FRONT = "on_front"
RUNS = "runs"
MEANS = ("fidelity_mean", "memorization_mean")
ERRORS = ("fidelity_error", "memorization_error")

# -- config columns that code reads by name
SEED = "seed"
SAMPLES_ASKED = "evaluation.samples"  # at full length; early lengths may be measured on fewer
SAMPLES_SEED = "evaluation.seed"
SIGMA = "observed.sigma"
OBJECTIVE = "objective.kind"
LEARNING_RATE = "optimizer.lr"

MEASURES = {
    **dict.fromkeys(get_args(Distance), "Frechet distance to held-out images"),
    **dict.fromkeys(get_args(Extra), "compared with held-out images, in the features of evaluation.fidelity"),
    **dict.fromkeys(get_args(Memorization), "how closely samples resemble training images"),
}

TABLE_KEY = b"ambient_sweep.table"
VERSION_KEY = b"ambient_sweep.schema_version"
DESCRIPTION = b"description"  # of a field


def low(name: str) -> str:
    return f"{name}_low"


def high(name: str) -> str:
    return f"{name}_high"


def count(name: str) -> str:
    return f"{name}_n"


def arrow_type(annotation: Any) -> tuple[pa.DataType, bool]:
    """Arrow type and nullability of a knob's annotation. Raises TypeError for one that has no column type."""
    scalars = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in scalars:
        return scalars[annotation], False
    if origin is Annotated:
        return arrow_type(arguments[0])
    if origin is Literal:
        kinds = {type(value) for value in arguments}
        if len(kinds) == 1:
            return arrow_type(kinds.pop())
    if origin in (Union, types.UnionType) and len(arguments) == 2 and types.NoneType in arguments:
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return arrow_type(inner)[0], True
    if origin is tuple:
        kinds = {arrow_type(argument)[0] for argument in arguments if argument is not Ellipsis}
        if len(kinds) == 1:
            return pa.list_(kinds.pop()), False
    raise TypeError(f"no column type for the annotation {annotation!r}")


def _field(name: str, kind: pa.DataType, nullable: bool, meaning: str) -> pa.Field:
    return pa.field(name, kind, nullable, metadata={DESCRIPTION: meaning})


def _interval(name: str, meaning: str) -> list[pa.Field]:
    ends = {name: meaning, low(name): f"lower end of the 95 % interval of {name}", high(name): "its upper end"}
    return [_field(each, REAL, True, text) for each, text in ends.items()]


def _measure(name: str, meaning: str) -> list[pa.Field]:
    return [*_interval(name, meaning), _field(count(name), WHOLE, True, f"number of samples of {name}")]


def _schema(table: str, *names: str | list[pa.Field]) -> pa.Schema:
    """Of columns, and of groups of fields, before those of the config."""
    config = [_field(key, *arrow_type(knob.annotation), knob.description or "") for key, knob in knobs().items()]
    parts = [[_field(part, *COLUMNS[part])] if isinstance(part, str) else part for part in (*names, config)]
    metadata = {TABLE_KEY: table.encode(), VERSION_KEY: str(VERSION).encode()}
    return pa.schema([field for part in parts for field in part], metadata)


TEXT, WHOLE, REAL, TRUTH, TIME = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us")
COLUMNS = {  # name -> type, nullable, meaning; of those that are no measures and not of the config
    TRIAL_ID: (TEXT, False, "the trial"),
    ROLE: (TEXT, False, "search, baseline (ordinary training on clean images), control or replicate"),
    STATUS: (TEXT, False, "running, completed, stopped or failed"),
    TRIAL_STATUS: (TEXT, False, "the trial's status: running, completed, stopped or failed"),
    "replicate_of": (TEXT, True, "the trial that a replicate trains again with another seed"),
    "reason": (TEXT, True, "why the trial failed or was stopped, or what is wrong with its model"),
    FIDELITY_MEASURE: (TEXT, False, "the measure used as fidelity"),
    MEMORIZATION_MEASURE: (TEXT, False, "the measure used as memorization"),
    "images_asked": (WHOLE, False, "full length of the trial"),
    "images_done": (WHOLE, False, "training position that the trial reached"),
    IMAGES_EXECUTED: (WHOLE, False, "images that the trial trained itself, without its stages, with repeats"),
    IMAGES_FORKED: (WHOLE, False, "position of the last stage that the trial forked from; 0 without one"),
    DEVICE_SECONDS: (REAL, False, "seconds of training and evaluation, times workers"),
    "parameters": (WHOLE, False, "number of the network's parameters"),
    "device": (TEXT, False, "the device that the trial ran on"),
    STARTED: (TIME, False, "start, in UTC without a zone"),
    FINISHED: (TIME, True, "end, in UTC without a zone"),
    "data_fingerprint": (TEXT, False, "hash of the training images"),
    REFERENCE_KEY: (TEXT, False, "hash of the images that measures compare with"),
    VERSIONS: (TEXT, False, "versions of packages, a JSON object"),
    "code_revision": (TEXT, True, "Git revision of the code, where known"),
    FOLDER: (TEXT, False, "the trial's folder, relative to the run's"),
    "rung": (WHOLE, True, "last rung at which the trial was compared with others, from 0"),
    "stage": (TEXT, True, "key of the last stage that the trial forked from"),
    IMAGES: (WHOLE, False, "training length of the checkpoint"),
    IMAGES_PLAIN: (WHOLE, False, "images of plain training that need as many network passes as those up to here"),
    FRACTION: (REAL, False, "training length as a fraction of the horizon"),
    ENDPOINT: (TEXT, False, "noise level at which sampling ends, zero or observed; distilled: one step of a generator"),
    "main_endpoint": (TRUTH, False, "whether the objective was designed for this endpoint"),
    ON_FRONT: (TRUTH, False, "whether the row states the values of a checkpoint on the frontier"),
    RUNS: (WHOLE, True, "training runs of the row's recipe at this length; replicates alone where there are any"),
    **dict.fromkeys(MEANS, (REAL, True, "mean over these runs")),
    **dict.fromkeys(ERRORS, (REAL, True, "standard error of the mean; null for a single run")),
    SAMPLES: (WHOLE, False, "number of samples"),
    EVALUATION_SEED: (WHOLE, False, "seed of the samples; not evaluation.seed where a checkpoint was measured again"),
    "problem": (TEXT, True, "what makes a generator unusable; null where nothing does"),
    "seconds": (REAL, False, "duration of the evaluation"),
    CHECKPOINT: (TEXT, False, "the checkpoint's folder, relative to the run's"),
}
OBJECTIVES = [
    *_interval(FIDELITY, "the first objective, lower is better"),
    *_interval(MEMORIZATION, "the second objective, lower is better"),
]

TRIALS: pa.Schema = _schema(
    "trials", TRIAL_ID, ROLE, STATUS, "replicate_of", "reason", OBJECTIVES, FIDELITY_MEASURE, MEMORIZATION_MEASURE,
    "images_asked", "images_done", IMAGES_EXECUTED, IMAGES_FORKED, DEVICE_SECONDS, "parameters", "device", STARTED, FINISHED,
    "data_fingerprint", REFERENCE_KEY, VERSIONS, "code_revision", FOLDER, "rung", "stage",
)  # fmt: skip

EVALUATIONS: pa.Schema = _schema(
    "evaluations", TRIAL_ID, ROLE, TRIAL_STATUS, "replicate_of", IMAGES, IMAGES_EXECUTED, IMAGES_PLAIN, FRACTION,
    "images_asked", ENDPOINT, "main_endpoint", ON_FRONT, RUNS, *MEANS, *ERRORS, OBJECTIVES, FIDELITY_MEASURE,
    MEMORIZATION_MEASURE, SAMPLES, EVALUATION_SEED, "problem", "seconds", CHECKPOINT, "data_fingerprint", REFERENCE_KEY,
    *(_measure(name, meaning) for name, meaning in MEASURES.items()),
)  # fmt: skip
