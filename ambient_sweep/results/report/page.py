"""The sweep's report: one HTML file that needs no server and no network; its numbers come from the tables alone."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.candidates import Row, candidates, frontier
from ambient_sweep.results.frontier.history import hypervolume_history
from ambient_sweep.results.frontier.select import select
from ambient_sweep.results.report.frontier_plot import frontier_image
from ambient_sweep.results.report.history_plot import history_image
from ambient_sweep.results.report.html import bullets, escaped, figure, number, percent, table
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.storage import write_atomic
from ambient_sweep.trial.records import evaluation_path

REPORT_FILE = "report.html"
PICKS = ("knee", "max-memorization=0.05")
GRIDS = 8  # pictures of samples shown

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
img { max-width: 100% } figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9em }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9em; white-space: nowrap }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #ddd } td.n { text-align: right }
code, pre { background: #f4f4f4; border-radius: 3px; padding: .1em .3em } pre { padding: .7rem; overflow-x: auto }
"""


def write_report(root: Path, tables: Tables) -> Path:
    """Writes report.html under `root` from its tables, atomically; returns its path. Raises UserError where measures mix."""
    path = root / REPORT_FILE
    write_atomic(path, build_report(root, tables).encode())
    return path


def build_report(root: Path, tables: Tables) -> str:
    """The whole page. The pictures of samples are read from the trials' folders under `root`."""
    rows, front = candidates(tables.evaluations), frontier(tables.evaluations).to_pylist()
    name = escaped(root.resolve().name)
    sections = [
        f"<h1>Sweep {name}</h1>",
        _summary(tables, rows),
        figure(frontier_image(tables.evaluations), "frontier of fidelity against memorization"),
        "<h2>Picked configs</h2>",
        *(_pick(tables, rule) for rule in PICKS),
        f"<p>To train the first again:</p><pre>{escaped(_commands(root))}</pre>",
        "<h2>Frontier</h2>",
        _frontier_table(front),
        "<h2>What noise buys over stopping clean training early</h2>",
        _baseline(rows.to_pylist(), front),
        "<h2>How the frontier grew</h2>",
        _history(tables.trials, rows),
        "<h2>Samples of the frontier's checkpoints</h2>",
        _grids(root, front),
        "<h2>Trials</h2>",
        _trial_table(tables.trials.to_pylist()),
        "<h2>Measures and provenance</h2>",
        _provenance(tables),
    ]
    head = f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{name}</title>'
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _summary(tables: Tables, rows: pa.Table) -> str:
    statuses = Counter(tables.trials[schema.STATUS].to_pylist())
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())) or "none yet"
    hours = sum(tables.trials[schema.DEVICE_SECONDS].to_pylist()) / 3600
    return (
        f"<p>{tables.trials.num_rows} trials ({counts}), {number(hours)} device hours. "
        f"{rows.num_rows} of {tables.evaluations.num_rows} evaluations are candidates for the frontier; the others lack a "
        "finite value, have fewer samples, or measure a checkpoint again. Both objectives: lower is better.</p>"
    )


def _pick(tables: Tables, rule: str) -> str:
    try:
        choice = select(tables.evaluations, rule)
    except UserError as error:
        return f"<p><b>{escaped(rule)}</b>: nothing. {escaped(str(error))}</p>"
    runner_up = f" Runner-up: {_described(choice.runner_up)}." if choice.runner_up else ""
    return f"<p><b>{escaped(rule)}</b>: {_described(choice.row)}. Why: {escaped(choice.reason)}.{runner_up}</p>"


def _commands(root: Path) -> str:
    picked = f"ambient-sweep best {shlex.quote(str(root))} --rule {PICKS[0]} --out picked.yaml"
    return f"{picked}\nambient-sweep train picked.yaml"


def _described(row: Row) -> str:
    return (
        f"trial <code>{escaped(row[schema.TRIAL_ID])}</code> after {row[schema.IMAGES]:,} images "
        f"({percent(row[schema.FRACTION])} of its training), endpoint {escaped(row[schema.ENDPOINT])}, "
        f"sigma {number(row[schema.SIGMA])}, {escaped(row[schema.OBJECTIVE])}: "
        f"{escaped(row[schema.FIDELITY_MEASURE])} {_interval(row, schema.FIDELITY)}, "
        f"{escaped(row[schema.MEMORIZATION_MEASURE])} {_interval(row, schema.MEMORIZATION)}"
    )


def _interval(row: Row, name: str) -> str:
    low, high = row[schema.low(name)], row[schema.high(name)]
    ends = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return f"{number(row[name])}{ends}"


def _frontier_table(front: Sequence[Row]) -> str:
    header = (
        "#", "trial", "role", "images", "length", "endpoint", "sigma", "objective", "fidelity", "memorization",
        "probability", "runs", "mean fidelity", "mean memorization",
    )  # fmt: skip
    names = (schema.TRIAL_ID, schema.ROLE, schema.IMAGES)
    cells = [
        (
            index,
            *(row[name] for name in names),
            percent(row[schema.FRACTION]),
            *(row[name] for name in (schema.ENDPOINT, schema.SIGMA, schema.OBJECTIVE)),
            *(_interval(row, name) for name in (schema.FIDELITY, schema.MEMORIZATION)),
            percent(row[schema.FRONT_PROBABILITY]),
            row[schema.RUNS],
            *(f"{number(row[m])} \u00b1 {number(row[e])}" for m, e in zip(schema.MEANS, schema.ERRORS, strict=True)),
        )
        for index, row in enumerate(front, start=1)
    ]
    note = (
        "<p>Numbered as in the picture; in brackets, 95 % intervals of this checkpoint. Probability: that the config, "
        "trained to this length with any seed, is on the frontier; estimated from its training runs, whose means and "
        "standard errors come last.</p>"
    )
    return note + table(header, cells)


def _baseline(rows: Sequence[Row], front: Sequence[Row]) -> str:
    clean, others = [row for row in rows if _is_clean(row)], [row for row in rows if not _is_clean(row)]
    if not clean or not others:
        missing = "baseline (clean training)" if not clean else "trial on noisy images"
        return f"<p>No evaluated {missing}, so there is nothing to compare.</p>"
    best = min(clean, key=lambda row: (row[schema.FIDELITY], row[schema.MEMORIZATION]))
    on_front = [f"{row[schema.IMAGES]:,} images" for row in front if _is_clean(row)]
    beaten = sum(any(_beats(other, row) for other in others) for row in clean)
    facts = [
        f"Clean training at its best: {_described(best)}.",
        f"Points of the frontier that are clean training, stopped early or not: {len(on_front)} of {len(front)}"
        + (f" ({', '.join(on_front)})." if on_front else "."),
        f"Checkpoints of clean training that some noisy trial beats in both objectives at once: {beaten} of {len(clean)}.",
    ]
    return bullets(facts) + "<p>Where intervals overlap, chance may have decided.</p>"


def _is_clean(row: Row) -> bool:
    """Ordinary training on clean images: the baseline, and any searched trial without noise."""
    return bool(row[schema.ROLE] == "baseline" or row[schema.SIGMA] == 0)


def _beats(one: Row, other: Row) -> bool:
    return bool(one[schema.FIDELITY] < other[schema.FIDELITY] and one[schema.MEMORIZATION] < other[schema.MEMORIZATION])


def _history(trials: pa.Table, rows: pa.Table) -> str:
    if rows.num_rows == 0:
        return "<p>Nothing was measured yet.</p>"
    history = hypervolume_history(trials, rows)
    first = rows.slice(0, 1).to_pylist()[0]
    picture = history_image(history, (first[schema.FIDELITY_MEASURE], first[schema.MEMORIZATION_MEASURE]))
    executed, logical = (sum(trials[name].to_pylist()) for name in (schema.IMAGES_EXECUTED, schema.IMAGES_DONE))
    caption = (
        f"Hypervolume of all checkpoints, {number(float(history.volume[-1]))} at the end, as if trials had run one after "
        f"another. {executed:,} images were trained; without shared stages it would have been {logical:,}."
    )
    return figure(picture, "hypervolume over images trained and over device seconds", caption)


def _grids(root: Path, front: Sequence[Row]) -> str:
    shown = []
    for index, row in enumerate(front, start=1):
        path = evaluation_path(root, row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.ENDPOINT], ".png")
        if path.is_file():
            shown.append((path, f"samples of frontier point {index}", f"{index}: {_described(row)}"))
    if not shown:
        return "<p>No pictures were written.</p>"
    step = max(1, -(-(len(shown) - 1) // (GRIDS - 1)))
    chosen = [*shown[:-1:step], shown[-1]]
    note = f"<p>Above, samples; below each, the training image nearest to it. {len(chosen)} of {len(front)} points.</p>"
    return note + "".join(figure(path.read_bytes(), name, caption) for path, name, caption in chosen)


def _trial_table(trials: Sequence[Row]) -> str:
    columns = {
        "trial": schema.TRIAL_ID,
        "role": schema.ROLE,
        "status": schema.STATUS,
        "reason": schema.REASON,
        "sigma": schema.SIGMA,
        "objective": schema.OBJECTIVE,
        "images done": schema.IMAGES_DONE,
        "of": schema.IMAGES_ASKED,
        "executed": schema.IMAGES_EXECUTED,
        "forked at": schema.IMAGES_FORKED,
        "rung": schema.RUNG,
        "device s": schema.DEVICE_SECONDS,
        "fidelity": schema.FIDELITY,
        "memorization": schema.MEMORIZATION,
    }
    note = (
        "<p>Executed: images that this trial trained itself; those up to its fork are another trial's. Rung: the last at "
        "which it was compared, from 0. Objectives: at full length and main endpoint.</p>"
    )
    return note + table(columns, [[row[name] for name in columns.values()] for row in trials])


def _provenance(tables: Tables) -> str:
    trials, evaluations = tables
    versions = (json.loads(text) for text in set(trials[schema.VERSIONS].to_pylist()))
    packages = sorted({f"{name} {version}" for packages in versions for name, version in packages.items()})
    facts = {
        "fidelity": _distinct(trials, schema.FIDELITY_MEASURE),
        "memorization": _distinct(trials, schema.MEMORIZATION_MEASURE),
        "distances and encoders": _distinct(trials, "evaluation.distances"),
        "samples per evaluation": _distinct(evaluations, schema.SAMPLES),
        "data": f"{_distinct(trials, 'data.source')}, {_distinct(trials, 'data.train_size')} training images",
        "data fingerprint": _distinct(trials, schema.DATA_FINGERPRINT),
        "reference": _distinct(trials, schema.REFERENCE_KEY),
        "devices": _distinct(trials, schema.DEVICE),
        "code revision": _distinct(trials, schema.CODE_REVISION),
        "versions": ", ".join(packages) or "none",
    }
    return bullets(f"{escaped(name)}: {escaped(value)}" for name, value in facts.items())


def _distinct(rows: pa.Table, name: str) -> str:
    values = {", ".join(value) if isinstance(value, list) else str(value) for value in rows[name].to_pylist()}
    return ", ".join(sorted(values)) or "none"
