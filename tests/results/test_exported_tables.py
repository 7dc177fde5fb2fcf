"""Tables of several sweeps as one data set: read back by every tool, and never half-written or mixed up."""

import os
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from command_line import bad, good
from made_up_sweeps import add, fill

from ambient_sweep.errors import UserError
from ambient_sweep.results.export import export_tables
from ambient_sweep.results.tables.dataset import export_sweeps


def sweep(root: Path, *names: str, started: str = "2026-02-01T00:00:00+00:00") -> Path:
    for name in names:
        add(root, name, {}, [(30.0, 0.1)], started=started)
    export_tables(root)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_tool_reads_the_data_set_back(tmp_path: Path) -> None:
    roots = [fill(tmp_path / name, trials) for name, trials in (("one", 3), ("two words=ü%", 2))]
    written = [export_tables(root) for root in roots]
    files = export_sweeps(roots, (tmp_path / "set").as_uri())
    assert [Path(file).is_file() for file in files] == [True] * 4
    for kind in ("trials", "evaluations"):
        expected = [
            {**row, "sweep": root.name}
            for root, tables in zip(roots, written, strict=True)
            for row in getattr(tables, kind).to_pylist()
        ]
        folder = tmp_path / "set" / kind
        read = duckdb.sql(f"from read_parquet('{folder}/*/*.parquet', hive_partitioning = true)")
        found = [dict(zip(read.columns, row, strict=True)) for row in read.fetchall()]
        assert sorted(found, key=str) == sorted(expected, key=str)
        assert pl.scan_parquet(folder, hive_partitioning=True).collect().to_dicts() == expected
        table = ds.dataset(folder, partitioning="hive").to_table()
        assert table.to_pylist() == expected
        assert table.schema.field("observed.sigma").type == pa.float64()
        frame = pd.read_parquet(folder)
        assert frame["trial_id"].tolist() == [row["trial_id"] for row in expected]
        assert frame["sweep"].tolist() == [row["sweep"] for row in expected]


def test_a_sweep_is_replaced_by_itself_alone(tmp_path: Path) -> None:
    target = tmp_path / "set"
    run = sweep(tmp_path / "a" / "digits", "x", "y")
    other = sweep(tmp_path / "b" / "digits", "x", "y", started="2026-02-02T00:00:00+00:00")
    export_sweeps([run, sweep(tmp_path / "faces", "x")], str(target))
    faces = (target / "trials" / "sweep=faces" / "part-0.parquet").read_bytes()
    sweep(run, "z")
    export_sweeps([run], str(target))
    assert sorted(pd.read_parquet(target / "trials", filters=[("sweep", "==", "digits")])["trial_id"]) == [
        "x",
        "y",
        "z",
    ]
    assert (target / "trials" / "sweep=faces" / "part-0.parquet").read_bytes() == faces
    before = contents(target)
    with pytest.raises(UserError, match=f"--to: {target} holds another sweep named digits"):
        export_sweeps([sweep(tmp_path / "new", "n"), other], str(target))
    with pytest.raises(UserError, match="several runs are named digits"):
        export_sweeps([run, other], str(target))
    assert contents(target) == before
    foreign = tmp_path / "foreign" / "trials" / "sweep=digits"
    foreign.mkdir(parents=True)
    pd.DataFrame({"trial_id": ["x"]}).to_parquet(foreign / "part-0.parquet")
    with pytest.raises(UserError, match="holds another sweep named digits"):
        export_sweeps([run], str(tmp_path / "foreign"))


@pytest.mark.parametrize("name", ["my folder", "ü", "50%&a", "a#b", "a?b", "<i>'q'\"", "a b%20c"])
def test_urls_of_any_folder_are_taken_encoded_or_not(tmp_path: Path, name: str) -> None:
    run = sweep(tmp_path / "digits", "x")
    good("export", run, "--to", (tmp_path / "encoded" / name).as_uri())
    good("export", run, "--to", f"file://{tmp_path}/plain/{name}")
    places = [next((tmp_path / kind).iterdir()).name for kind in ("encoded", "plain")]
    assert places == [name, name.replace("%20", " ")]
    good("export", run, "--to", tmp_path / "path" / name)
    assert contents(tmp_path / "path" / name) == contents(tmp_path / "encoded" / name)


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    run = sweep(tmp_path / "digits", "x")
    (tmp_path / "file").write_text("")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "trials").write_text("in the way")
    before = contents(tmp_path)
    for url in ("ftp://host/folder", tmp_path / "file", tmp_path / "set", "s3://"):
        assert f"--to: {url} cannot be written: " in bad("export", run, "--to", url)
    assert contents(tmp_path) == before
    os.remove(run / "trials.parquet")
    assert f"trials.parquet: no such file; `ambient-sweep report {run}` w" in bad(
        "export", run, "--to", tmp_path / "new"
    )
    assert not (tmp_path / "new").exists()
