"""The sweep's report: one HTML file that needs no server and no network; its numbers come from the tables alone."""

import base64
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ambient_sweep.results.frontier.candidates import Row, frontier
from ambient_sweep.results.frontier.select import Choice
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.storage import write_atomic

# heading -> column
FRONTIER_COLUMNS = {
    "trial": schema.TRIAL_ID, "role": schema.ROLE, "images": schema.IMAGES, "endpoint": schema.ENDPOINT,
    "sigma": schema.SIGMA, "objective": schema.OBJECTIVE, "fidelity": schema.FIDELITY, "memorization": schema.MEMORIZATION,
    "probability": schema.FRONT_PROBABILITY, "runs": schema.RUNS,
}  # fmt: skip
TRIAL_COLUMNS = {
    "trial": schema.TRIAL_ID, "role": schema.ROLE, "status": schema.STATUS, "reason": schema.REASON,
    "sigma": schema.SIGMA, "objective": schema.OBJECTIVE, "images done": schema.IMAGES_DONE, "of": schema.IMAGES_ASKED,
    "executed": schema.IMAGES_EXECUTED, "forked at": schema.IMAGES_FORKED, "rung": schema.RUNG,
    "device s": schema.DEVICE_SECONDS, "fidelity": schema.FIDELITY, "memorization": schema.MEMORIZATION,
}  # fmt: skip


def write_report(path: Path, tables: Tables, choice: Choice, picture: bytes, best_file: Path) -> None:
    """Writes the page to `path`, atomically. picture: the frontier as PNG; best_file: the config that was chosen."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    templates.filters["cell"] = _cell
    front, trials = frontier(tables.evaluations).to_pylist(), tables.trials.to_pylist()
    page = templates.get_template("page.html").render(
        name=path.resolve().parent.name,
        counts=", ".join(f"{n} {status}" for status, n in Counter(row[schema.STATUS] for row in trials).items()),
        hours=sum(row[schema.DEVICE_SECONDS] for row in trials) / 3600,
        reason=choice.reason,
        chosen=[_with_intervals(row) for row in (choice.row, choice.runner_up) if row],
        best_file=shlex.quote(str(best_file)),
        picture=base64.b64encode(picture).decode(),
        front=[{"number": number, **_with_intervals(row)} for number, row in enumerate(front, start=1)],
        trials=trials,
        frontier_columns=FRONTIER_COLUMNS,
        numbered_columns={"#": "number", **FRONTIER_COLUMNS},
        trial_columns=TRIAL_COLUMNS,
        provenance=_provenance(tables),
    )
    write_atomic(path, page.encode())


def _cell(value: Any) -> str:
    """A table's value as text; numbers with four digits, three decimals below 1."""
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)


def _with_intervals(row: Row) -> Row:
    changed = {}
    for name in (schema.FIDELITY, schema.MEMORIZATION):
        low, high = row[schema.low(name)], row[schema.high(name)]
        interval = "" if low is None or high is None else f" [{_cell(low)}, {_cell(high)}]"
        changed[name] = _cell(row[name]) + interval
    return row | changed


def _provenance(tables: Tables) -> dict[str, str]:
    trials, evaluations = tables
    versions = (json.loads(text) for text in set(trials[schema.VERSIONS].to_pylist()))
    packages = sorted({f"{name} {version}" for packages in versions for name, version in packages.items()})
    return {
        "fidelity": _distinct(trials, schema.FIDELITY_MEASURE),
        "memorization": _distinct(trials, schema.MEMORIZATION_MEASURE),
        "distances and encoders": _distinct(trials, "evaluation.distances"),
        "samples per evaluation": _distinct(evaluations, schema.SAMPLES),
        "data": f"{_distinct(trials, 'data.source')}, {_distinct(trials, 'data.train_size')} training images",
        "data fingerprint": _distinct(trials, schema.DATA_FINGERPRINT),
        "reference": _distinct(trials, schema.REFERENCE_KEY),
        "devices": _distinct(trials, schema.DEVICE),
        "code revision": _distinct(trials, schema.CODE_REVISION),
        "versions": ", ".join(packages),
    }


def _distinct(rows: pa.Table, name: str) -> str:
    values = {", ".join(value) if isinstance(value, list) else str(value) for value in rows[name].to_pylist()}
    return ", ".join(sorted(values))
