"""What the report's page shows, as one JSON document made from the tables."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ambient_sweep.config.values import is_acting
from ambient_sweep.pareto import hypervolume, pareto_mask
from ambient_sweep.results.frontier.candidates import (
    PLACE,
    Floats,
    Row,
    choosing_mask,
    frontier,
    objectives,
    own_mask,
    stated_candidates,
    untouched_mask,
)
from ambient_sweep.results.report.pictures import inline_pictures
from ambient_sweep.results.report.window import LINEAR_BELOW, TICKS, clean_line, window
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables

MOST_POINTS = 2000  # drawn; the frontier is among them
LONGEST = 300  # characters of a text
SHARES = {"mem_excess": "evaluation.quantile", "sim_excess": "evaluation.quantile"}  # measure -> share by chance

CHOOSING = "choosing"  # the column of choosing_mask
ONCE = "once"  # the column of what is no candidate, being measured on fewer samples alone
POINTS = (
    *PLACE, schema.ROLE, schema.FRACTION, "main_endpoint", schema.SIGMA, schema.OBJECTIVE, schema.SAMPLES,
    schema.EVALUATION_SEED, schema.SAMPLES_SEED, CHOOSING, ONCE,
    *(end(name) for name in (schema.FIDELITY, schema.MEMORIZATION) for end in (str, schema.low, schema.high)),
    schema.RUNS, *schema.MEANS, *schema.ERRORS, schema.ON_FRONT,
)  # fmt: skip
TRIALS = (
    schema.TRIAL_ID, schema.ROLE, schema.STATUS, "reason", "rung", "images_asked", "images_done", schema.IMAGES_EXECUTED,
    schema.IMAGES_FORKED, schema.DEVICE_SECONDS, schema.FOLDER,
)  # fmt: skip
PROVENANCE = (
    schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, "evaluation.distances", schema.SAMPLES_ASKED, "data.source",
    "data.path", "data.train_size", "data_fingerprint", schema.REFERENCE_KEY, "device", "code_revision", schema.VERSIONS,
)  # fmt: skip
Columns = dict[str, list[Any]]


class Importance(NamedTuple):
    """The importance of each searched key, shares from 0 to 1, for (fidelity, memorization)."""

    shares: dict[str, tuple[float, float]]  # empty where there is too little to say
    note: str  # how many evaluations and trials it rests on, or why there is none


NO_IMPORTANCE = Importance({}, "Nothing was searched.")


def document(
    root: Path, tables: Tables, chosen: Row | None, searched: Sequence[str], importance: Importance
) -> dict[str, Any]:
    """All that the page's script reads: plain JSON types, finite numbers, texts of LONGEST characters at most.

    root: the sweep's folder, for sample pictures; searched: config keys that the sweep searched.
    """
    rows, front = stated_candidates(tables.evaluations), frontier(tables.evaluations)
    rows = rows.append_column(CHOOSING, pa.array(choosing_mask(rows))).append_column(ONCE, pa.repeat(False, len(rows)))
    trials = tables.trials.sort_by([(schema.STARTED, "ascending"), (schema.TRIAL_ID, "ascending")])
    own = first_measurements(tables.evaluations)
    found = {
        "linear_below": LINEAR_BELOW,
        "ticks": TICKS,
        "searched": list(searched),
        "trials": _trials(trials, searched),
        "last": _last(own, searched),
        "importance": importance._asdict(),
        "hypervolume": _hypervolume(trials, own),
        "images": _images(trials),
        "failures": _failures(trials),
        "points": {name: [] for name in POINTS},
        "candidates": rows.num_rows,
        "once": 0,
    }
    if rows.num_rows:
        of_front = front.to_pylist()
        fewer = on_fewer_samples(own, rows)
        points = pa.concat_tables([_thinned(rows, chosen), _thinned(fewer, None)])
        found |= {
            "measures": {name: rows[f"{name}_measure"][0].as_py() for name in (schema.FIDELITY, schema.MEMORIZATION)},
            "window": (window(rows, front) if of_front else window(rows, rows))._asdict(),
            "clean": clean_line(rows).tolist(),
            "once": pc.sum(fewer[ONCE]).as_py() or 0,
            "points": points.select(POINTS).to_pydict(),
            "chosen": None if chosen is None else [chosen[name] for name in PLACE],
            "front": [{"place": [row[name] for name in PLACE], "measures": _measures(row)} for row in of_front],
        }
    plain: dict[str, Any] = _plain(found)
    return plain | {"root": str(root), "pictures": inline_pictures(root, front.to_pylist())}  # as long as they are


def provenance(trials: pa.Table) -> dict[str, list[str]]:
    """The different values of what all numbers depend on."""
    return {name: sorted({_words(value) for value in trials[name].to_pylist()}) for name in PROVENANCE}


def _words(value: Any) -> str:
    if value is None:
        return "not given"
    return _clipped(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def first_measurements(table: pa.Table) -> pa.Table:
    """The rows that the search itself went by: measured in full on each trial's own samples, with finite objectives."""
    full = table[schema.SAMPLES].to_numpy() >= table[schema.SAMPLES_ASKED].to_numpy()
    finite = np.isfinite(objectives(table)).all(axis=1)
    return table.filter(pa.array(full & finite & own_mask(table) & ~untouched_mask(table)))


def on_fewer_samples(own: pa.Table, candidates: pa.Table) -> pa.Table:
    """What the search measured on fewer samples than candidates have, with all their columns; never compared with these."""
    fewer = pc.field(schema.SAMPLES) < candidates[schema.SAMPLES][0]
    rows = own.filter(fewer & (pc.field(schema.ROLE) != "replicate"))
    again = set(zip(*(candidates[name].to_pylist() for name in PLACE), strict=True))
    once = [place not in again for place in zip(*(rows[name].to_pylist() for name in PLACE), strict=True)]
    return rows.append_column(CHOOSING, pa.repeat(False, len(rows))).append_column(ONCE, pa.array(once, pa.bool_()))


def _thinned(rows: pa.Table, chosen: Row | None) -> pa.Table:
    """At most MOST_POINTS rows, evenly spread, beside the frontier and the chosen row."""
    wanted = np.asarray(rows[schema.ON_FRONT].to_numpy(zero_copy_only=False), dtype=bool).copy()
    if chosen is not None:
        wanted |= np.all([[value == chosen[name] for value in rows[name].to_pylist()] for name in PLACE], axis=0)
    others = np.flatnonzero(~wanted)
    wanted[others[:: max(1, math.ceil(len(others) / MOST_POINTS))]] = True
    return rows.filter(pa.array(wanted))


def _measures(row: Row) -> list[dict[str, Any]]:
    """All measures of a row, and for shares of samples near training images what chance alone would give."""
    return [
        {
            "name": name, "value": row[name], "low": row[schema.low(name)], "high": row[schema.high(name)],
            "n": row[schema.count(name)], "null": row[SHARES[name]] if name in SHARES else None,
        }
        for name in schema.MEASURES if row[name] is not None
    ]  # fmt: skip


def _trials(trials: pa.Table, searched: Sequence[str]) -> Columns:
    """The trials in the order in which they started, searched values that act; times in hours from the first start on."""
    hours = {}
    times = {name: trials[name].to_numpy().astype("datetime64[ms]") for name in (schema.STARTED, schema.FINISHED)}
    for name, values in times.items():
        since = (values - times[schema.STARTED][0]) / np.timedelta64(1, "h") if len(values) else np.array([])
        hours[name.removesuffix("_utc")] = since.tolist()
    names = dict.fromkeys((*TRIALS, schema.SIGMA, schema.OBJECTIVE, *searched))
    columns: Columns = trials.select(list(names)).to_pydict()
    for key in searched:
        acts = (is_acting(key, kind) for kind in columns[schema.OBJECTIVE])
        columns[key] = [value if acting else None for value, acting in zip(columns[key], acts, strict=True)]
    return columns | hours


def _last(rows: pa.Table, searched: Sequence[str]) -> Columns:
    """The longest measured checkpoint of each searched trial, at the endpoint that its objective was made for."""
    rows = rows.filter((pc.field(schema.ROLE) == "search") & pc.field("main_endpoint")).sort_by(schema.IMAGES)
    newest = {trial_id: index for index, trial_id in enumerate(rows[schema.TRIAL_ID].to_pylist())}
    names = dict.fromkeys((*PLACE, *searched, schema.SIGMA, schema.FIDELITY, schema.MEMORIZATION))
    columns: Columns = rows.take(pa.array(newest.values(), pa.int64())).select(list(names)).to_pydict()
    return columns


def _hypervolume(trials: pa.Table, rows: pa.Table) -> Columns:
    """The hypervolume as trials end, as a share of the last, over images trained and device hours by then.

    Its reference point is the 90th percentile of each objective.
    """
    steps: Columns = {"images": [], "hours": [], "share": []}
    members: dict[str, list[int]] = {}
    for index, trial_id in enumerate(rows[schema.TRIAL_ID].to_pylist()):
        members.setdefault(trial_id, []).append(index)
    if not members:
        return steps
    values, front = objectives(rows), np.empty((0, 2))
    corner = np.quantile(values, 0.9, axis=0)
    names = (schema.TRIAL_ID, schema.IMAGES_EXECUTED, schema.DEVICE_SECONDS)
    found: list[Floats] = [np.zeros(3)]
    for trial in trials.sort_by(schema.FINISHED).select(names).to_pylist():  # those that still run come last
        front = np.concatenate([front, values[members.get(trial[schema.TRIAL_ID], [])]])
        front = front[pareto_mask(front)]
        images, hours = trial[schema.IMAGES_EXECUTED], trial[schema.DEVICE_SECONDS] / 3600
        found.append(np.array([found[-1][0] + images, found[-1][1] + hours, hypervolume(front, corner)]))
    share = np.array(found) / [1, 1, found[-1][2] or 1]
    kept = np.flatnonzero(np.diff(share[:, 2], prepend=-1, append=-1)[:-1])
    kept = np.union1d(kept, len(share) - 1)
    return dict(zip(steps, share[kept].T.tolist(), strict=True)) if share[-1, 2] > 0 else steps


def _images(trials: pa.Table) -> dict[str, int]:
    """What became of the images that all trials together were to train."""
    rows = trials.select((schema.STATUS, "images_asked", "images_done", schema.IMAGES_EXECUTED)).to_pylist()
    asked, trained = (sum(row[name] for row in rows) for name in ("images_asked", schema.IMAGES_EXECUTED))
    left = dict.fromkeys(("stopped", "failed", "running"), 0)
    for row in rows:
        if row[schema.STATUS] in left:
            left[row[schema.STATUS]] += row["images_asked"] - row["images_done"]
    shared = max(0, asked - trained - sum(left.values()))  # repeats after restarts count as trained
    return {"asked": asked, "trained": trained, "shared": shared, **left}


def _failures(trials: pa.Table) -> list[dict[str, Any]]:
    """Failed trials by their reason without its numbers, the most frequent first."""
    failed = trials.filter(pc.field(schema.STATUS) == "failed")
    ids: dict[str, list[str]] = {}
    for reason, trial_id in zip(failed["reason"].to_pylist(), failed[schema.TRIAL_ID].to_pylist(), strict=True):
        ids.setdefault(re.sub(r"\d[\d.,]*", "N", reason or "no reason recorded"), []).append(trial_id)
    classes = sorted(ids.items(), key=lambda each: len(each[1]), reverse=True)[:50]
    return [{"reason": reason, "count": len(found), "trials": found[:5]} for reason, found in classes]


def _plain(value: Any) -> Any:
    """The value without numbers that are not finite and without long texts."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return _clipped(value) if isinstance(value, str) else value


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
