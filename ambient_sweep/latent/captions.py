"""Captions: the classes of a conditional latent model, each embedded once by the base's text encoders."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ambient_sweep.data.sources.annotations import TEXT
from ambient_sweep.data.sources.decode import one_line
from ambient_sweep.data.sources.metadata import FILE_NAME, image_name, parsed
from ambient_sweep.data.sources.source import first, printable
from ambient_sweep.data.store import EMBEDDINGS_FILE, TEXT_FILE, Store
from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import Base, read_json
from ambient_sweep.latent.components import load, loading
from ambient_sweep.storage import sha256
from ambient_sweep.terminal import advance
from ambient_sweep.text import counted

CURE = "give a whole store of latents, or prepare it again"
PART = 32  # captions embedded at once
CLASSES = re.compile(r"CLIPTextModel(WithProjection)?|T5EncoderModel|(CLIP|T5)Tokenizer(Fast)?")  # of transformers
# Without any of these files, transformers makes a tokenizer that knows no words.
VOCABULARIES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"spiece.model"})


def captions_of(store: Store, caption: str | None, file: Path | None) -> list[str]:
    """The caption of each image of `store`: `caption`, or that in the table `file`, or the store's own, [count].

    file: CSV, JSON lines or Parquet with the columns file_name and text, as metadata files beside images have them. Raises
    UserError, which names the image, for a caption that is missing, empty, not Unicode, or one of two.
    """
    names, cure = store.names, "--caption TEXT gives all images one, --captions FILE each its own"
    found: dict[str, Any] = {}
    if caption is not None:
        if not caption.strip():
            raise UserError("--caption: is empty, which is what models know as no caption; give a text")
        found, where = dict.fromkeys(names, caption), "--caption"
    elif file is not None:
        where, cure = f"--captions: {file}", f"add a row with {FILE_NAME} and {TEXT}"
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(f"{where}: cannot be read: {error.strerror}") from None
        if data.lstrip().startswith(b"["):
            raise UserError(f"{where}: is a JSON array; write one object a line to a file that ends with .jsonl")
        rows = parsed(data, where, "give CSV, one JSON object a line (.jsonl) or Parquet (.parquet), in UTF-8")
        if not any({FILE_NAME, TEXT} <= row.keys() for row in rows):
            raise UserError(f"{where}: has no columns {FILE_NAME} and {TEXT}; add them")
        for row in rows:
            name, text = image_name(row, where), row.get(TEXT)
            if found.setdefault(name, text) != text:
                raise UserError(f"{where}: gives {printable(name)} two captions; keep one of its rows")
    elif TEXT_FILE in store.info.files:
        found, where = dict(zip(names, store.text().tolist(), strict=True)), str(store.path)
    else:
        raise UserError(f"{store.path}: has no captions; {cure}")
    for name in names:
        if not isinstance(text := found.get(name), str | None):
            raise UserError(
                f"{where}: the caption of {printable(name)} is {repr(text)[:40]}, not text; write one text there"
            )
    missing = [printable(name) for name in names if not (found.get(name) or "").strip()]
    if missing:
        verb = "has" if len(missing) == 1 else "have"
        raise UserError(f"{where}: {counted(len(missing), 'image')} {verb} no caption ({first(missing)}); {cure}")
    if broken := [printable(name) for name in names if re.search("[\ud800-\udfff]", found[name])]:
        raise UserError(
            f"{where}: the caption of {first(broken)} holds half a character (a surrogate); save it in UTF-8"
        )
    return [found[name] for name in names]


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
    table: dict[str, Tensor] = {}  # filled in place: those of thousands of captions take gigabytes
    for start in range(0, len(captions) + 1, PART):
        part = [*captions, ""][start : start + PART]
        with torch.no_grad():
            prompt, _, pooled, _ = pipeline.encode_prompt(
                part, None, device=device, do_classifier_free_guidance=False, **more
            )
        for name, rows in (("prompt", prompt), ("pooled", pooled)):
            if name not in table:
                table[name] = torch.empty(len(captions) + 1, *rows.shape[1:])
            table[name][start : start + len(part)] = rows
        advance("embedding captions", min(start + PART, len(captions)), len(captions))
    if pipeline.config.get("force_zeros_for_empty_prompt"):
        for each in table.values():
            each[-1] = 0
    return table


@functools.lru_cache(maxsize=2)
def embeddings(data: Path) -> dict[str, Tensor]:
    """What `embed` made, mapped from the store `data`. Raises UserError where it has none, or a damaged file."""
    file = data / EMBEDDINGS_FILE
    try:
        table = load_file(file)
        return {name: table[name] for name in ("prompt", "pooled")}
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"data.path: {file}: cannot be read ({one_line(error)}); {CURE}") from None


@functools.lru_cache(maxsize=2)
def embeddings_key(data: Path) -> str:
    """A hash, 16 hex digits, of the embeddings in the store `data`. Raises UserError where it has none."""
    try:
        return sha256(data / EMBEDDINGS_FILE)[:16]
    except OSError as error:
        raise UserError(f"data.path: {error.filename}: cannot be read ({error.strerror}); {CURE}") from None


def _text_encoders(base: Base) -> Any:
    """The base's pipeline with its tokenizers and text encoders alone; of its denoising network the config."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionXLPipeline

    index, numbers = read_json(base.folder, "model_index.json"), ["", "_2"]
    third = "text_encoder_3"
    if base.family == "sd3" and index.get(third) not in (None, [None, None]) and (base.folder / third).exists():
        numbers.append("_3")
    parts: dict[str, Any] = dict.fromkeys(("vae", "scheduler", third, "tokenizer_3"))
    for number in numbers:
        name, words = f"text_encoder{number}", f"tokenizer{number}"
        encoder = parts[name] = load(_class(base, index, name), base.folder / name)
        encoder.register_forward_hook(functools.partial(_check_finite, base.folder / name))
        parts[words] = _tokenizer(_class(base, index, words), base.folder / words, encoder.config.vocab_size)
    if base.family == "sdxl":
        del parts[third], parts["tokenizer_3"]
        zeros = bool(index.get("force_zeros_for_empty_prompt", True))
        return StableDiffusionXLPipeline(unet=None, force_zeros_for_empty_prompt=zeros, **parts)
    with loading(base.network), torch.device("meta"):  # its config tells the width of prompts
        network = SD3Transformer2DModel.from_config(read_json(base.network, "config.json"))
    return StableDiffusion3Pipeline(transformer=network, **parts)


def _class(base: Base, index: dict[str, Any], name: str) -> Any:
    """The class that model_index.json gives a component."""
    import transformers

    match index.get(name):
        case ["transformers", str(kind)] if CLASSES.fullmatch(kind):
            return getattr(transformers, kind)
    what = f"{name} is {index.get(name)}, which is no text encoder or tokenizer of {base.title}"
    raise UserError(f"{base.folder / 'model_index.json'}: {what}; download or save the base again")


def _tokenizer(kind: Any, folder: Path, words: int) -> Any:
    """The tokenizer in `folder` for a text encoder that knows `words` words."""
    files = {path.name for path in folder.glob("*")}
    with loading(folder):
        if not any(each <= files for each in VOCABULARIES):
            raise FileNotFoundError("no vocabulary")
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        if len(tokenizer) > words or tokenizer.model_max_length > 10_000:
            raise ValueError(
                f"{len(tokenizer)} words of {words}, captions of up to {tokenizer.model_max_length:g} tokens"
            )
    return tokenizer


def _check_finite(folder: Path, module: nn.Module, given: Any, output: Any) -> None:
    """Raises UserError where a text encoder's `output` is not finite."""
    if not all(value.isfinite().all() for value in output.values() if isinstance(value, Tensor)):
        raise UserError(f"{folder}: makes embeddings that are not finite; download or save the base again")
