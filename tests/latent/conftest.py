from pathlib import Path

import pytest
import small_stores
import tiny_bases
from command_line import good


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, which tests leave as it is."""
    return tiny_bases.sdxl(tmp_path_factory.mktemp("bases") / "sdxl")


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bases.sd3(tmp_path_factory.mktemp("bases") / "sd3")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_stores.folder_of_pictures(tmp_path_factory.mktemp("pictures") / "pictures")


@pytest.fixture(scope="session")
def pixels(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The store of the pictures."""
    return small_stores.pixel_store(tmp_path_factory.mktemp("stores") / "pixels", pictures)


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory, pixels: Path, sdxl: Path) -> Path:
    """The store of their latents."""
    out = tmp_path_factory.mktemp("stores") / "latents"
    good("prepare", out, "--from", pixels, "--latents", sdxl)
    return out
