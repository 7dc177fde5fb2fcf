"""Folders of tensors with their notes: safetensors and JSON, never pickle; written all or nothing, checked when read."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ambient_sweep.errors import UserError
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.storage import digest, new_folder, sha256

FORMAT = 4  # of states, models and snapshots


class DamagedFile(UserError):
    """A file is missing, cut off, or not what was written."""


def write_tensors(
    folder: Path, name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any], meta_name: str | None = None
) -> None:
    """Writes a folder of NAME.safetensors and its notes with a checksum of both, all or nothing.

    Raises OSError that names `folder` where it cannot be written; what was there before stays then.
    """
    try:
        with new_folder(folder) as aside:
            file = aside / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, file)
            write_notes(aside, meta_name or name, meta | {"sha256": sha256(file)})
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))  # of which safetensors keeps the text alone
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(folder)) from error


def read_tensors(
    folder: Path, name: str, device: str, meta_name: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises DamagedFile that names a missing or damaged file, UserError for another format."""
    fetch_folder(folder)
    file, notes_name = folder / f"{name}.safetensors", meta_name or name
    meta = read_notes(folder, notes_name)
    try:
        if sha256(file) != meta["sha256"]:
            raise DamagedFile(f"{file}: damaged (its sha256 is not the one in {notes_name}.json)")
        return load_file(file, device=device), meta
    except OSError as error:
        raise DamagedFile(f"{folder}: not a readable {notes_name} ({error})") from None
    except SafetensorError as error:
        raise DamagedFile(f"{file}: damaged ({error})") from None


def write_notes(folder: Path, name: str, notes: dict[str, Any]) -> None:
    """Writes `notes` as NAME.json with the format and their own checksum."""
    notes = {"format": FORMAT, **notes}
    text = json.dumps(notes | {"notes_sha256": _notes_digest(notes)}, indent=1)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def read_notes(folder: Path, name: str) -> dict[str, Any]:
    """What `write_notes` wrote, checked. Raises as `read_tensors` does."""
    file = folder / f"{name}.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{folder}: not a readable {name} ({error})") from None
    if not isinstance(meta, dict):
        raise DamagedFile(f"{file}: damaged (not a JSON object)")
    if meta.get("notes_sha256") != _notes_digest(meta):
        raise DamagedFile(f"{file}: damaged (its sha256 is not the one it names)")
    if meta.get("format") != FORMAT:
        raise UserError(f"{file}: has format {meta.get('format')}, this version reads {FORMAT}")
    return meta


def _notes_digest(notes: dict[str, Any]) -> str:
    return digest({key: value for key, value in notes.items() if key != "notes_sha256"})
