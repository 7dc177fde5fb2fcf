"""What noise buys over its cheapest rival, clean training that is stopped early: one sentence, with its interval.

Clean training's fidelity at the memorization of the choice is read off its frontier, straight between lengths. The interval
holds what sampling leaves open in both objectives of both sides, since a little less memorization is a little more noise
too, and what seeds leave open, where clean training was repeated over seeds.
"""

import math

import numpy as np
import pyarrow as pa
from scipy.special import ndtri

from ambient_sweep import pareto, rng
from ambient_sweep.evaluation.measure import Z95
from ambient_sweep.results.frontier.candidates import (
    RECIPE,
    Floats,
    clean_mask,
    errors,
    firsts,
    labels,
    measured_mask,
    objectives,
    own_mask,
    present,
)
from ambient_sweep.results.frontier.select import Candidates, Choice
from ambient_sweep.results.tables import schema

NOTHING = "nothing that these data show"
DRAWS = 500  # Monte Carlo error of an interval's length: 3 %


def what_noise_buys(table: pa.Table, choice: Choice) -> str:
    """Compares the choice with clean training that memorizes as much: by fidelity, or says why that cannot be done."""
    clean = clean_mask(table) & measured_mask(table)
    row = choice.row
    if not clean.any():
        return "What noise buys is unknown: no clean training (baseline) was measured on as many samples."
    if row[schema.SIGMA] == 0 and row[schema.OBJECTIVE] == "denoising":
        return f"Noise buys {NOTHING}: the choice is clean training, stopped after {row[schema.IMAGES]:,} images."
    rivals = Candidates.of(table.filter(pa.array(clean)))
    stated = pa.concat_tables([rivals.table.take(pa.array(rivals.stated)), pa.Table.from_pylist([row], table.schema)])
    values, spread = objectives(stated), errors(stated)
    least = int(values[:-1, 1].argmin())
    name, memorization = row[schema.MEMORIZATION_MEASURE], row[schema.MEMORIZATION]
    if values[least, 1] - memorization > Z95 * math.hypot(spread[least, 1], spread[-1, 1]):
        images = stated[schema.IMAGES][least].as_py()
        return (
            f"No clean training memorizes as little: its least {name} is {values[least, 1]:.3g}, after "
            f"{images:,} images, against {memorization:.3g} with noise."
        )
    gain = _gain(values)
    normal = (ndtri(rng.uniform("rival", 0, draw, 1, values.size)).reshape(values.shape) for draw in range(DRAWS))
    half = Z95 * float(np.std([_gain(values + spread * each) for each in normal]))
    seeds = _seed_error(table, values[:-1])
    if seeds is not None:
        half = math.hypot(half, Z95 * math.sqrt(2) * seeds * _fidelity_at(values[:-1], memorization))
    name, interval = row[schema.FIDELITY_MEASURE], f"95 % interval {gain - half:.3g} to {gain + half:.3g}"
    against = "clean training that memorizes as much"
    if gain <= half:
        return f"Noise buys {NOTHING}: {name} lower by {gain:.3g} ({interval}) than {against}."
    if seeds is None:
        return (
            f"{name} is lower by {gain:.3g} ({interval}, without that of seeds) than that of {against}; whether noise or "
            "the seed made it so, baseline.seeds=[0,1,2] would tell."
        )
    return f"Noise buys {name} lower by {gain:.3g} ({interval}, seeds included) than {against}."


def _gain(values: Floats) -> float:
    """By how much the last row's fidelity is lower than that of the others' frontier at its memorization; values [N, 2]."""
    return _fidelity_at(values[:-1], float(values[-1, 1])) - float(values[-1, 0])


def _fidelity_at(values: Floats, memorization: float) -> float:
    """The fidelity of the frontier of `values` [N, 2] at a memorization, straight between its points."""
    front = values[pareto.pareto_mask(values)]
    front = front[np.argsort(front[:, 1])]
    return float(np.interp(memorization, front[:, 1], front[:, 0]))


def _seed_error(table: pa.Table, clean: Floats) -> float | None:
    """The standard deviation over seeds of a clean training's fidelity at a memorization, relative to it, as a mean over the
    memorizations of `clean` [N, 2]; None without a second seed.

    By what trials measured themselves, so the scatter of fewer samples is in it.
    """
    finite = np.isfinite(objectives(table)).all(axis=1)
    own = table.filter(pa.array(clean_mask(table) & own_mask(table) & finite))
    settings = labels(own, present(own, (name for name in RECIPE if name != schema.IMAGES)))
    trainings = labels(own.append_column("settings", pa.array(settings)), ("settings", schema.SEED))
    curves = [objectives(own)[trainings == i] for i in range(trainings.max() + 1)]
    found = np.array([[_fidelity_at(curve, memorization) for memorization in clean[:, 1]] for curve in curves])
    alike = settings[firsts(trainings)]
    groups = [found[alike == i] for i in np.unique(alike)]
    freedom = len(found) - len(groups)
    squares = sum(((group / group.mean(axis=0) - 1) ** 2).mean(axis=1).sum() for group in groups)
    return math.sqrt(float(squares) / freedom) if freedom else None
