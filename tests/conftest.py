import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from s3_server import S3Server

sys.path.insert(0, str(Path(__file__).parent))  # closed_forms and the like


def pytest_addoption(parser: pytest.Parser) -> None:
    run = "a finished run of search_spaces/digits.yaml, from which the README's pictures are made"
    parser.addoption("--write-images", type=Path, metavar="RUN", help=run)


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that commands keep go to a folder of these tests; Ray's workers run at the priority of other processes;
    commands under test heed SIGINT, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_worker_niceness", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(autouse=True)
def level_of_captured_lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Commands silence all handlers of Ray's logger, to which pytest adds its own: later tests would miss warnings."""
    kept = caplog.handler.level
    yield
    caplog.handler.setLevel(kept)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3Server"]:
    """A server for this process, with credentials in the environment."""
    from s3_server import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def ray_head() -> Iterator[None]:
    """One Ray for all sweeps that run in this process; its tests are in the xdist group `ray`."""
    from ambient_sweep.sweep.running.cluster import ray_session

    with ray_session(dashboard=True):
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
