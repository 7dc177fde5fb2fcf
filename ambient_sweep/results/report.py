"""The sweep's report: one HTML file that needs no server and no network, with numbers from the tables only."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ambient_sweep.errors import UserError
from ambient_sweep.results import schema
from ambient_sweep.results.confidence import FRONT_PROBABILITY, RUNS, with_standings
from ambient_sweep.results.evidence import confidence_section, history_section
from ambient_sweep.results.markup import escaped, image, number, percent, table
from ambient_sweep.results.plot import frontier_image
from ambient_sweep.results.select import Row, candidates, frontier, select
from ambient_sweep.results.table import Tables, read_tables
from ambient_sweep.storage import write_atomic
from ambient_sweep.trial.records import evaluation_path

REPORT_FILE = "report.html"
PICKS = ("knee", "max-memorization=0.05")
OBJECTIVES = (schema.FIDELITY, schema.MEMORIZATION)
GRIDS = 8  # pictures of samples shown

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
img { max-width: 100% } figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9em }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9em; white-space: nowrap }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #ddd } td.n { text-align: right }
tr.baseline td { color: #b03a4a } code, pre { background: #f4f4f4; border-radius: 3px; padding: .1em .3em }
pre { padding: .7rem; overflow-x: auto } td.reason { white-space: normal }
"""


def write_report(root: Path, tables: Tables | None = None) -> Path:
    """Writes report.html under `root` from the tables there (or those given), atomically; returns its path.

    Raises UserError where the tables cannot be read or mix measures.
    """
    tables = read_tables(root) if tables is None else tables
    path = root / REPORT_FILE
    write_atomic(path, build_report(root, tables).encode())
    return path


def build_report(root: Path, tables: Tables) -> str:
    """The whole page. The pictures of samples are read from the trials' folders under `root`."""
    if FRONT_PROBABILITY not in tables.evaluations.column_names:
        tables = Tables(tables.trials, with_standings(tables.evaluations))
    rows, front = candidates(tables.evaluations), frontier(tables.evaluations).to_pylist()
    picture = image(frontier_image(tables.evaluations), "frontier of fidelity against memorization")
    sections = [
        f"<h1>Sweep {escaped(root.resolve().name)}</h1>",
        _summary(tables, rows.to_pylist()),
        f"<figure>{picture}</figure>",
        "<h2>Picked configs</h2>",
        *(_pick(tables, rule) for rule in PICKS),
        "<h2>Frontier</h2>",
        _frontier_table(front),
        "<h2>How sure the frontier is</h2>",
        confidence_section(rows),
        "<h2>How the frontier was found</h2>",
        history_section(tables.trials, rows),
        "<h2>What noise buys over stopping clean training early</h2>",
        _baseline(rows.to_pylist(), front),
        "<h2>Samples of the frontier's checkpoints</h2>",
        _grids(root, front),
        "<h2>Train the best again</h2>",
        _commands(root),
        "<h2>Trials</h2>",
        _trial_table(tables.trials.to_pylist()),
        "<h2>What was measured, and with what</h2>",
        _provenance(tables),
    ]
    title = f"ambient-sweep: {escaped(root.resolve().name)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


# -- sections -------------------------------------------------------------------------------------------------------


def _summary(tables: Tables, rows: Sequence[Row]) -> str:
    statuses = Counter(tables.trials[schema.STATUS].to_pylist())
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())) or "none yet"
    left_out = tables.evaluations.num_rows - len(rows)
    seconds = sum(tables.trials[schema.DEVICE_SECONDS].to_pylist())
    return (
        f"<p>{tables.trials.num_rows} trials ({counts}), {tables.evaluations.num_rows} evaluations, "
        f"{number(seconds / 3600)} device hours. {len(rows)} checkpoints are candidates for the frontier"
        + (f"; {left_out} are not, having no finite value or fewer samples" if left_out else "")
        + ". Both objectives: lower is better.</p>"
    )


def _pick(tables: Tables, rule: str) -> str:
    try:
        choice = select(tables.evaluations, rule)
    except UserError as error:
        return f"<p><b>{escaped(rule)}</b>: nothing. {escaped(str(error))}</p>"
    runner_up = f" Runner-up: {_described(choice.runner_up)}." if choice.runner_up else ""
    return f"<p><b>{escaped(rule)}</b>: {_described(choice.row)}. Why: {escaped(choice.reason)}.{runner_up}</p>"


def _described(row: Row) -> str:
    return (
        f"trial <code>{escaped(row[schema.TRIAL_ID])}</code> after {row[schema.IMAGES]:,} images "
        f"({percent(row[schema.FRACTION])} of its training), endpoint {escaped(row[schema.ENDPOINT])}, "
        f"sigma {number(row[schema.SIGMA])}, {escaped(row[schema.OBJECTIVE])}: "
        f"{escaped(row[schema.FIDELITY_MEASURE])} {_interval(row, schema.FIDELITY)}, "
        f"{escaped(row[schema.MEMORIZATION_MEASURE])} {_interval(row, schema.MEMORIZATION)}"
    )


def _frontier_table(front: Sequence[Row]) -> str:
    if not front:
        return "<p>No evaluation has finite values of both objectives yet.</p>"
    fidelity, memorization = front[0][schema.FIDELITY_MEASURE], front[0][schema.MEMORIZATION_MEASURE]
    header = ("#", "trial", "role", "images", "length", "endpoint", "sigma", "objective", "consistency weight")
    cells = [
        (
            index,
            row[schema.TRIAL_ID],
            row[schema.ROLE],
            row[schema.IMAGES],
            percent(row[schema.FRACTION]),
            row[schema.ENDPOINT],
            row[schema.SIGMA],
            row[schema.OBJECTIVE],
            row[schema.WEIGHT] if row[schema.OBJECTIVE] == "ambient_consistency" else "-",
            _interval(row, schema.FIDELITY),
            _interval(row, schema.MEMORIZATION),
            percent(row[FRONT_PROBABILITY]),
            row[RUNS],
        )
        for index, row in enumerate(front, start=1)
    ]
    note = (
        "<p>The numbers are those in the picture; in brackets, 95 % intervals; last, the probability that config and "
        "length are on the frontier whatever the seed, and the training runs that tell.</p>"
    )
    names = (*header, fidelity, memorization, "on the frontier", "runs")
    return note + table(names, cells, [row[schema.ROLE] for row in front])


def _baseline(rows: Sequence[Row], front: Sequence[Row]) -> str:
    clean, others = [row for row in rows if _is_clean(row)], [row for row in rows if not _is_clean(row)]
    if not clean or not others:
        missing = "baseline (clean training)" if not clean else "trial on noisy images"
        return f"<p>No evaluated {missing}, so there is nothing to compare.</p>"
    best = min(clean, key=lambda row: (row[schema.FIDELITY], row[schema.MEMORIZATION]))
    on_front = [row for row in front if _is_clean(row)]
    beaten = [row for row in clean if any(_beats(other, row) for other in others)]
    facts = [
        f"Clean training at its best: {_described(best)}.",
        f"Of the {len(front)} points of the frontier, {len(on_front)} are clean training stopped somewhere"
        + (": " + ", ".join(f"{row[schema.IMAGES]:,} images" for row in on_front) if on_front else "")
        + f"; the other {len(front) - len(on_front)} are not.",
        f"{len(beaten)} of the {len(clean)} checkpoints of clean training are beaten in both objectives at once.",
    ]
    notes = "".join(f"<li>{fact}</li>" for fact in facts)
    return f"<ul>{notes}</ul>{_at_no_more_memorization(clean, others)}"


def _at_no_more_memorization(clean: Sequence[Row], others: Sequence[Row]) -> str:
    """For each checkpoint of clean training, the best of the others that memorize no more."""
    cells = []
    for row in sorted(clean, key=lambda row: (row[schema.TRIAL_ID], row[schema.IMAGES])):
        allowed = [other for other in others if other[schema.MEMORIZATION] <= row[schema.MEMORIZATION]]
        best = min(allowed, key=lambda other: (other[schema.FIDELITY], other[schema.MEMORIZATION]), default=None)
        found: tuple[str, ...] = ("none", "", "", "")
        if best is not None:
            trial = f"{best[schema.TRIAL_ID]}, {percent(best[schema.FRACTION])}, {best[schema.ENDPOINT]}"
            found = (trial, number(best[schema.SIGMA]), *(_interval(best, name) for name in OBJECTIVES))
        cells.append((row[schema.TRIAL_ID], row[schema.IMAGES], *(_interval(row, name) for name in OBJECTIVES), *found))
    header = ("clean training", "images", *OBJECTIVES, "best with noise, memorizing no more", "sigma", *OBJECTIVES)
    note = "<p>Comparisons of measured values: where intervals overlap, chance may have decided.</p>"
    return table(header, cells, ["search"] * len(cells)) + note


def _interval(row: Row, name: str) -> str:
    low, high = row[schema.low(name)], row[schema.high(name)]
    ends = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return f"{number(row[name])}{ends}"


def _is_clean(row: Row) -> bool:
    """Ordinary training on clean images: the baseline, and any searched trial without noise."""
    return bool(row[schema.ROLE] == "baseline" or row[schema.SIGMA] == 0)


def _beats(one: Row, other: Row) -> bool:
    return bool(one[schema.FIDELITY] < other[schema.FIDELITY] and one[schema.MEMORIZATION] < other[schema.MEMORIZATION])


def _grids(root: Path, front: Sequence[Row]) -> str:
    shown = []
    for index, row in enumerate(front, start=1):
        path = evaluation_path(root, row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.ENDPOINT], ".png")
        if path.is_file():
            shown.append((index, row, path))
    chosen = [shown[i] for i in _spread(len(shown), GRIDS)]
    figures = [
        f"<figure>{image(path.read_bytes(), f'samples of frontier point {index}')}"
        f"<figcaption>{index}: {_described(row)}</figcaption></figure>"
        for index, row, path in chosen
    ]
    note = f"<p>Above, samples; below each, the training image nearest to it. {len(chosen)} of {len(front)} points.</p>"
    return note + "".join(figures) if figures else "<p>No pictures were written.</p>"


def _spread(n: int, k: int) -> list[int]:
    """At most `k` of the numbers below `n`, both ends among them, evenly apart."""
    return list(range(n)) if n <= k else sorted({round(i * (n - 1) / (k - 1)) for i in range(k)})


def _commands(root: Path) -> str:
    lines = [
        f"ambient-sweep best {shlex.quote(str(root))} --rule knee --out picked.yaml",
        "ambient-sweep train picked.yaml",
    ]
    return (
        "<p>The first command writes the picked config with its training length, the second trains it.</p>"
        f"<pre>{escaped(chr(10).join(lines))}</pre>"
    )


def _trial_table(trials: Sequence[Row]) -> str:
    header = (
        "trial", "role", "status", "reason", "sigma", "objective",
        "images done", "asked", "executed", "forked at", "rung", "device s",
    )  # fmt: skip
    names = (
        schema.TRIAL_ID, schema.ROLE, schema.STATUS, schema.REASON, schema.SIGMA, schema.OBJECTIVE,
        schema.IMAGES_DONE, schema.IMAGES_ASKED, schema.IMAGES_EXECUTED, schema.IMAGES_FORKED, schema.RUNG,
        schema.DEVICE_SECONDS,
    )  # fmt: skip
    cells = [[*("" if row[name] is None else row[name] for name in names), _full(row)] for row in trials]
    note = (
        "<p>Executed: images trained for this trial; the rest, up to where it forked, another trial trained. Rung: where it "
        "was compared last, from 0. The last column: fidelity and memorization at full length, main endpoint.</p>"
    )
    return note + table((*header, "full length"), cells, [row[schema.ROLE] for row in trials])


def _full(row: Row) -> str:
    if row[schema.FIDELITY] is None:
        return ""
    return f"{number(row[schema.FIDELITY])} / {number(row[schema.MEMORIZATION])}"


def _provenance(tables: Tables) -> str:
    def distinct(rows: Any, name: str) -> str:
        values = {json.dumps(value) if isinstance(value, list) else str(value) for value in rows[name].to_pylist()}
        return ", ".join(sorted(values)) or "none"

    trials, evaluations = tables
    versions = (json.loads(text) for text in set(trials[schema.VERSIONS].to_pylist()))
    packages = sorted({f"{name} {version}" for packages in versions for name, version in packages.items()})
    facts = [
        ("fidelity", distinct(trials, schema.FIDELITY_MEASURE)),
        ("memorization", distinct(trials, schema.MEMORIZATION_MEASURE)),
        ("distances and encoders", distinct(trials, "evaluation.distances")),
        ("samples per evaluation", distinct(evaluations, schema.SAMPLES)),
        ("data", f"{distinct(trials, 'data.source')}, {distinct(trials, 'data.train_size')} training images"),
        ("data fingerprint", distinct(trials, schema.DATA_FINGERPRINT)),
        ("reference", distinct(trials, schema.REFERENCE_KEY)),
        ("devices", distinct(trials, schema.DEVICE)),
        ("code revision", distinct(trials, schema.CODE_REVISION)),
        ("versions", ", ".join(packages) or "none"),
    ]
    return "<ul>" + "".join(f"<li>{escaped(name)}: {escaped(value)}</li>" for name, value in facts) + "</ul>"
