"""Networks in files of TorchScript, which is how some are published; torch keeps reading it and warns of its age."""

import warnings
from pathlib import Path
from typing import Any

import torch


def load_torchscript(path: Path) -> Any:
    """The network in the file, on the CPU, for inference. Raises RuntimeError where it is no TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        return torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
