"""The sample pictures of checkpoints as data URLs, small enough for one page."""

import base64
import io
from pathlib import Path

import pyarrow as pa
from PIL import Image

from ambient_sweep.results.frontier.candidates import PLACE, Row, untouched_mask
from ambient_sweep.results.tables import schema
from ambient_sweep.trial.records import evaluation_path, read_evaluation, read_trial_evaluations

WIDTH = 900  # pixels
TOTAL = 2 << 20  # bytes of all pictures of a page, as base64


def inline_pictures(root: Path, rows: list[Row]) -> list[dict[str, str] | None]:
    """Of each row's picture, samples above the training images nearest to them, a data URL and what the file says of it.

    None for one that is missing or unreadable, and once TOTAL is spent.
    """
    pictures: list[dict[str, str] | None] = []
    for row in rows:
        spent = sum(len(picture["url"]) for picture in pictures if picture) >= TOTAL
        trial_id, images, endpoint = (row[name] for name in PLACE)
        pictures.append(None if spent else _picture(evaluation_path(root, trial_id, images, endpoint, ".png")))
    return pictures


def similarity_picture(root: Path, chosen: Row, trials: pa.Table) -> str | None:
    """How similar the chosen model's samples are to training images, beside held-out images and the untouched base of LoRA.

    A data URL; None where similarity was not measured.
    """
    from ambient_sweep.evaluation.memorization.similarity import histogram_picture  # imports torch

    images, endpoint = chosen[schema.IMAGES], chosen[schema.ENDPOINT]
    path = evaluation_path(root, chosen[schema.TRIAL_ID], images, endpoint)
    counts = read_evaluation(path).similarities if path.exists() else None
    if counts is None:
        return None
    untouched = trials.filter(pa.array(untouched_mask(trials)))[schema.TRIAL_ID].to_pylist()
    for record in (record for trial_id in untouched for record in read_trial_evaluations(root, trial_id)):
        if record.similarities is not None:
            counts = {**counts, "untouched base": record.similarities["generated"]}
    png = histogram_picture(counts, str(chosen["evaluation.similarity"]))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _picture(path: Path) -> dict[str, str] | None:
    try:
        with Image.open(path) as image:
            image.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.BOX)
            shrunk, caption = image.convert("RGB"), str(image.info.get("Description", ""))
    except OSError:  # the page says that the picture is not there
        return None
    buffer = io.BytesIO()
    shrunk.save(buffer, format="WEBP", quality=85)
    return {"url": f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", "caption": caption}
