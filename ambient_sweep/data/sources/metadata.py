"""The metadata file beside a folder's images, in the format of the Hugging Face image folder."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import one_line
from ambient_sweep.data.sources.source import Columns, first
from ambient_sweep.errors import UserError

METADATA_FILES, FILE_NAME = ("metadata.csv", "metadata.jsonl", "metadata.parquet"), "file_name"

ReadFile = Callable[[str], bytes | None]  # a file beside the images, by name; None: there is none
Row = dict[str, Any]


def read_metadata(
    names: Sequence[str], read: ReadFile, config: DataConfig, wanted: Collection[str]
) -> tuple[Columns, list[str]]:
    """The `wanted` columns of the metadata files in the folders of the images `names`, and notes on what does not match.

    `file_name` is relative to the file's folder. An image without a row, or with an empty cell, has None (NaN in a
    column of numbers). Raises UserError, which begins with the file.
    """
    rows, files, columns, notes = dict[str, Row](), list[str](), set[str](), list[str]()
    for folder in _folders(names):
        there = [(folder + file, data) for file in METADATA_FILES if (data := read(folder + file)) is not None]
        if len(there) > 1:
            raise UserError(f"{config.path}/{there[0][0]}: lies beside {there[1][0]}; keep one of them")
        for file, data in there:
            where = f"{config.path}/{file}"
            found, values = _parsed(data, where, {FILE_NAME, *wanted})
            if FILE_NAME not in found:
                notes.append(f"{file} is not used: it has no column {FILE_NAME}")
                continue
            files.append(file)
            columns |= found - {FILE_NAME}
            for row in values:
                if not isinstance(row.get(FILE_NAME), str):
                    raise UserError(f"{where}: {FILE_NAME} is {row.get(FILE_NAME)!r} in a row; it must name an image")
                name = posixpath.normpath(folder + row[FILE_NAME].replace("\\", "/"))
                if name in rows:
                    raise UserError(f"{where}: names {name} twice; give each image one row, in one metadata file")
                rows[name] = row
    if files:
        known, said = set(names), files[0] + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
        without = [name for name in names if name not in rows]
        unknown = [name for name in rows if name not in known]
        for some, what in ((without, "images have no row in"), (unknown, "rows name no image of this set in")):
            if some:
                notes.append(f"{len(some):,} {what} {said} ({first(some)})")

    def column(name: str) -> NDArray[Any]:
        return _typed([rows.get(image, {}).get(name) for image in names], name, config)

    return {name: partial(column, name) for name in sorted(columns)}, notes


def _folders(names: Sequence[str]) -> list[str]:
    """The folders that hold images at any depth: "", "a/", "a/b/" and the like."""
    found = {""}
    for folder in {posixpath.dirname(name) for name in names}:
        while folder and f"{folder}/" not in found:
            found.add(f"{folder}/")
            folder = posixpath.dirname(folder)
    return sorted(found)


def _parsed(data: bytes, where: str, wanted: Collection[str]) -> tuple[set[str], list[Row]]:
    """Those of the `wanted` columns that a file has, and its rows, with None in empty cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if where.endswith(".parquet"):
            table = pq.ParquetFile(pa.BufferReader(data))
            columns = set(wanted) & set(table.schema_arrow.names)
            return columns, table.read(columns=sorted(columns)).to_pylist()
        text = data.decode("utf-8-sig")
        if where.endswith(".csv"):
            header, rows = _csv(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError('each line must be an object, as in {"file_name": "1.png", "label": 3}')
            header = [column for row in rows for column in row]
    except (pa.ArrowException, OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read ({one_line(error)}); mend it, or move it away") from None
    columns = set(wanted) & set(header)
    return columns, [{column: row[column] for column in columns & row.keys()} for row in rows]


def _csv(text: str) -> tuple[list[str], list[Row]]:
    """The header and the rows. Raises ValueError for a row of another length, and for a column named twice."""
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, rows = next(lines, []), list[Row]()
    if len(set(header)) < len(header):
        raise ValueError("it has two columns of one name")
    for cells in lines:
        if cells and len(cells) != len(header):
            raise ValueError(f"line {lines.line_num} has {len(cells)} cells, the first line {len(header)}")
        if cells:
            rows.append({column: cell or None for column, cell in zip(header, cells, strict=True)})
    return header, rows


def _typed(values: list[Any], name: str, config: DataConfig) -> NDArray[Any]:
    """A column as numbers, strings or objects; class numbers and noise levels may be written as text."""
    if name == config.sigma_column:
        try:
            return np.array([np.nan if value is None else float(value) for value in values])
        except (TypeError, ValueError) as error:
            raise UserError(f"{config.path}: {name} of the metadata must be numbers ({one_line(error)})") from None
    if name == config.label_column and all(re.fullmatch("-?(0|[1-9][0-9]*)", str(value)) for value in values):
        return np.array([int(value) for value in values])
    return np.fromiter(values, dtype=object, count=len(values))
