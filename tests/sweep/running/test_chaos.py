"""The short version of `make chaos`: a kill of each kind, but of the GCS, whose loss is noticed after a minute."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow  # four minutes
@pytest.mark.xdist_group("cluster")
def test_kills_lose_nothing() -> None:
    words = ["--kills", "6", "--stops", "1", "--trials", "2", "--images", "6400", "--confirm", "0", "--alone"]
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
