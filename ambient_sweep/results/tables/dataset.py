"""Tables of several sweeps as one data set of Parquet files, in a folder or an object store.

    evaluations/sweep=NAME/part-0.parquet
    trials/sweep=NAME/part-0.parquet

The files are those of the sweeps, byte by byte; `sweep=` is a column to readers that know hive partitions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ambient_sweep.errors import UserError
from ambient_sweep.object_client import TAKEN, is_url
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import EVALUATIONS_FILE, TRIALS_FILE, read_table

IDENTITY = (schema.TRIAL_ID, schema.STARTED)  # of a trial: it keeps both for life


def export_sweeps(roots: Sequence[Path], url: str) -> list[str]:
    """Adds the tables of these runs to the data set at `url` and returns the paths of its new files.

    url: an absolute path, file:///PATH or the URL of an object store. A sweep that the data set
    holds is replaced. Raises UserError, and changes nothing, where it holds another of that name or cannot be written.
    """
    if "://" in url and not url.startswith("file:///") and not is_url(url):
        raise UserError(f"--to: {url} cannot be written: give a path, or a URL that begins with {TAKEN}")
    sources = {root.name: root for root in roots}
    if len(sources) < len(roots):
        raise UserError(f"several runs are named {max(sources, key=[r.name for r in roots].count)}; rename one")
    trials = {name: _identities(read_table(root / TRIALS_FILE, IDENTITY)) for name, root in sources.items()}
    for root in roots:
        read_table(root / EVALUATIONS_FILE, [schema.TRIAL_ID])
    try:
        system, base = fs.FileSystem.from_uri(
            unquote(url.removeprefix("file://")) if url.startswith("file:///") else url
        )
        files: dict[str, Path] = {}
        for name, root in sources.items():
            places = [
                f"{base}/{table}/sweep={quote(name, safe='')}/part-0.parquet" for table in ("evaluations", "trials")
            ]
            if system.get_file_info(places[1]).type != fs.FileType.NotFound:
                with system.open_input_file(places[1]) as file:
                    held = _identities(pq.ParquetFile(file).read(IDENTITY, use_threads=False))
                if not held <= trials[name]:
                    raise UserError(f"--to: {url} holds another sweep named {name}; rename the run's folder")
            files |= dict(zip(places, (root / EVALUATIONS_FILE, root / TRIALS_FILE), strict=True))
        _copy(files, system)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--to: {url} cannot be written: {str(error).splitlines()[0]}") from None
    return list(files)


def _identities(trials: pa.Table) -> set[tuple[object, ...]]:
    return {tuple(map(row.get, IDENTITY)) for row in trials.to_pylist()}


def _copy(files: Mapping[str, Path], system: fs.FileSystem) -> None:
    """Copies each file to its path, first aside, under a name that readers of data sets pass over."""
    aside = {path: f"{path.rpartition('/')[0]}/.part-0.tmp" for path in files}
    try:
        for path, source in files.items():
            system.create_dir(path.rpartition("/")[0])
            fs.copy_files(str(source), aside[path], fs.LocalFileSystem(), system, use_threads=False)
        for path, temporary in aside.items():
            system.move(temporary, path)
    finally:
        for temporary in aside.values():
            if system.get_file_info(temporary).type == fs.FileType.File:
                system.delete_file(temporary)
