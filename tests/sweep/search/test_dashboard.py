"""optuna-dashboard, a tool that people use beside this one, on the journal of a sweep."""

import itertools
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from processes import wait_until
from searches import finish, search_of, sweep_of

SWEEP = """
space:
  observed.sigma: {uniform: [0.1, 0.5]}
  consistency.ramp: {choice: [step, linear]}
search: {trials: 4, stopping: {rule: none}}
"""


def test_optuna_dashboard_reads_a_sweeps_journal(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    search, ids = search_of(sweep_of(tmp_path, SWEEP), journal), map(str, itertools.count())
    expected = {}
    for number in range(5):
        trial = search.next(next(ids))
        assert trial is not None
        finish(search, trial.trial_id, fidelity=10.0 + number, memorization=number / 8)
        if trial.role == "search":
            expected[trial.values["observed.sigma"], trial.values["consistency.ramp"]] = [10.0 + number, number / 8]
    assert len(expected) == 4
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("optuna-dashboard"), journal, "--host", "127.0.0.1", "--port", str(port)]

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
            return json.load(answer)

    def answers() -> bool:
        try:
            return bool(ask("studies"))
        except urllib.error.URLError:
            return False

    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(answers)
            (summary,) = ask("studies")["study_summaries"]
            assert (summary["study_name"], summary["directions"]) == ("s", ["minimize", "minimize"])
            study = ask(f"studies/{summary['study_id']}")
        finally:
            server.terminate()
    assert study["objective_names"] == ["fidelity", "memorization"]
    found = {}
    for trial in study["trials"]:
        assert trial["state"] == "Complete"
        shown = {each["name"]: each["param_external_value"] for each in trial["params"]}
        found[float(shown["observed.sigma"]), shown["consistency.ramp"]] = trial["values"]
    assert found == expected
