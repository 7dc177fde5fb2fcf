"""The sweep's report: one HTML file that needs no server and no network; its numbers come from the tables alone."""

import base64
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.results.frontier.select import Choice
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.storage import write_atomic

FRONTIER_COLUMNS = (
    schema.TRIAL_ID, schema.ROLE, schema.IMAGES, schema.ENDPOINT, schema.SIGMA, schema.OBJECTIVE,
    *(end(name) for name in (schema.FIDELITY, schema.MEMORIZATION) for end in (str, schema.low, schema.high)),
    schema.RUNS, *schema.MEANS, *schema.ERRORS,
)  # fmt: skip
TRIAL_COLUMNS = (
    schema.TRIAL_ID, schema.ROLE, schema.STATUS, "reason", schema.SIGMA, schema.OBJECTIVE, "images_done",
    "images_asked", schema.IMAGES_EXECUTED, schema.IMAGES_FORKED, "rung", schema.DEVICE_SECONDS, schema.FIDELITY,
    schema.MEMORIZATION,
)  # fmt: skip
PROVENANCE = (
    schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, "evaluation.distances", schema.SAMPLES_ASKED, "data.source",
    "data.train_size", "data_fingerprint", schema.REFERENCE_KEY, "device", "code_revision", schema.VERSIONS,
)  # fmt: skip


def write_report(path: Path, tables: Tables, choice: Choice, picture: bytes, best_file: Path) -> None:
    """Writes the page to `path`, atomically. picture: the frontier as PNG; best_file: the config that was chosen."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    templates.filters["cell"] = _cell
    trials = tables.trials.to_pylist()
    page = templates.get_template("page.html").render(
        name=path.resolve().parent.name,
        counts=", ".join(f"{n} {status}" for status, n in Counter(row[schema.STATUS] for row in trials).items()),
        hours=sum(row[schema.DEVICE_SECONDS] for row in trials) / 3600,
        reason=choice.reason,
        chosen=[row for row in (choice.row, choice.runner_up) if row],
        best_file=shlex.quote(str(best_file)),
        picture=base64.b64encode(picture).decode(),
        front=frontier(tables.evaluations).to_pylist(),
        trials=trials,
        frontier_columns=FRONTIER_COLUMNS,
        trial_columns=TRIAL_COLUMNS,
        provenance={name: sorted({str(row[name]) for row in trials}) for name in PROVENANCE},
    )
    write_atomic(path, page.encode())


def _cell(value: Any) -> str:
    """A table's value as text; numbers with four digits, three decimals below 1."""
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)
