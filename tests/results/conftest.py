from pathlib import Path

import pytest
from made_up_sweeps import fill


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of 4 trials, a baseline and a failed trial, as records."""
    return fill(tmp_path / "demo", trials=4)
