"""What noise buys over its cheapest rival, clean training that is stopped early: one sentence, with its interval."""

import math

import numpy as np
import pyarrow as pa

from ambient_sweep.evaluation.measure import Z95
from ambient_sweep.results.frontier.candidates import clean_mask, errors, measured_mask
from ambient_sweep.results.frontier.select import Candidates, Choice
from ambient_sweep.results.tables import schema

NOTHING = "nothing that these data show"


def what_noise_buys(table: pa.Table, choice: Choice) -> str:
    """Compares the choice with clean training that memorizes no more: by fidelity, or says why that cannot be done."""
    clean = clean_mask(table) & measured_mask(table)
    row = choice.row
    if not clean.any():
        return "What noise buys is unknown: no clean training (baseline) was measured on as many samples."
    if row[schema.SIGMA] == 0 and row[schema.OBJECTIVE] == "denoising":
        return f"Noise buys {NOTHING}: the choice is clean training, stopped after {row[schema.IMAGES]:,} images."
    rivals = Candidates.of(table.filter(pa.array(clean)))
    name, memorization = row[schema.MEMORIZATION_MEASURE], row[schema.MEMORIZATION]
    quiet = np.flatnonzero(rivals.compared[:, 1] <= memorization)
    if len(quiet) == 0:
        least = rivals.row(int(rivals.compared[:, 1].argmin()))
        return (
            f"No clean training memorizes as little: its least {name} is {least[schema.MEMORIZATION]:.3g}, after "
            f"{least[schema.IMAGES]:,} images, against {memorization:.3g} with noise."
        )
    rival = int(quiet[rivals.compared[quiet, 0].argmin()])
    gain = rivals.row(rival)[schema.FIDELITY] - row[schema.FIDELITY]
    half = Z95 * math.hypot(*errors(pa.Table.from_pylist([row, rivals.row(rival)], table.schema))[:, 0])
    bought = (
        f"{row[schema.FIDELITY_MEASURE]} lower by {gain:.3g} (95 % interval {gain - half:.3g} to {gain + half:.3g})"
    )
    against = f"than clean training that memorizes no more, after {rivals.row(rival)[schema.IMAGES]:,} images"
    if gain - half <= 0:
        return f"Noise buys {NOTHING}: {bought} {against}."
    return f"Noise buys {bought} {against}."
