import json
import subprocess
import sys
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
from ambient_sweep.results import read_table, schema
from ambient_sweep.results.table import export_tables, read_tables
from ambient_sweep.trial.records import read_evaluations, read_trials, trial_path, write_evaluation, write_trial


def test_every_column_is_named_once_and_every_knob_has_one() -> None:
    for table in (schema.TRIALS, schema.EVALUATIONS):
        assert len(set(table.names)) == len(table.names)
        assert [name for name in table.names if name in knobs()] == list(knobs())


def test_config_columns_are_typed() -> None:
    expected = {
        "seed": (pa.int64(), False),
        "data.source": (pa.string(), False),
        "data.path": (pa.string(), True),
        "data.channels": (pa.int64(), False),
        "data.heldout_size": (pa.int64(), True),
        "data.flip": (pa.bool_(), False),
        "observed.sigma": (pa.float64(), False),
        "consistency.start": (pa.float64(), False),
        "evaluation.lengths": (pa.list_(pa.float64()), False),
        "evaluation.endpoints": (pa.list_(pa.string()), False),
    }
    for name, (kind, nullable) in expected.items():
        for table in (schema.TRIALS, schema.EVALUATIONS):
            assert (table.field(name).type, table.field(name).nullable) == (kind, nullable)
    for annotation in (dict[str, int], int | str, int | str | None, complex):
        with pytest.raises(TypeError):
            schema.arrow_type(annotation)


def test_tables_hold_what_the_records_say(sweep: Path) -> None:
    tables = export_tables(sweep)
    trials = {row["trial_id"]: row for row in tables.trials.to_pylist()}
    rows = {(r["trial_id"], r["images"], r["endpoint"]): r for r in tables.evaluations.to_pylist()}
    assert len(trials) == tables.trials.num_rows == len(read_trials(sweep)) == 12
    assert len(rows) == tables.evaluations.num_rows == len(read_evaluations(sweep)) == 84
    for record in read_trials(sweep):
        row = trials[record.trial_id]
        assert {key: row[key] for key in knobs()} == record.config
        assert (row["status"], row["reason"], row["images_done"]) == (record.status, record.reason, record.images_done)
        assert json.loads(row["versions"]) == record.versions
        assert row["folder"] == f"trials/{record.trial_id}"
    for record in read_evaluations(sweep):
        row = rows[record.trial_id, record.images, record.endpoint]
        for name in schema.MEASURES:
            measure = record.measures.get(name, Measure(None, None, None, None))  # type: ignore[arg-type]
            found = Measure(row[name], row[f"{name}_low"], row[f"{name}_high"], row[f"{name}_n"])
            assert found == measure
        assert (row["fidelity"], row["fidelity_high"]) == (row["fd_classifier"], row["fd_classifier_high"])
        assert (row["memorization"], row["memorization_low"]) == (row["mem_excess"], row["mem_excess_low"])
        assert row["observed.sigma"] == trials[record.trial_id]["observed.sigma"]
        assert row["checkpoint"] == record.checkpoint
        assert row["evaluation_seed"] == record.seed
        assert row["images_asked"] == 200_000
        assert row["trial_status"] == "completed"


def test_a_trials_objectives_are_those_of_full_length_and_main_endpoint(tmp_path: Path) -> None:
    points = [(50.0, 0.2, 0.5, "zero"), (40.0, 0.3, 1.0, "zero"), (30.0, 0.1, 1.0, "observed")]
    add(tmp_path, "both", {}, points)
    add(tmp_path, "ambient", {"objective.kind": "ambient"}, points)
    add(tmp_path, "half", {"training.stop": 0.5}, points[:1])
    add(tmp_path, "cut-off", {}, points[:1], status="stopped")
    rows = {
        row["trial_id"]: (row["fidelity"], row["memorization"]) for row in export_tables(tmp_path).trials.to_pylist()
    }
    expected = {"both": (40.0, 0.3), "ambient": (30.0, 0.1), "half": (50.0, 0.2), "cut-off": (None, None)}
    assert rows == expected


def test_replicates_and_forks_are_told(tmp_path: Path) -> None:
    point = [(40.0, 0.3)]
    add(tmp_path, "a", {}, point)
    forked = {"stage": "000006400-0a", "forked_at": 6400, "images_executed": 193_600}
    add(tmp_path, "b", {"seed": 1}, point, role="replicate", replicate_of="a", **forked)
    tables = export_tables(tmp_path)
    columns = ("role", "replicate_of", "stage", "images_forked", "images_executed", "rung")
    assert [tuple(row[name] for name in columns) for row in tables.trials.to_pylist()] == [
        ("search", None, None, 0, 200_000, None),
        ("replicate", "a", "000006400-0a", 6400, 193_600, None),
    ]
    assert tables.evaluations["replicate_of"].to_pylist() == [None, "a"]


def test_parquet_comes_back_with_its_schema(sweep: Path) -> None:
    written = export_tables(sweep)
    assert read_tables(sweep) == written
    assert read_table(sweep / "evaluations.parquet") == written.evaluations
    for name, table in (("trials", schema.TRIALS), ("evaluations", schema.EVALUATIONS)):
        stored = pq.read_schema(sweep / f"{name}.parquet")
        assert stored.equals(table)
        assert stored.metadata[b"ambient_sweep.schema_version"] == str(schema.VERSION).encode()
        assert stored.metadata[b"ambient_sweep.table"] == name.encode()
    assert [path.name for path in sweep.iterdir() if path.is_file()].count("trials.parquet") == 1
    assert not list(sweep.glob(".*"))


def test_pandas_polars_and_duckdb_read_both_tables(sweep: Path) -> None:
    written = export_tables(sweep)
    for name, table in zip(("trials", "evaluations"), written, strict=True):
        path = sweep / f"{name}.parquet"
        expected = table.to_pylist()
        frame, polar = pd.read_parquet(path), pl.read_parquet(path)
        query = duckdb.sql(f"SELECT * FROM '{path}'")
        rows = [dict(zip(query.columns, row, strict=True)) for row in query.fetchall()]
        assert rows == expected == polar.to_dicts()
        assert list(frame.columns) == table.schema.names
        assert frame["observed.sigma"].tolist() == [row["observed.sigma"] for row in expected]
        assert [list(value) for value in frame["evaluation.endpoints"]] == [["zero", "observed"]] * len(frame)
    best = duckdb.sql(
        f"""SELECT trial_id, fidelity FROM '{sweep}/evaluations.parquet'
        WHERE memorization <= 0.05 AND "observed.sigma" > 0 ORDER BY fidelity LIMIT 1"""
    ).fetchall()[0]
    frame = pd.read_parquet(sweep / "evaluations.parquet").query("memorization <= 0.05 and `observed.sigma` > 0")
    assert best == tuple(frame.loc[frame["fidelity"].idxmin(), ["trial_id", "fidelity"]])
    failed = pl.read_parquet(sweep / "trials.parquet").filter(pl.col("status") == "failed")
    assert failed["reason"].to_list() == ["loss is not finite at image 6400"]
    assert json.loads(failed["versions"][0])["torch"] == "2.9.0"
    started, finished = pd.read_parquet(sweep / "trials.parquet").loc[0, ["started_utc", "finished_utc"]]
    assert (started, finished) == (datetime(2026, 1, 31, 12), datetime(2026, 1, 31, 12, 0, 31, 250000))


def test_an_empty_sweep_and_a_running_one_can_be_read(tmp_path: Path) -> None:
    tables = export_tables(tmp_path)
    assert (tables.trials.num_rows, tables.evaluations.num_rows) == (0, 0)
    assert read_tables(tmp_path).trials.schema.equals(schema.TRIALS)
    write_trial(tmp_path, make_trial("a", Config(), status="running", finished=None))
    (tmp_path / "trials/just-made").mkdir()
    rows = export_tables(tmp_path).trials.to_pylist()
    assert [(row["status"], row["finished_utc"], row["fidelity"]) for row in rows] == [("running", None, None)]


def test_export_is_made_anew_from_the_records(tmp_path: Path) -> None:
    fill(tmp_path, trials=2)
    first = (export_tables(tmp_path), (tmp_path / "evaluations.parquet").read_bytes())
    assert (export_tables(tmp_path), (tmp_path / "evaluations.parquet").read_bytes()) == first


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
    for version, words in ((schema.VERSION + 1, "a newer"), (0, "an older")):
        pq.write_table(empty.replace_schema_metadata({**empty.schema.metadata, schema.VERSION_KEY: str(version)}), path)
        assert words in complaint()
    pq.write_table(empty.drop_columns(["optimizer.lr"]), path)
    assert "optimizer.lr" in complaint()
    pq.write_table(empty, path)
    assert read_table(str(path)).num_rows == 0
    pq.write_table(empty, tmp_path / "trials.parquet")
    with pytest.raises(UserError, match="another table"):
        read_tables(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path)


def test_importing_results_is_cheap() -> None:
    heavy = ("torch", "matplotlib", "ray", "optuna")
    code = f"import sys, ambient_sweep.results; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
