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


def read_metadata(names: Sequence[str], read: ReadFile, config: DataConfig) -> tuple[Columns, list[str]]:
    """The columns of the metadata files in the folders of the images `names`, and notes on what does not match.

    `file_name` is relative to the file's folder. An image without a row, or with an empty cell, has None (NaN in the
    column of levels). Raises UserError, which begins with the file.
    """
    asked = (config.label_column, config.sigma_column, config.group_column, "text", "split", "group", "sigma")
    wanted = {FILE_NAME, *(name for name in asked if name is not None)}
    rows, files, columns, notes = dict[str, dict[str, Any]](), list[str](), set[str](), list[str]()
    for folder in _folders(names):
        there = [(folder + file, data) for file in METADATA_FILES if (data := read(folder + file)) is not None]
        if len(there) > 1:
            raise UserError(f"{config.path}/{there[0][0]}: lies beside {there[1][0]}; keep one of them")
        for file, data in there:
            where = f"{config.path}/{file}"
            found, values = _parsed(data, where, wanted)
            if FILE_NAME not in found:
                notes.append(f"{file} is not used: it has no column {FILE_NAME}")
                continue
            files.append(file)
            columns |= found - {FILE_NAME}
            for row in values:
                if not isinstance(row[FILE_NAME], str):
                    raise UserError(f"{where}: {FILE_NAME} is {row[FILE_NAME]!r} in a row; it must name an image")
                name = posixpath.normpath(folder + row[FILE_NAME].replace("\\", "/"))
                if name in rows:
                    raise UserError(f"{where}: names {name} twice; give each image one row, in one metadata file")
                rows[name] = row
    if files:
        known, said = set(names), files[0] + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
        without, unknown = [name for name in names if name not in rows], [name for name in rows if name not in known]
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


def _parsed(data: bytes, where: str, wanted: Collection[str]) -> tuple[set[str], list[dict[str, Any]]]:
    """Those of the `wanted` columns that a file has, and its rows of these, None in empty cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if where.endswith(".parquet"):
            table = pq.ParquetFile(pa.BufferReader(data))
            columns = {name for name in table.schema_arrow.names if name in wanted}
            return columns, table.read(columns=sorted(columns)).to_pylist()
        text = data.decode("utf-8-sig")
        if where.endswith(".csv"):
            lines = list(filter(None, csv.reader(io.StringIO(text, newline=""), strict=True)))
            header = lines[0] if lines else []
            if len(set(header)) < len(header) or any(len(line) != len(header) for line in lines):
                raise ValueError("two columns of one name, or rows of different lengths")
            rows = [dict(zip(header, (cell or None for cell in line), strict=True)) for line in lines[1:]]
        else:
            rows = [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
            header = [name for row in rows for name in row]
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read ({one_line(error)}); mend it, or move it away") from None
    columns = {name for name in header if name in wanted}
    return columns, [{name: row.get(name) for name in columns} for row in rows]


def _typed(values: list[Any], name: str, config: DataConfig) -> NDArray[Any]:
    """A column as numbers or objects; noise levels and class numbers may be written as text."""
    if name == config.sigma_column:
        try:
            return np.array([np.nan if value is None else float(value) for value in values])
        except (TypeError, ValueError) as error:
            raise UserError(f"{config.path}: {name} of the metadata must be numbers ({one_line(error)})") from None
    if name == config.label_column and all(re.fullmatch("-?(0|[1-9][0-9]*)", str(value)) for value in values):
        return np.array([int(value) for value in values])
    return np.fromiter(values, dtype=object, count=len(values))
