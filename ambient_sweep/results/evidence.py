"""Sections of the report: how sure the frontier is, and how it was found."""

import pyarrow as pa

from ambient_sweep.results import schema
from ambient_sweep.results.candidates import groups, recipes
from ambient_sweep.results.confidence import ERRORS, FRONT_PROBABILITY, MEANS, RUNS
from ambient_sweep.results.curves import attainment_image, history_image
from ambient_sweep.results.history import REPLICATE, hypervolume_history, seed_fronts
from ambient_sweep.results.markup import image, number, percent, table

LIKELY, LISTED = 0.05, 30  # recipes of such a probability are listed, at most so many
NOTHING = "<p>Nothing was measured yet.</p>"


def confidence_section(rows: pa.Table) -> str:
    """Recipes by their probability, with means over their runs, and what fresh seeds attain. `rows`: candidates."""
    if rows.num_rows == 0:
        return NOTHING
    entries, ids = rows.to_pylist(), rows[schema.TRIAL_ID].to_pylist()
    first = [
        min(g, key=lambda i: (entries[i][schema.ROLE] == REPLICATE, ids[i])) for g in groups(recipes(rows).tolist())
    ]
    likely = [entries[i] for i in first if entries[i][FRONT_PROBABILITY] >= LIKELY]
    likely.sort(key=lambda row: (-row[FRONT_PROBABILITY], row[MEANS[1]], row[schema.TRIAL_ID]))
    listed = likely[:LISTED]
    cells = [
        (
            row[schema.TRIAL_ID],
            row[schema.ROLE],
            percent(row[schema.FRACTION]),
            row[schema.ENDPOINT],
            row[schema.SIGMA],
            row[schema.OBJECTIVE],
            percent(row[FRONT_PROBABILITY]),
            row[RUNS],
            *(f"{number(row[mean])} \u00b1 {number(row[error])}" for mean, error in zip(MEANS, ERRORS, strict=True)),
        )
        for row in listed
    ]
    if max(rows[RUNS].to_pylist()) > 1:
        source = "the spread between training runs of one config"
    else:
        source = "the uncertainty of sampling alone, as no config was trained twice (confirm in the sweep file does so)"
    header = ("trial", "role", "length", "endpoint", "sigma", "objective", "on the frontier", "runs")
    note = (
        f"<p>Probabilities by {source}. They are about the config with any seed; the objectives are means over its runs "
        f"with their standard errors. {len(listed)} of {len(likely)} candidates of {percent(LIKELY)} or more.</p>"
    )
    found = note + table((*header, schema.FIDELITY, schema.MEMORIZATION), cells, [row[schema.ROLE] for row in listed])
    picture = attainment_image(rows)
    if picture is None:
        return found
    caption = (
        f"What {len(seed_fronts(rows))} further training seeds of the confirmed configs attain, beside the frontier of "
        "the search, whose points chance has helped to get there."
    )
    drawn = image(picture, "attainment over further seeds")
    return f"{found}<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def history_section(trials: pa.Table, rows: pa.Table) -> str:
    """Hypervolume over images and device time. `rows`: candidates."""
    if rows.num_rows == 0:
        return NOTHING
    history = hypervolume_history(trials, rows)
    measures = (rows[schema.FIDELITY_MEASURE][0].as_py(), rows[schema.MEMORIZATION_MEASURE][0].as_py())
    executed, logical = (sum(trials[name].to_pylist()) for name in (schema.IMAGES_EXECUTED, schema.IMAGES_DONE))
    caption = (
        f"Hypervolume of all checkpoints so far, {number(float(history.volume[-1]))} in the end, as if trials had run one "
        f"after another. {executed:,} images were trained; the trials together stand at {logical:,}, counting what they "
        "share for each."
    )
    drawn = image(history_image(history, measures), "hypervolume over images trained and over device seconds")
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"
