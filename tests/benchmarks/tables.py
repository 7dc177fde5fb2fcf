"""Tables of a million rows: `python tests/benchmarks/tables.py [--rows 1000000]`.

Prints the seconds and the peak memory of each way to use a table of evaluations, in a process of its own; imports are not
timed, except of the command. A million rows are to be exported in 10 s, their frontier read in 1 s and `best` found in
2 s, each below 2 GB. No row was measured again, so that all compete.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import objectives
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import EVALUATIONS_FILE, ROWS, TRIALS_FILE

TESTS = [str(Path(__file__).parents[1])]  # with made-up sweeps
COLUMNS = ["trial_id", "images", "endpoint", "observed.sigma", "fidelity", "memorization"]
SQL = f"""select {", ".join(f'"{name}"' for name in COLUMNS)} from '%s' where on_front"""
WAYS = {  # name -> (imports, work); FILE and FOLDER stand for themselves
    "export: write the tables": (
        "from ambient_sweep.results.tables.parquet import *; t = Tables(*map(read_table, TABLES))",
        "write_tables(FOLDER / 'again', t)",
    ),
    "export to a data set": (
        "from ambient_sweep.results.tables.dataset import export_sweeps",
        "export_sweeps([FOLDER], str(FOLDER / 'set'))",
    ),
    "frontier, pandas": (
        "import pandas as pd, pyarrow.dataset",
        f"pd.read_parquet(FILE, columns={COLUMNS}, filters=[('on_front', '==', True)])",
    ),
    "frontier, Polars": (
        "import polars as pl",
        f"pl.scan_parquet(FILE).filter(pl.col('on_front')).select({COLUMNS}).collect()",
    ),
    "frontier, DuckDB": ("import duckdb", f"duckdb.sql({SQL!r} % FILE).fetchall()"),
    "frontier, pyarrow.dataset": (
        "import pyarrow.dataset as ds",
        f"ds.dataset(FILE).to_table({COLUMNS}, filter=ds.field('on_front'))",
    ),
    **{
        f"best, {rule}": (
            "from ambient_sweep.results.frontier.select import *; from ambient_sweep.results.frontier.rival import *",
            f"t = read_candidates(FILE); c = complete(select(t, '{rule}'), FILE); what_noise_buys(t, c)",
        )
        for rule in ("knee", "max-memorization=0.05")
    },
    "the command `best`": ("", "from command_line import good; good('best', FILE)"),
}  # fmt: skip
CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
FOLDER = Path({folder!r})
FILE = FOLDER / "evaluations.parquet"
TABLES = (FOLDER / "trials.parquet", FILE)
{imports}
begun = time.perf_counter()
{work}
seconds = time.perf_counter() - begun
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(seconds, int(peak) / 1e6)
"""


def write_tables(folder: Path, rows: int) -> None:
    """Both tables of a sweep whose evaluations have about `rows` rows, made from few trials by noise on their values."""
    sys.path[:0] = TESTS
    from made_up_tables import made_up_tables

    tables = made_up_tables(min(rows // 2, 2000))
    copies = max(1, round(rows / tables.evaluations.num_rows))
    rng = np.random.default_rng(0)
    noisy = [
        objectives(tables.evaluations) * rng.lognormal(0, 0.2, (tables.evaluations.num_rows, 2)) for _ in range(copies)
    ]
    front = np.split(pareto_mask(np.concatenate(noisy)), copies)
    names = (EVALUATIONS_FILE, TRIALS_FILE)
    with (
        pq.ParquetWriter(folder / names[0], schema.EVALUATIONS) as evaluations,
        pq.ParquetWriter(folder / names[1], schema.TRIALS) as trials,
    ):
        for copy in range(copies):
            (fidelity, memorization), seeds = noisy[copy].T, copy * tables.trials.num_rows
            values = {
                "fidelity": fidelity, "fd_classifier": fidelity, "memorization": memorization, "mem_excess": memorization,
                "on_front": front[copy],
            }  # fmt: skip
            evaluations.write_table(changed(tables.evaluations, copy, seeds, values), row_group_size=ROWS)
            trials.write_table(changed(tables.trials, copy, seeds, {}), row_group_size=ROWS)


def changed(table: pa.Table, copy: int, seeds: int, values: dict[str, np.ndarray]) -> pa.Table:
    """A table whose trials and seeds are new, with other values in some columns."""
    ids = [f"c{copy:04d}-{name}" for name in table["trial_id"].to_pylist()]
    values = {"trial_id": ids, "seed": table["seed"].to_numpy() + seeds} | values
    for name, column in values.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(column))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        write_tables(Path(name), words.rows)
        file = Path(name, EVALUATIONS_FILE)
        made = f"made in {time.perf_counter() - begun:.1f} s"
        print(f"{pq.read_metadata(file).num_rows:,} rows, {file.stat().st_size / 1e6:.0f} MB, {made}\n")
        print("| way | seconds | GB |\n|---|---|---|")
        for way in words.ways:
            imports, work = WAYS[way]
            code = CHILD.format(path=TESTS, folder=name, imports=imports, work=work)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{way}: {done.stderr}")
            seconds, memory = map(float, done.stdout.split())
            print(f"| {way} | {seconds:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
