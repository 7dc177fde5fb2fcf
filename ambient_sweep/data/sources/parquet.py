"""Images from Parquet files with a column of encoded images, as on the Hugging Face hub."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import Labels, class_labels, noise_levels
from ambient_sweep.data.sources.decode import decode, is_deep, one_line
from ambient_sweep.data.sources.source import Source, source_path
from ambient_sweep.errors import UserError

BATCH = 64  # rows read from a file at a time
PROBED = 16  # images at the beginning of each file whose headers tell its depth


@dataclass(frozen=True)
class Shard:
    """What the footer of a file says; no file stays open."""

    file: Path
    name: str
    schema: pa.Schema
    count: int


def open_parquet(config: DataConfig) -> Source:
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
    names = [f"{shard.name}#{row}" for shard in shards for row in range(shard.count)]
    sigma = None
    if config.sigma_column is not None:
        where = f"{shards[0].file}: data.sigma_column={config.sigma_column}"
        sigma = noise_levels(_column(shards, config.sigma_column).to_numpy(), where, names)
    return Source(
        names=names,
        loaders=lambda: (
            partial(decode, image, config.image_size, config.channels)
            for shard in shards
            for image in _images(shard, column)
        ),
        size=config.image_size,
        channels=config.channels,
        depth8=not any(
            is_deep(partial(BytesIO, image)) for shard in shards for image in islice(_images(shard, column), PROBED)
        ),
        labels=labels,
        classes=classes,
        sigma=sigma,
    )


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    found = (path for path in root.rglob("*.parquet") if path.is_file())
    seen = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return sorted(seen, key=lambda path: path.relative_to(root).as_posix())


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Raises UserError where the file turns out not to be Parquet, or damaged, within the block."""
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True) as opened:
            yield opened
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a Parquet file ({one_line(error)}); fetch it anew") from None


def _shard(file: Path, root: Path) -> Shard:
    name = file.name if file == root else file.relative_to(root).as_posix()
    with _opened(file) as opened:
        metadata = opened.metadata
        if metadata.num_rows != sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)):
            raise ValueError("its footer is damaged: the row groups hold another number of rows")
        return Shard(file, name, opened.schema_arrow, metadata.num_rows)


def _type(shard: Shard, column: str) -> pa.DataType:
    if column not in shard.schema.names:
        raise UserError(f"{shard.file}: has no column {column}; it has {', '.join(shard.schema.names)}")
    return shard.schema.field(column).type


def _check_image_column(shard: Shard, column: str) -> None:
    kind = _type(shard, column)
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and "bytes" in kind.names else kind
    if inner not in (pa.binary(), pa.large_binary(), pa.binary_view()):
        raise UserError(f"{shard.file}: column {column} is {kind}; data.image_column must hold encoded images (binary)")


def _images(shard: Shard, column: str) -> Iterator[bytes]:
    """The encoded images of a file, in order; b"" for null. Raises UserError where the file is damaged."""
    count = 0
    with _opened(shard.file) as opened:
        for batch in opened.iter_batches(BATCH, columns=[column], use_threads=False):
            images = batch.column(0)
            images = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
            yield from (image or b"" for image in images.to_pylist())
            count += len(images)
        if count != shard.count:
            raise ValueError(f"it holds {count} rows and declares {shard.count}")


def _column(shards: list[Shard], column: str) -> pa.ChunkedArray:
    """One column of all files. Raises UserError where a file lacks it or has it of another type."""
    parts: list[pa.ChunkedArray] = []
    for shard in (shard for shard in shards if shard.count):
        _type(shard, column)
        with _opened(shard.file) as opened:
            part = opened.read(columns=[column]).column(column)
            if len(part) != shard.count:
                raise ValueError(f"column {column} holds {len(part)} values in {shard.count} rows")
            part = part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part
        parts.append(part)
        if part.type != parts[0].type:
            raise UserError(f"{shard.file}: column {column} is {part.type}, but {parts[0].type} in other files")
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)


def _labels(shards: list[Shard], column: str | None) -> Labels:
    """Class numbers and names by a column of whole numbers or strings; none where the default column is missing."""
    absent = not any(column in shard.schema.names for shard in shards)
    if column is None or (absent and column == DataConfig.model_fields["label_column"].default):
        return None, ()
    where = f"{shards[0].file}: data.label_column={column}"
    values = _column(shards, column)
    if values.null_count:
        raise UserError(f"{where}: row {pc.index(values.is_null(), True).as_py()} has no label (null)")
    return class_labels(values.to_numpy(), where)
