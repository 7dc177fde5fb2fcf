import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_sweeps import add, fill, make_evaluation, make_trial

from ambient_sweep.config import Config, build_config, dump, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results import read_table
from ambient_sweep.results.export import build_tables, export_tables
from ambient_sweep.results.tables import parquet, schema
from ambient_sweep.trial.records import read_evaluations, read_trials, trial_path, write_evaluation, write_trial


def test_every_column_is_named_once_and_every_knob_has_a_typed_one() -> None:
    expected = {
        "seed": (pa.int64(), False),
        "data.path": (pa.string(), True),
        "data.channels": (pa.int64(), False),
        "data.heldout_size": (pa.int64(), True),
        "data.flip": (pa.bool_(), False),
        "observed.sigma": (pa.float64(), False),
        "evaluation.lengths": (pa.list_(pa.float64()), False),
        "evaluation.endpoints": (pa.list_(pa.string()), False),
    }
    for table in (schema.TRIALS, schema.EVALUATIONS):
        assert len(set(table.names)) == len(table.names)
        assert [name for name in table.names if name in knobs()] == list(knobs())
        assert {name: (table.field(name).type, table.field(name).nullable) for name in expected} == expected
    for annotation in (dict[str, int], int | str, complex):
        with pytest.raises(TypeError):
            schema.arrow_type(annotation)


def test_tables_hold_what_the_records_say(tmp_path: Path) -> None:
    sweep = fill(tmp_path / "demo", trials=4)
    tables = export_tables(sweep)
    trials = {row["trial_id"]: row for row in tables.trials.to_pylist()}
    rows = {(r["trial_id"], r["images"], r["endpoint"]): r for r in tables.evaluations.to_pylist()}
    assert len(trials) == tables.trials.num_rows == len(read_trials(sweep)) == 6
    assert len(rows) == tables.evaluations.num_rows == len(read_evaluations(sweep)) == 36
    for record in read_trials(sweep):
        row = trials[record.trial_id]
        assert {key: row[key] for key in knobs()} == record.config
        assert json.loads(row["versions"]) == record.versions
        assert row["folder"] == f"trials/{record.trial_id}"
        for name in ("status", "reason", "images_done", "device", "code_revision"):
            assert row[name] == getattr(record, name)
    for record in read_evaluations(sweep):
        row = rows[record.trial_id, record.images, record.endpoint]
        for name in schema.MEASURES:
            measure = record.measures.get(name, Measure(None, None, None, None))  # type: ignore[arg-type]
            assert Measure(row[name], row[f"{name}_low"], row[f"{name}_high"], row[f"{name}_n"]) == measure
        assert (row["fidelity"], row["fidelity_high"]) == (row["fd_classifier"], row["fd_classifier_high"])
        assert (row["memorization"], row["memorization_low"]) == (row["mem_excess"], row["mem_excess_low"])
        assert row["observed.sigma"] == trials[record.trial_id]["observed.sigma"]
        assert (row["checkpoint"], row["evaluation_seed"]) == (record.checkpoint, record.seed)
        assert (row["images_asked"], row["trial_status"]) == (200_000, "completed")


def test_a_trials_objectives_are_those_of_full_length_and_main_endpoint(tmp_path: Path) -> None:
    points = [(50.0, 0.2, 0.5, "zero"), (40.0, 0.3, 1.0, "zero"), (30.0, 0.1, 1.0, "observed")]
    forked = {"stage": "000006400-0a", "forked_at": 6400, "images_executed": 193_600}
    add(tmp_path, "both", {}, points)
    add(tmp_path, "ambient", {"objective.kind": "ambient"}, points, role="replicate", replicate_of="both", **forked)
    add(tmp_path, "half", {"training.stop": 0.5}, points[:1])
    add(tmp_path, "stopped", {}, points[:1], status="stopped", rung=1)
    tables = build_tables(tmp_path)
    names = ("fidelity", "memorization", "replicate_of", "stage", "images_forked", "images_executed", "rung")
    found = {row["trial_id"]: tuple(row[name] for name in names) for row in tables.trials.to_pylist()}
    assert found == {
        "both": (40.0, 0.3, None, None, 0, 200_000, None),
        "ambient": (30.0, 0.1, "both", "000006400-0a", 6400, 193_600, None),
        "half": (50.0, 0.2, None, None, 0, 99_968, None),
        "stopped": (None, None, None, None, 0, 200_000, 1),
    }
    assert tables.evaluations["replicate_of"].to_pylist() == ["both"] * 3 + [None] * 5


def test_pandas_polars_and_duckdb_read_both_tables(tmp_path: Path) -> None:
    sweep = fill(tmp_path / "demo", trials=4)
    written = export_tables(sweep)
    assert written == build_tables(sweep)
    assert not list(sweep.glob(".*"))
    for name, table in zip(("trials", "evaluations"), written, strict=True):
        path = sweep / f"{name}.parquet"
        assert read_table(path) == table
        assert pq.read_schema(path).metadata[b"ambient_sweep.schema_version"] == str(schema.VERSION).encode()
        expected = table.to_pylist()
        query = duckdb.sql(f"SELECT * FROM '{path}'")
        rows = [dict(zip(query.columns, row, strict=True)) for row in query.fetchall()]
        assert rows == expected == pl.read_parquet(path).to_dicts()
        frame = pd.read_parquet(path)
        assert list(frame.columns) == table.schema.names
        assert frame["observed.sigma"].tolist() == [row["observed.sigma"] for row in expected]
        assert [list(value) for value in frame["evaluation.endpoints"]] == [["zero", "observed"]] * len(frame)
    started, finished = pd.read_parquet(sweep / "trials.parquet").loc[0, ["started_utc", "finished_utc"]]
    assert (started, finished) == (datetime(2026, 1, 31, 12), datetime(2026, 1, 31, 12, 0, 31, 250000))


def test_a_column_that_repeats_is_held_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = export_tables(fill(tmp_path, trials=4)).evaluations
    monkeypatch.setattr(parquet, "BATCH", 12)
    table = read_table(tmp_path / "evaluations.parquet")
    assert table.equals(expected)
    names = ("optimizer.lr", "data.path", "evaluation.endpoints", "fidelity")
    buffers = [[[each and each.address for each in c.buffers()] for c in table[name].chunks] for name in names]
    assert [len(chunks) for chunks in buffers] == [3] * 4
    assert [chunks[0] == chunks[1] == chunks[2] for chunks in buffers] == [True, True, True, False]


def test_an_empty_sweep_and_a_running_one_can_be_read(tmp_path: Path) -> None:
    tables = export_tables(tmp_path)
    assert (tables.trials.num_rows, tables.evaluations.num_rows) == (0, 0)
    assert read_table(tmp_path / "trials.parquet").schema.equals(schema.TRIALS)
    write_trial(tmp_path, make_trial("a", Config(), status="running", finished=None))
    (tmp_path / "trials/just-made").mkdir()
    rows = export_tables(tmp_path).trials.to_pylist()
    assert [(row["status"], row["finished_utc"], row["fidelity"]) for row in rows] == [("running", None, None)]


def test_export_names_what_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        export_tables(tmp_path / "nowhere")
    write_evaluation(tmp_path, make_evaluation("stray", build_config({}), 1.0, 0.0))
    with pytest.raises(UserError, match=r"trials/stray: .*no trial\.json"):
        export_tables(tmp_path)
    config = dump(Config())
    for changed, complaint in (
        ({key: value for key, value in config.items() if key != "optimizer.lr"}, "lacks optimizer.lr"),
        (config | {"optimizer.lr": "fast"}, "optimizer.lr"),
        (config | {"optimizer.speed": 3}, "unknown key 'optimizer.speed'"),
    ):
        write_trial(tmp_path, replace(make_trial("stray", Config()), config=changed))
        with pytest.raises(UserError, match=complaint) as caught:
            export_tables(tmp_path)
        assert str(trial_path(tmp_path, "stray")) in str(caught.value)
    assert not (tmp_path / "trials.parquet").exists()


def test_reading_names_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"

    def complaint() -> str:
        with pytest.raises(UserError) as caught:
            read_table(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file" in complaint()
    path.write_bytes(b"PAR1 and no more")
    assert "cannot be read as Parquet" in complaint()
    pq.write_table(pa.table({"trial_id": ["a"]}), path)
    assert "not a table of ambient-sweep" in complaint()
    empty = schema.EVALUATIONS.empty_table()
    other = {**empty.schema.metadata, schema.VERSION_KEY: str(schema.VERSION + 1)}
    pq.write_table(empty.replace_schema_metadata(other), path)
    assert f"another version of ambient-sweep; `ambient-sweep report {tmp_path}` writes the tables" in complaint()
    pq.write_table(empty.drop_columns(["optimizer.lr"]), path)
    assert "another version of ambient-sweep" in complaint()
    pq.write_table(empty, path)
    assert read_table(str(path)).num_rows == 0
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path)
