"""Captions: the classes of a conditional latent model, each embedded once by the base's text encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ambient_sweep.data.sources.annotations import TEXT
from ambient_sweep.data.sources.metadata import FILE_NAME, parsed
from ambient_sweep.data.sources.source import first, printable
from ambient_sweep.data.store import TEXT_FILE, Store
from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import Base, variant
from ambient_sweep.terminal import advance

PART = 32  # captions embedded at once


def captions_of(store: Store, caption: str | None, file: Path | None) -> list[str]:
    """The caption of each image of `store`: `caption`, or that in the table `file`, or the store's own, [count].

    file: CSV, JSON lines or Parquet with the columns file_name and text, as metadata files beside images have them. Raises
    UserError, which names the image, for one that is missing.
    """
    names, cure = store.names, "--caption TEXT gives all images one, --captions FILE each its own"
    if caption is not None:
        return [caption] * len(names)
    if file is not None:
        try:
            rows = parsed(file.read_bytes(), str(file))
        except OSError as error:
            raise UserError(f"--captions: {file}: cannot be read: {error.strerror}") from None
        if not any({FILE_NAME, TEXT} <= row.keys() for row in rows):
            raise UserError(f"--captions: {file}: has no columns {FILE_NAME} and {TEXT}; add them")
        found = {row.get(FILE_NAME): row.get(TEXT) for row in rows}
        where, cure = f"--captions: {file}", f"add a row with {FILE_NAME} and {TEXT}"
    elif TEXT_FILE in store.info.files:
        found, where = dict(zip(names, store.text().tolist(), strict=True)), str(store.path)
    else:
        raise UserError(f"{store.path}: has no captions; {cure}")
    missing = [printable(name) for name in names if not isinstance(found.get(name), str)]
    if missing:
        raise UserError(f"{where}: {len(missing):,} images have no caption ({first(missing)}); {cure}")
    return [str(found[name]) for name in names]


def embed(base: Base, captions: Sequence[str], names: Sequence[str], device: str = "cpu") -> dict[str, Tensor]:
    """`prompt` [classes + 1, T, D] and `pooled` [classes + 1, P], float32, of captions; the last row is "no label".

    That row is what the base's own guidance starts from: zeros where its pipeline has force_zeros_for_empty_prompt, as SDXL
    has, else the empty caption. names: an image of each caption. Raises UserError, which names the image, for a caption
    that the text encoders would cut.
    """
    pipeline = _text_encoders(base)
    tokenizer = pipeline.tokenizer or pipeline.tokenizer_2
    most = tokenizer.model_max_length
    for caption, name, tokens in zip(captions, names, tokenizer(list(captions)).input_ids, strict=True):
        if len(tokens) > most:
            what = f"{len(tokens)} tokens, of which the text encoder reads {most} ({caption[:40]!r}...)"
            raise UserError(f"{printable(name)}: its caption has {what}; shorten it")
    for each in pipeline.components.values():
        if isinstance(each, nn.Module) and not next(each.parameters()).is_meta:
            each.to(device).eval().requires_grad_(False)
    more = {} if base.family == "sdxl" else {"prompt_3": None}
    parts = []
    for start in range(0, len(captions) + 1, PART):
        part = [*captions, ""][start : start + PART]
        with torch.no_grad():
            prompt, _, pooled, _ = pipeline.encode_prompt(
                part, None, device=device, do_classifier_free_guidance=False, **more
            )
        parts.append((prompt.float().cpu(), pooled.float().cpu()))
        advance("embedding captions", min(start + PART, len(captions)), len(captions))
    table = dict(zip(("prompt", "pooled"), map(torch.cat, zip(*parts, strict=True)), strict=True))
    if pipeline.config.get("force_zeros_for_empty_prompt"):
        for each in table.values():
            each[-1] = 0
    return table


def _text_encoders(base: Base) -> Any:
    """The base's pipeline without its VAE and without the weights of its denoising network."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionXLPipeline
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    options["variant"] = variant(base.network)
    if base.family == "sdxl":
        return StableDiffusionXLPipeline.from_pretrained(base.folder, vae=None, unet=None, **options)
    with torch.device("meta"):  # whose config tells the width of prompts
        network = SD3Transformer2DModel.from_config(SD3Transformer2DModel.load_config(base.network))
    options |= {name: None for name in ("text_encoder_3", "tokenizer_3") if not (base.folder / name).exists()}
    return StableDiffusion3Pipeline.from_pretrained(base.folder, vae=None, transformer=network, **options)
