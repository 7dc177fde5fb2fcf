"""Tables of sweeps that were never run, made straight from the schemas: as many trials as a test wants, in a moment."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from made_up_sweeps import CLASSIFIER

from ambient_sweep.config import build_config, dump
from ambient_sweep.evaluation.grids import pair_grid
from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.results.frontier.standings import with_standings
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.storage import write_atomic
from ambient_sweep.trial.records import evaluation_path

SEARCHED = ("observed.sigma", "consistency.weight", "consistency.start", "consistency.ramp")
LENGTHS = (0.25, 0.5, 0.75, 1.0)
START = datetime(2026, 1, 31, 12)
CLEAN = {"observed.sigma": 0.0, "objective.kind": "denoising"}


def made_up_tables(trials: int, *, lengths: tuple[float, ...] = LENGTHS, **changes: Any) -> Tables:
    """A sweep in which memorization grows with length and falls with noise; a third of it stops early, a few trials fail.

    A sweep of several trials begins with clean training. `changes` go to every row of both tables.
    """
    rng = np.random.default_rng(0)
    base = dump(build_config(CLASSIFIER, {"training.images": 153600}))
    trial_rows, evaluation_rows = [], []
    for i in range(trials):
        clean = trials > 1 and i % 12 == 0
        values = CLEAN if clean else {
            "observed.sigma": round(0.05 * float(rng.integers(1, 11)), 2),
            "consistency.weight": float(0.1 * 30 ** rng.random()),
            "consistency.start": float(rng.choice([0.5, 0.625, 0.75])),
            "consistency.ramp": str(rng.choice(["step", "linear"])),
        }  # fmt: skip
        config = base | values | {"seed": i}
        status, reason, until = "completed", None, len(lengths)
        if not clean and i % 3 == 1:
            status, until = "stopped", int(rng.integers(1, len(lengths) + 1))
            reason = f"rung {until - 1}: dominated by {until + 3} trials"
        elif not clean and i % 23 == 5:
            status, until, reason = "failed", 0, f"loss is not finite at image {6400 * i:,}"
        ids = {"trial_id": f"t{i:06d}", "role": "baseline" if clean else "search"}
        done = int(153600 * (lengths[until - 1] if until else 0.1))
        seconds = done / 4000
        trial_rows.append({
            **config, **ids, "status": status, "reason": reason, "rung": until - 1 if status == "stopped" else None,
            "images_asked": 153600, "images_done": done, "images_executed": done - 19200 * (i % 2 and until > 0),
            "images_forked": 0, "device_seconds": seconds, "started_utc": START + timedelta(seconds=12 * i),
            "finished_utc": START + timedelta(seconds=12 * i + 2 * seconds), "fidelity_measure": "fd_classifier",
            "memorization_measure": "mem_excess", "parameters": 570_000, "device": "cpu", "data_fingerprint": "d0d0",
            "reference_key": "4ef4", "versions": '{"python": "3.11.7", "torch": "2.9.0"}',
            "folder": f"trials/{ids['trial_id']}", **changes,
        })  # fmt: skip
        for f in lengths[:until]:
            evaluation_rows.append(_evaluation(rng, config, ids, status, f) | changes)
    evaluations = pa.Table.from_pylist(evaluation_rows, schema.EVALUATIONS)
    return Tables(pa.Table.from_pylist(trial_rows, schema.TRIALS), with_standings(evaluations))


def _evaluation(
    rng: np.random.Generator, config: dict[str, Any], ids: dict[str, str], status: str, f: float
) -> dict[str, Any]:
    sigma = config["observed.sigma"]
    distance = float((8 + 20 * sigma**1.5 + 9 * (1 - f) ** 2 + 300 * sigma**3 * (f < 0.3)) * rng.uniform(0.9, 1.2))
    copies = float(max(0.6 * f**1.5 * np.exp(-9 * sigma**1.4) + rng.normal(0, 0.01), -0.01))
    images = int(153600 * f)
    row: dict[str, Any] = {
        **config, **ids, "trial_status": status, "images": images, "images_executed": images, "images_plain": images,
        "fraction": f, "images_asked": 153600, "endpoint": "zero", "main_endpoint": True, "on_front": False,
        "fidelity_measure": "fd_classifier", "memorization_measure": "mem_excess", "samples": 500, "evaluation_seed": 0,
        "seconds": 2.5, "checkpoint": f"trials/{ids['trial_id']}/checkpoints/images-{images:09d}",
        "data_fingerprint": "d0d0", "reference_key": "4ef4", "mem_ratio": max(copies, 0.0) / 3, "mem_ratio_low": 0.0,
        "mem_ratio_high": 0.5, "mem_ratio_n": 500,
    }  # fmt: skip
    for objective, measure, value, arm in (
        ("fidelity", "fd_classifier", distance, 0.07 * distance),
        ("memorization", "mem_excess", copies, 0.02),
    ):
        ends = {"": value, "_low": value - arm, "_high": value + arm}
        row |= {f"{name}{end}": each for name in (objective, measure) for end, each in ends.items()} | {
            f"{measure}_n": 500
        }
    return row


def write_pictures(root: Path, table: pa.Table) -> None:
    """Pictures of samples for the frontier of an evaluations table."""
    generator = torch.Generator().manual_seed(0)
    for row in frontier(table).to_pylist():
        images = torch.rand(32, 1, 8, 8, generator=generator) * 2 - 1
        place = (row["trial_id"], row["images"], row["endpoint"])
        distances, heldout = torch.linspace(0.2, 4, 32)[:, None], torch.linspace(0.5, 9, 200)
        write_atomic(
            evaluation_path(root, *place, ".png"),
            pair_grid(torch.cat([images, -images], dim=2), distances, heldout, 0.01),
        )
