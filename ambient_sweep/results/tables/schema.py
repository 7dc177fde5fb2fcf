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
ROLE = "role"  # search | baseline | control | replicate
REFERENCE_KEY = "reference_key"  # of the images that measures compare with
FIDELITY = "fidelity"  # the first objective, lower is better
MEMORIZATION = "memorization"  # the second objective, lower is better
FIDELITY_MEASURE = "fidelity_measure"
MEMORIZATION_MEASURE = "memorization_measure"
IMAGES_EXECUTED = "images_executed"  # trained by this trial itself, repeats after restarts included

# -- trials
STATUS = "status"  # running | completed | stopped | failed
IMAGES_FORKED = "images_forked"  # position of the last stage that it forked from; 0: none
DEVICE_SECONDS = "device_seconds"
STARTED = "started_utc"
FINISHED = "finished_utc"
VERSIONS = "versions"  # JSON object: package -> version
FOLDER = "folder"  # relative to the sweep's folder

# -- evaluations
TRIAL_STATUS = "trial_status"
IMAGES = "images"
FRACTION = "fraction"
ENDPOINT = "endpoint"
SAMPLES = "samples"
EVALUATION_SEED = "evaluation_seed"  # another than SAMPLES_SEED: a checkpoint measured again on fresh samples
CHECKPOINT = "checkpoint"  # relative to the sweep's folder
ON_FRONT = "on_front"  # states the values of a checkpoint on the frontier
RUNS = "runs"  # training runs of the row's recipe at its length
MEANS = ("fidelity_mean", "memorization_mean")  # over these runs
ERRORS = ("fidelity_error", "memorization_error")  # standard errors of the means

# -- config columns that code reads by name
SEED = "seed"
SAMPLES_ASKED = "evaluation.samples"  # at full length; early lengths may be measured on fewer
SAMPLES_SEED = "evaluation.seed"
SIGMA = "observed.sigma"
OBJECTIVE = "objective.kind"

MEASURES: tuple[str, ...] = (*get_args(Distance), *get_args(Extra), *get_args(Memorization))

TABLE_KEY = b"ambient_sweep.table"
VERSION_KEY = b"ambient_sweep.schema_version"


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


def config_fields() -> list[pa.Field]:
    fields = []
    for key, knob in knobs().items():
        kind, nullable = arrow_type(knob.annotation)
        fields.append(pa.field(key, kind, nullable, metadata={"description": knob.description or ""}))
    return fields


def _fields(kind: pa.DataType, *names: str, nullable: bool = False) -> list[pa.Field]:
    return [pa.field(name, kind, nullable) for name in names]


def _interval(name: str) -> list[pa.Field]:
    return _fields(pa.float64(), name, low(name), high(name), nullable=True)


def _measure(name: str) -> list[pa.Field]:
    return [*_interval(name), *_fields(pa.int64(), count(name), nullable=True)]


def _schema(table: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={TABLE_KEY: table.encode(), VERSION_KEY: str(VERSION).encode()})


TEXT, WHOLE, REAL, TIME = pa.string(), pa.int64(), pa.float64(), pa.timestamp("us")

TRIALS: pa.Schema = _schema(
    "trials",
    [
        *_fields(TEXT, TRIAL_ID, ROLE, STATUS),
        *_fields(TEXT, "replicate_of", "reason", nullable=True),
        *_interval(FIDELITY),
        *_interval(MEMORIZATION),
        *_fields(TEXT, FIDELITY_MEASURE, MEMORIZATION_MEASURE),
        *_fields(WHOLE, "images_asked", "images_done", IMAGES_EXECUTED, IMAGES_FORKED),
        *_fields(REAL, DEVICE_SECONDS),
        *_fields(WHOLE, "parameters"),
        *_fields(TEXT, "device"),
        *_fields(TIME, STARTED),
        *_fields(TIME, FINISHED, nullable=True),
        *_fields(TEXT, "data_fingerprint", REFERENCE_KEY, VERSIONS),
        *_fields(TEXT, "code_revision", nullable=True),
        *_fields(TEXT, FOLDER),
        *_fields(WHOLE, "rung", nullable=True),
        *_fields(TEXT, "stage", nullable=True),
        *config_fields(),
    ],
)

EVALUATIONS: pa.Schema = _schema(
    "evaluations",
    [
        *_fields(TEXT, TRIAL_ID, ROLE, TRIAL_STATUS),
        *_fields(TEXT, "replicate_of", nullable=True),
        *_fields(WHOLE, IMAGES, IMAGES_EXECUTED),
        *_fields(REAL, FRACTION),
        *_fields(WHOLE, "images_asked"),
        *_fields(TEXT, ENDPOINT),
        *_fields(pa.bool_(), "main_endpoint", ON_FRONT),
        *_fields(WHOLE, RUNS, nullable=True),
        *_fields(REAL, *MEANS, *ERRORS, nullable=True),
        *_interval(FIDELITY),
        *_interval(MEMORIZATION),
        *_fields(TEXT, FIDELITY_MEASURE, MEMORIZATION_MEASURE),
        *_fields(WHOLE, SAMPLES, EVALUATION_SEED),
        *_fields(REAL, "seconds"),
        *_fields(TEXT, CHECKPOINT, "data_fingerprint", REFERENCE_KEY),
        *(field for name in MEASURES for field in _measure(name)),
        *config_fields(),
    ],
)
