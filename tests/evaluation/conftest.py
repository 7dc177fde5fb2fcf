from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ambient_sweep.config import DataConfig, EvaluationConfig
from ambient_sweep.data.dataset import ImageData, load_data
from ambient_sweep.evaluation.reference import Reference, save_reference


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data(DataConfig(train_size=500))


@pytest.fixture(scope="session")
def reference(digits: ImageData) -> Reference:
    return Reference.build(digits, EvaluationConfig(distances=("fd_classifier", "fd_lite0@32", "fd_pixels")))


@pytest.fixture(scope="session")
def saved(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "reference"
    save_reference(reference, folder)
    return folder
