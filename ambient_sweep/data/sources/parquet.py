"""Images from Parquet files with a column of encoded images, as on the Hugging Face hub."""

import contextlib
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import any_deep, one_line
from ambient_sweep.data.sources.files import kind_of, walk
from ambient_sweep.data.sources.source import Loader, Source, passed_line, refuse_pointer, source_path
from ambient_sweep.data.sources.table import Table
from ambient_sweep.errors import UserError

BATCH = 64  # rows read from a file at a time
PROBED = 16  # images at the beginning of each file whose headers tell its depth


class Shard:
    """One file, of which only the footer is kept; every reading opens it anew and raises UserError where it is damaged."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file = file
        self.name = file.name if file == root else file.relative_to(root).as_posix()
        with _opened(file) as opened:
            self.count, self.schema = opened.metadata.num_rows, opened.schema_arrow

    def images(self, column: str) -> Iterator[bytes]:
        """The encoded images, in order; b"" for null. Raises UserError where the column holds something else."""
        kind, count = self._type(column), 0
        if not _is_encoded(kind):
            found = f"column {column} is {kind}"
            raise UserError(f"{self.file}: {found}; data.image_column must hold encoded images (binary)")
        with _opened(self.file) as opened:
            for batch in opened.iter_batches(BATCH, columns=[column], use_threads=False):
                images = pc.struct_field(batch.column(0), "bytes") if pa.types.is_struct(kind) else batch.column(0)
                yield from (image or b"" for image in images.to_pylist())
                count += len(images)
            if count != self.count:
                raise ValueError(f"it holds {count} rows and declares {self.count}")

    def read(self, column: str) -> NDArray[Any]:
        """A whole column."""
        kind = self._type(column)
        with _opened(self.file) as opened:
            values = opened.read(columns=[column]).column(column)
            return np.asarray(values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values)

    def _type(self, column: str) -> pa.DataType:
        if (times := self.schema.names.count(column)) != 1:
            has = f"has {'several columns' if times else 'no column'} {column}"
            raise UserError(f"{self.file}: {has}; it has {', '.join(self.schema.names)}")
        return self.schema.field(column).type


def holds_images(file: Path) -> bool:
    """Whether a Parquet file has a column that may hold encoded images. Raises UserError where it is damaged."""
    return any(map(_is_encoded, Shard(file, file).schema.types))


def _is_encoded(kind: pa.DataType) -> bool:
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and "bytes" in kind.names else kind
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    return inner in (pa.binary(), pa.large_binary(), pa.binary_view()) or pa.types.is_fixed_size_binary(inner)


def open_parquet(config: DataConfig) -> Source:
    """The Parquet file `data.path`, or all of a folder by name; only labels and noise levels are read here.

    The first images of each file tell whether the source is of 8 bits. Raises UserError.
    """
    root, column = source_path(config), config.image_column
    passed = dict[str, str]()
    shards = [shard for shard in (Shard(file, root) for file in _files(root, passed)) if shard.count]
    if not shards:
        where = f"data.path: {config.path} holds no rows of Parquet files (*.parquet)"
        raise UserError(f"{where} {passed_line(passed)}".rstrip())

    def loaders() -> Iterator[Loader]:
        return (partial(bytes, image) for shard in shards for image in shard.images(column))

    names = [f"{shard.name}#{row}" for shard in shards for row in range(shard.count)]
    first = (image for shard in shards for image in islice(shard.images(column), PROBED))
    depth8 = not any_deep(partial(BytesIO, image) for image in first)
    there = dict.fromkeys(name for shard in shards for name in shard.schema.names)
    columns = Table(str(root), len(names), there, lambda name: np.concatenate([shard.read(name) for shard in shards]))
    return Source(names, loaders, config.image_size, config.channels, depth8, passed=passed, columns=columns)


def _files(root: Path, passed: dict[str, str]) -> list[Path]:
    """The Parquet files, by name; adds the others to `passed`."""
    if not root.is_dir():
        return [root]
    names = sorted(walk(root, f"data.path: {root}", passed))
    kinds = {name: kind_of(name, BytesIO) or "image" for name in names}
    passed |= {name: kind for name, kind in kinds.items() if kind != ".parquet"}
    return [root / name for name, kind in kinds.items() if kind == ".parquet"]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Raises UserError where the file turns out not to be Parquet, or damaged, within the block."""
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True) as opened:
            yield opened
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse_pointer(file)
        raise UserError(f"{file}: cannot be read as a Parquet file ({one_line(error)}); fetch it anew") from None
