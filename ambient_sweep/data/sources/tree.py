"""Labels and noise levels of images that lie in a tree of folders, on disk or in a zip file."""

import csv
import io
import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.sources.columns import Labels, class_numbers, noise_levels, numbered
from ambient_sweep.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAYBE_DEEP = (".png", ".tif", ".tiff")  # formats that can be deeper than 8 bits
LABELS_FILE, LEVELS_FILE = "dataset.json", "levels.csv"

ReadText = Callable[[str], str | None]  # a file beside the images, by name; None: there is none


def is_image(name: str) -> bool:
    """Whether the relative name is an image's; files and folders that begin with a dot, and __MACOSX, are passed over."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and parts[-1].lower().endswith(SUFFIXES)


def is_deep_name(name: str) -> bool:
    return name.lower().endswith(MAYBE_DEEP)


def check_names(names: Sequence[str], place: str) -> None:
    """Raises UserError where there is no image, or a name that is no text."""
    if not names:
        raise UserError(f"{place} holds no image ({', '.join(SUFFIXES)})")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: the file name {name!r} is not UTF-8; rename it") from None


def tree_labels(names: Sequence[str], read: ReadText, place: str) -> Labels:
    """Class numbers by `dataset.json` where there is one, else by the first subfolder. Raises UserError."""
    text = read(LABELS_FILE)
    if text is None:
        return folder_labels(names)
    where = f"{place}/{LABELS_FILE}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f'{where}: must be {{"labels": [[name, class number], ...]}}')
    entries = content.get("labels")
    if entries is None:
        return None, ()  # as EDM's dataset tool writes it for images without labels
    labels = _label_entries(entries, where)
    missing = next((name for name in names if name not in labels), None)
    if missing is not None:
        raise UserError(f"{where}: has no label for {missing}")
    return class_numbers(np.array([labels[name] for name in names], dtype=np.int64), where)


def folder_labels(names: Sequence[str]) -> Labels:
    """Class numbers by the first subfolder, where every image lies in one and there are at least two; else none."""
    if not all("/" in name for name in names):
        return None, ()
    labels, classes = numbered([name.split("/", 1)[0] for name in names])
    return (labels, classes) if len(classes) > 1 else (None, ())


def tree_levels(names: Sequence[str], read: ReadText, place: str, column: str | None) -> NDArray[np.float32] | None:
    """Noise levels by `levels.csv`, columns `name` and `column`; NaN for an image that it leaves out. Raises UserError."""
    if column is None:
        return None
    where = f"{place}/{LEVELS_FILE}"
    text = read(LEVELS_FILE)
    if text is None:
        raise UserError(f"data.sigma_column: {where} does not exist; write it (name,{column}) or set the key to null")
    given = _level_rows(text, column, where)
    values = noise_levels(np.array(list(given.values()), dtype=np.float64), where, list(given))
    levels = dict(zip(given, values, strict=True))
    strangers = levels.keys() - set(names)
    if strangers:
        raise UserError(f"{where}: names {min(strangers)}, which is no image here; names are relative, as in a/b.png")
    return np.array([levels.get(name, np.nan) for name in names], dtype=np.float32)


def _level_rows(text: str, column: str, where: str) -> dict[str, float]:
    """{name: noise level, NaN for an empty cell} in the order of the file."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    levels: dict[str, float] = {}
    try:
        columns = list(rows.fieldnames or ())
        absent = [wanted for wanted in ("name", column) if wanted not in columns]
        if absent:
            raise UserError(f"{where}: has no column {absent[0]}; it has {', '.join(columns) or 'none'}")
        for row in rows:
            name, cell = row["name"] or "", (row[column] or "").strip()
            if name in levels:
                raise UserError(f"{where}: names {name or 'no image'} twice")
            levels[name] = float(cell) if cell else np.nan
    except (csv.Error, ValueError) as error:
        raise UserError(f"{where}: line {rows.line_num} cannot be read ({error})") from None
    return levels


def _label_entries(entries: object, where: str) -> dict[str, int]:
    """{name: class number} of EDM's [[name, number], ...]."""
    if not isinstance(entries, list):
        raise UserError(f'{where}: "labels" must be a list of [name, class number]')
    labels = {}
    for entry in entries:
        match entry:
            case [str(name), int(number)] if not isinstance(number, bool) and abs(number) < 2**63:
                labels[name] = number
            case _:
                raise UserError(f"{where}: {str(entry)[:100]} is not [name, class number]")
    return labels
