"""The sample pictures of checkpoints as data URLs, small enough for one page."""

import base64
import io
from pathlib import Path

from PIL import Image

from ambient_sweep.results.frontier.candidates import Row
from ambient_sweep.results.tables import schema
from ambient_sweep.trial.records import evaluation_path

WIDTH = 800  # pixels
TOTAL = 2 << 20  # bytes of all pictures of a page, as base64


def picture_path(root: Path, row: Row) -> Path:
    """The picture of an evaluation: samples, each above the training image nearest to it."""
    return evaluation_path(root, row[schema.TRIAL_ID], row[schema.IMAGES], row[schema.ENDPOINT], ".png")


def inline_pictures(root: Path, rows: list[Row]) -> list[str | None]:
    """A data URL for each row's picture; None for one that is missing or unreadable, and once TOTAL is spent."""
    urls: list[str | None] = []
    left = TOTAL
    for row in rows:
        url = _data_url(picture_path(root, row)) if left > 0 else None
        left -= len(url or "")
        urls.append(url if left >= 0 else None)
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
