"""The short version of `make chaos`: a kill of each kind, but of the GCS, whose loss is noticed after a minute."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.xdist_group("ray")
def test_kills_lose_nothing() -> None:
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--kills", "6", "--stops", "1", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
