from pathlib import Path

import pytest
import tiny_bases


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, which tests leave as it is."""
    return tiny_bases.sdxl(tmp_path_factory.mktemp("bases") / "sdxl")


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bases.sd3(tmp_path_factory.mktemp("bases") / "sd3")
