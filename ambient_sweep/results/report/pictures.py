"""The sample pictures of checkpoints as data URLs, small enough for one page."""

import base64
import io
from pathlib import Path

from PIL import Image

from ambient_sweep.results.frontier.candidates import PLACE, Row
from ambient_sweep.trial.records import evaluation_path

WIDTH = 800  # pixels
TOTAL = 2 << 20  # bytes of all pictures of a page, as base64


def inline_pictures(root: Path, rows: list[Row]) -> list[str | None]:
    """A data URL for each row's picture, samples above the training images nearest to them.

    None for one that is missing or unreadable, and once TOTAL is spent.
    """
    urls: list[str | None] = []
    for row in rows:
        spent = sum(len(url) for url in urls if url) >= TOTAL
        trial_id, images, endpoint = (row[name] for name in PLACE)
        urls.append(None if spent else _data_url(evaluation_path(root, trial_id, images, endpoint, ".png")))
    return urls


def _data_url(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.BOX)
            shrunk = image.convert("RGB")
    except OSError:  # the page says that the picture is not there
        return None
    buffer = io.BytesIO()
    shrunk.save(buffer, format="WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
