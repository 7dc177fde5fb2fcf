"""Images from Parquet files with a column of encoded images, as on the Hugging Face hub."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.columns import Labels, class_numbers, noise_levels, numbered
from ambient_sweep.data.sources.decode import CorruptImage, Pixels, decode, is_deep
from ambient_sweep.data.sources.source import THREADS, Block, Form, ShardNames, read_block, source_path
from ambient_sweep.errors import UserError

BATCH = 64  # rows read from a file at a time
PROBED = 16  # images at the beginning of each file whose headers are looked at for their depth
BROKEN = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises on damaged files
Entry = bytes | str  # an encoded image, or the reason why there is none


@dataclass(frozen=True)
class ParquetSource:
    """The rows of `files`, one after another."""

    files: list[Path]
    column: str
    names: ShardNames
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    sigma: NDArray[np.float32] | None
    form: Form

    @property
    def depth8(self) -> bool:
        return self.form.depth8

    def __len__(self) -> int:
        return len(self.names)

    def blocks(self, size: int) -> Iterator[Block]:
        with ThreadPoolExecutor(THREADS) as pool:
            for start, entries in _regrouped(self.files, self.column, size):
                rows = range(start, start + len(entries))
                yield read_block(pool, self.form, rows, partial(self._pixels, entries, start))

    def _pixels(self, entries: list[Entry], start: int, row: int) -> Pixels:
        entry = entries[row - start]
        if isinstance(entry, str):
            raise CorruptImage(entry)
        return decode(entry, self.form.size, self.form.channels)


@dataclass(frozen=True)
class Shard:
    """What the footer of a file tells; no file stays open."""

    file: Path
    name: str
    schema: pa.Schema
    count: int


def open_parquet(config: DataConfig) -> ParquetSource:
    """The Parquet file `data.path`, or all of a folder by name; only labels and noise levels are read here.

    The first images of each file tell whether the source is of 8 bits. Raises UserError.
    """
    root, column = source_path(config), config.image_column
    shards = [_shard(file, root) for file in _files(root)]
    if not sum(shard.count for shard in shards):
        raise UserError(f"data.path: {config.path} holds no rows of Parquet files (*.parquet)")
    for shard in shards:
        _check_image_column(shard, column)
    labels, classes = _labels(shards, config.label_column)
    deep = any(_begins_deep(shard.file, column) for shard in shards)
    return ParquetSource(
        files=[shard.file for shard in shards],
        column=column,
        names=ShardNames([shard.name for shard in shards], [shard.count for shard in shards]),
        labels=labels,
        classes=classes,
        sigma=_sigma(shards, config.sigma_column),
        form=Form(config.image_size, config.channels, not deep),
    )


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    found = (path for path in root.rglob("*.parquet") if path.is_file())
    seen = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return sorted(seen, key=lambda path: path.relative_to(root).as_posix())


def _opened(file: Path) -> pq.ParquetFile:
    """Raises UserError for a file that is not, or no longer, a Parquet file."""
    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True)
    except BROKEN as error:
        raise UserError(f"{file}: cannot be read as a Parquet file ({_line(error)})") from None


def _shard(file: Path, root: Path) -> Shard:
    name = file.name if file == root else file.relative_to(root).as_posix()
    with _opened(file) as opened:
        metadata = opened.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(counts) != metadata.num_rows:
            raise UserError(f"{file}: its footer is damaged: {metadata.num_rows} rows, {sum(counts)} in its row groups")
        return Shard(file, name, opened.schema_arrow, metadata.num_rows)


def _check_image_column(shard: Shard, column: str) -> None:
    """Raises UserError where the column is missing or holds no encoded images."""
    if column not in shard.schema.names:
        has = ", ".join(shard.schema.names)
        raise UserError(f"{shard.file}: has no column data.image_column={column}; it has {has}")
    kind = shard.schema.field(column).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner) or pa.types.is_binary_view(inner)):
        raise UserError(
            f"{shard.file}: column {column} is {kind}; data.image_column must hold encoded images, "
            "binary or struct<bytes: binary, path: string>"
        )


def _entries(file: Path, column: str, batch: int) -> Iterator[list[Entry]]:
    """The images of a file, in order; those of a row group from a damaged page on as the reason."""
    with _opened(file) as opened:
        for group in range(opened.num_row_groups):
            left, reason = opened.metadata.row_group(group).num_rows, "it holds fewer rows than it declares"
            try:
                for rows in opened.iter_batches(batch, row_groups=[group], columns=[column], use_threads=False):
                    entries = _batch_entries(rows.column(0))
                    left -= len(entries)
                    yield entries
            except BROKEN as error:
                reason = _line(error)
            for start in range(0, left, batch):
                yield [f"row group {group} is damaged ({reason})"] * min(batch, left - start)


def _batch_entries(images: pa.Array) -> list[Entry]:
    if not pa.types.is_struct(images.type):
        return ["no image (null)" if value is None else value for value in images.to_pylist()]
    values = pc.struct_field(images, "bytes").to_pylist()
    has_paths = images.type.get_field_index("path") >= 0
    paths = pc.struct_field(images, "path").to_pylist() if has_paths else [None] * len(values)
    missing = ["no image (null)" if path is None else "has a path, no bytes" for path in paths]
    return [reason if value is None else value for value, reason in zip(values, missing, strict=True)]


def _regrouped(files: list[Path], column: str, size: int) -> Iterator[tuple[int, list[Entry]]]:
    """(first row, `size` entries) over all files; fewer at the end."""
    start, kept = 0, list[Entry]()
    for file in files:
        for entries in _entries(file, column, min(size, BATCH)):
            kept += entries
            while len(kept) >= size:
                yield start, kept[:size]
                start, kept = start + size, kept[size:]
    if kept:
        yield start, kept


def _begins_deep(file: Path, column: str) -> bool:
    entries = next(_entries(file, column, PROBED), [])
    return any(isinstance(entry, bytes) and is_deep(BytesIO(entry)) for entry in entries)


def _column(shards: list[Shard], column: str) -> pa.ChunkedArray:
    """One column of all files. Raises UserError where a file lacks it or has it of another type."""
    parts: list[pa.ChunkedArray] = []
    for shard in (shard for shard in shards if shard.count):
        if column not in shard.schema.names:
            raise UserError(f"{shard.file}: has no column {column}; it has {', '.join(shard.schema.names)}")
        try:
            with _opened(shard.file) as opened:
                part = opened.read(columns=[column]).column(column)
        except BROKEN as error:
            raise UserError(f"{shard.file}: column {column} cannot be read ({_line(error)})") from None
        if len(part) != shard.count:
            raise UserError(f"{shard.file}: column {column} is damaged: {len(part)} values in {shard.count} rows")
        if pa.types.is_dictionary(part.type):
            part = part.cast(part.type.value_type)
        if parts and part.type != parts[0].type:
            raise UserError(f"{shard.file}: column {column} is {part.type}, but {parts[0].type} in other files")
        parts.append(part)
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)


def _labels(shards: list[Shard], column: str | None) -> Labels:
    """Class numbers and names by a column of whole numbers or strings; none where the default column is missing."""
    absent = not any(column in shard.schema.names for shard in shards)
    if column is None or (absent and column == DataConfig.model_fields["label_column"].default):
        return None, ()
    where = f"{_place(shards)}: data.label_column={column}"
    values = _column(shards, column)
    if values.null_count:
        raise UserError(f"{where}: row {pc.index(values.is_null(), True).as_py()} has no label (null)")
    if pa.types.is_integer(values.type):
        return class_numbers(values.to_numpy(), where, _class_names(shards, column))
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        return numbered(values.to_pylist())
    raise UserError(f"{where}: is {values.type}; whole numbers or strings are needed (null: no labels)")


def _class_names(shards: list[Shard], column: str) -> tuple[str, ...]:
    """The names of a ClassLabel in the files' Hugging Face metadata; () where there are none."""
    found: tuple[str, ...] | None = None
    for shard in shards:
        text = (shard.schema.metadata or {}).get(b"huggingface", b"{}")
        try:
            feature = json.loads(text).get("info", {}).get("features", {}).get(column, {})
            names = tuple(str(name) for name in feature.get("names") or ())
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise UserError(f"{shard.file}: its metadata under the key huggingface cannot be read; drop them") from None
        if found is not None and names != found:
            raise UserError(f"{shard.file}: column {column} has other class names than in {shards[0].file}")
        found = names
    return found or ()


def _sigma(shards: list[Shard], column: str | None) -> NDArray[np.float32] | None:
    if column is None:
        return None
    where = f"{_place(shards)}: data.sigma_column={column}"
    values = _column(shards, column)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise UserError(f"{where}: is {values.type}; numbers are needed")
    names = ShardNames([shard.name for shard in shards], [shard.count for shard in shards])
    return noise_levels(values.cast(pa.float64()).to_numpy(), where, names)


def _place(shards: list[Shard]) -> Path:
    return shards[0].file if len(shards) == 1 else shards[0].file.parent


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
