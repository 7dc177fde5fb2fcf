"""Loads the models of a base by diffusers and transformers: each weight of the model from its files, or one clear line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ambient_sweep.data.sources.decode import one_line
from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import check_weights, read_json, variant


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Raises UserError, which names `folder`, where a library cannot make a model or tokenizer of what is in it."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils import logging as of_transformers

    for logging in (of_diffusers, of_transformers):
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # what these warn of is refused
    try:
        yield
    except (
        OSError, ValueError, TypeError, AttributeError, AssertionError, LookupError, ArithmeticError, RuntimeError,
        SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        what = f"cannot be loaded ({type(error).__name__}: {one_line(error)[:200]})"
        raise UserError(f"{folder}: {what}; download or save the base again") from None


def load(kind: Any, folder: Path) -> Any:
    """The model of the class `kind` in `folder`, in float32. Raises UserError unless its weights are those of its config."""
    read_json(folder, "config.json")
    check_weights(folder)
    with loading(folder):
        model, found = kind.from_pretrained(
            folder, variant=variant(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    for what in ("missing", "unexpected", "mismatched"):
        if names := found[f"{what}_keys"]:
            cure = "download or save the base again"
            raise UserError(f"{folder}: its weights do not fit its config.json ({min(names)} is {what}); {cure}")
    return model
