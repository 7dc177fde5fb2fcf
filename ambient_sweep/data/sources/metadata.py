"""Files beside a folder's images: metadata as in the Hugging Face image folder, labels as in EDM's dataset tool."""

import codecs
import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import AUTOMATIC, LABEL, MAX_CLASSES
from ambient_sweep.data.sources.decode import one_line
from ambient_sweep.data.sources.source import first
from ambient_sweep.data.sources.table import Table, Values
from ambient_sweep.errors import UserError

METADATA_FILES, FILE_NAME = ("metadata.csv", "metadata.jsonl", "metadata.parquet"), "file_name"
LABELS_FILE = "dataset.json"
ReadFile = Callable[[str], bytes | None]  # a file beside the images, by name; None: there is none
Row = dict[str, Any]


class _LabelsFile(BaseModel):
    labels: list[tuple[str, Annotated[int, Field(strict=True, ge=0, lt=MAX_CLASSES)]]] | None = None


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
    listed = labels is not None and LABEL not in columns

    def column(name: str) -> Values:
        if labels is not None and listed and name == LABEL:
            return _listed(labels, names, f"{config.path}/{LABELS_FILE}")
        values: list[Any] = [rows.get(image, {}).get(name) for image in names]
        numbers = all(re.fullmatch("-?(0|[1-9][0-9]*)", str(value)) for value in values)
        if numbers and name in (LABEL, config.label_column):
            return np.array([int(value) for value in values])
        return np.fromiter(values, dtype=object, count=len(values))

    where = f"{config.path}/{files[0] if files else METADATA_FILES[0]}"
    return Table(where, len(names), [*columns, LABEL] if listed else columns, column), notes


def _add_rows(rows: dict[str, Row], notes: list[str], names: Sequence[str], read: ReadFile, root: str) -> list[str]:
    """Adds the rows of all metadata files, by image, and notes on those without images; returns the files used."""
    files = []
    for folder in _folders(names):
        there = [(folder + file, data) for file in METADATA_FILES if (data := read(folder + file)) is not None]
        if len(there) > 1:
            raise UserError(f"{root}/{there[0][0]}: lies beside {there[1][0]}; keep one of them")
        for file, data in there:
            where = f"{root}/{file}"
            found = _parsed(data, where)
            if not any(FILE_NAME in row for row in found):
                notes.append(f"{file} is not used: it has no column {FILE_NAME}")
                continue
            files.append(file)
            for row in found:
                if not isinstance(row.get(FILE_NAME), str):
                    raise UserError(f"{where}: {FILE_NAME} is {row.get(FILE_NAME)!r} in a row; it must name an image")
                name = posixpath.normpath(folder + row[FILE_NAME].replace("\\", "/"))
                if name in rows:
                    raise UserError(f"{where}: names {name} twice; give each image one row, in one metadata file")
                rows[name] = row
    return files


def _folders(names: Sequence[str]) -> list[str]:
    """The folders that hold images at any depth: "", "a/", "a/b/" and the like."""
    found = {""}
    for folder in {posixpath.dirname(name) for name in names}:
        while folder and f"{folder}/" not in found:
            found.add(f"{folder}/")
            folder = posixpath.dirname(folder)
    return sorted(found)


def _parsed(data: bytes, where: str) -> list[Row]:
    """The rows of a file, None in empty cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if where.endswith(".parquet"):
            table = pq.ParquetFile(pa.BufferReader(data)).read()
            _check_header(table.column_names)
            return list(table.to_pylist())
        text = data.decode("utf-8-sig")
        if where.endswith(".jsonl"):
            return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line] or [[]]
        _check_header(header := [name.strip() for name in header])
        if any(len(line) != len(header) for line in lines):
            raise ValueError("rows of different lengths")
        return [dict(zip(header, (cell or None for cell in line), strict=True)) for line in lines]
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read ({one_line(error)}); mend it, or move it away") from None


def _check_header(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError("two columns of one name")


def _listed(data: bytes, names: Sequence[str], where: str) -> Values:
    """The class numbers of images in a `dataset.json`, the format of EDM and StyleGAN. Raises UserError."""
    try:
        entries = _LabelsFile.model_validate_json(data.removeprefix(codecs.BOM_UTF8)).labels
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        form = '{"labels": [[name, class number], ...]}'
        raise UserError(f"{where}: must be {form}; {at + ': ' if at else ''}{first['msg']}") from None
    numbers = dict(entries or [])
    missing = next((name for name in names if name not in numbers), None)
    if missing is not None:
        raise UserError(f"{where}: has no label for {missing}")
    return np.array([numbers[name] for name in names])
