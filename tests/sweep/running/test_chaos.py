"""The short version of `make chaos`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.xdist_group("ray")
def test_kills_of_all_kinds_lose_nothing() -> None:
    words = ["--kills", "7", "--stops", "1", "--trials", "2", "--images", "12800", "--confirm", "0"]
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
