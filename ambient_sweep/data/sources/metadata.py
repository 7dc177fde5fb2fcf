"""Files beside a folder's images: metadata as in the Hugging Face image folder, labels as in EDM's dataset tool."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import AUTOMATIC, LABEL
from ambient_sweep.data.sources.decode import one_line
from ambient_sweep.data.sources.source import first
from ambient_sweep.data.sources.table import Table, Values
from ambient_sweep.errors import UserError

METADATA_FILES, FILE_NAME = ("metadata.csv", "metadata.jsonl", "metadata.parquet"), "file_name"
LABELS_FILE = "dataset.json"
ReadFile = Callable[[str], bytes | None]  # a file beside the images, by name; None: there is none
Row = dict[str, Any]


def read_metadata(names: Sequence[str], read: ReadFile, config: DataConfig) -> tuple[Table, list[str]]:
    """The columns that files beside the images `names` have, and notes on what does not match.

    An image without a row, or with an empty cell, has None. Files that cannot be used are left out with a note, unless a
    key asks for a column. Raises UserError, which begins with the file.
    """
    rows, notes, files, labels = dict[str, Row](), list[str](), list[str](), None
    try:
        files, labels = _add_rows(rows, notes, names, read, str(config.path)), read(LABELS_FILE)
    except UserError as error:
        label = None if config.label_column == AUTOMATIC else config.label_column
        if any((label, config.sigma_column, config.group_column, config.split.train)):
            raise
        notes.append(f"metadata is left out: {error}")
        rows.clear()
    if files:
        known, said = set(names), files[0] + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
        without, unknown = [name for name in names if name not in rows], [name for name in rows if name not in known]
        for some, what in ((without, "images have no row in"), (unknown, "rows name no image of this set in")):
            if some:
                notes.append(f"{len(some):,} {what} {said} ({first(some)})")
    columns = sorted({name for row in rows.values() for name in row} - {FILE_NAME})
    listed = [] if labels is None or LABEL in columns else [LABELS_FILE]

    def column(name: str) -> Values:
        named = rows
        if labels is not None and listed and name == LABEL:
            named = {row[FILE_NAME]: row for row in parsed(labels, f"{config.path}/{LABELS_FILE}")}
        values: list[Any] = [named.get(image, {}).get(name) for image in names]
        numbers = all(re.fullmatch("-?(0|[1-9][0-9]*)", str(value)) for value in values)
        if numbers and name in (LABEL, config.label_column):
            return np.array([int(value) for value in values])
        return np.fromiter(values, dtype=object, count=len(values))

    where = " and ".join([*files[:1], *listed] or METADATA_FILES[:1])
    return Table(f"{config.path}/{where}", len(names), [*columns, LABEL] if listed else columns, column), notes


def _add_rows(rows: dict[str, Row], notes: list[str], names: Sequence[str], read: ReadFile, root: str) -> list[str]:
    """Adds the rows of all metadata files, by image, and notes on those without images; returns the files used."""
    files = []
    for folder in _folders(names):
        there = [(folder + file, data) for file in METADATA_FILES if (data := read(folder + file)) is not None]
        if len(there) > 1:
            raise UserError(f"{root}/{there[0][0]}: lies beside {there[1][0]}; keep one of them")
        for file, data in there:
            where = f"{root}/{file}"
            found = parsed(data, where)
            if not any(FILE_NAME in row for row in found):
                notes.append(f"{file} is not used: it has no column {FILE_NAME}")
                continue
            files.append(file)
            for row in found:
                name = image_name(row, where, folder)
                if name in rows:
                    raise UserError(f"{where}: names {name} twice; give each image one row, in one metadata file")
                rows[name] = row
    return files


def _folders(names: Sequence[str]) -> list[str]:
    """The folders that hold images at any depth: "", "a/", "a/b/" and the like."""
    folders = {posixpath.dirname(name) for name in names}
    above = {str(each) for folder in folders for each in PurePosixPath(folder, "image").parents}
    return sorted("" if each == "." else f"{each}/" for each in above)


def image_name(row: Row, where: str, folder: str = "") -> str:
    """The image that a row of the file `where` in `folder` names, as sources name images. Raises UserError if it is none."""
    name = row.get(FILE_NAME)
    if not isinstance(name, str):
        raise UserError(f"{where}: {FILE_NAME} is {name!r} in a row; it must name an image")
    return posixpath.normpath(folder + name.replace("\\", "/"))


def parsed(data: bytes, where: str, cure: str = "mend it, or move it away") -> list[Row]:
    """The rows of a file, None in empty cells. Raises UserError, which ends with `cure`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if where.endswith(".parquet"):
            table = pq.ParquetFile(pa.BufferReader(data)).read()
            if len(set(table.column_names)) < table.num_columns:
                raise ValueError("two columns of one name")
            return list(table.to_pylist())
        text = data.decode("utf-8-sig")
        if where.endswith(LABELS_FILE):
            entries = dict(json.loads(text)).get("labels") or []
            return [{FILE_NAME: posixpath.normpath(name), LABEL: label} for name, label in entries]
        if where.endswith(".jsonl"):
            return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
        reader = csv.DictReader(io.StringIO(text.lstrip(), newline=""), strict=True, skipinitialspace=True)
        header, rows = [name.strip() for name in reader.fieldnames or ()], list(reader)
        if len(set(header)) < len(header):
            raise ValueError("two columns of one name")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("rows of different lengths")
        return [{name.strip(): cell or None for name, cell in row.items()} for row in rows]
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        form = ' as {"labels": [[name, class number], ...]}' if where.endswith(LABELS_FILE) else ""
        raise UserError(f"{where}: cannot be read{form} ({one_line(error)}); {cure}") from None
