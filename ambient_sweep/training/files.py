"""Folders of tensors with their notes: safetensors and JSON, never pickle; written all or nothing, checked when read."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ambient_sweep.errors import UserError

FORMAT = 1  # of models and snapshots

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class DamagedFile(UserError):
    """A file is missing, cut off, or not what was written."""


def write_tensors(
    folder: Path, name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any], meta_name: str | None = None
) -> None:
    """A folder of NAME.safetensors and a JSON with the checksums of both, written aside, flushed, and renamed into place.

    Raises OSError that names `folder` where it cannot be written; what was there before stays then.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        remove(aside)
        aside.mkdir(parents=True)
        file = aside / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, file)
        notes = meta | {"sha256": sha256(file)}
        text = json.dumps(notes | {"notes_sha256": _notes_digest(notes)}, indent=1)
        (aside / f"{meta_name or name}.json").write_text(text, encoding="utf-8")
        for written in aside.iterdir():
            flush(written)
        flush(aside)
        _replace(aside, folder)
        flush(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise _os_error(error, folder) from error


def read_tensors(
    folder: Path,
    name: str,
    device: str,
    meta_name: str | None = None,
    needs: tuple[str, ...] = (),
    expects: int = FORMAT,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises DamagedFile that names a missing or damaged file, UserError for another format."""
    file, meta_file = folder / f"{name}.safetensors", folder / f"{meta_name or name}.json"
    meta = _read_notes(folder, meta_file, meta_name or name)
    sound = meta.get("notes_sha256", _notes_digest(meta)) == _notes_digest(meta)  # older files have none
    if sound and meta.get("format") != expects:
        raise UserError(f"{meta_file}: has format {meta.get('format')}, this version reads {expects}")
    for key in ("sha256", *needs):
        if key not in meta:
            raise DamagedFile(f"{meta_file}: damaged ({key} is missing)")
    if not sound:
        raise DamagedFile(f"{meta_file}: damaged (its sha256 is not the one it names)")
    try:
        if sha256(file) != meta["sha256"]:
            raise DamagedFile(f"{file}: damaged (its sha256 is not the one in {meta_file.name})")
        return load_file(file, device=device), meta
    except OSError as error:
        raise DamagedFile(f"{folder}: not a readable {meta_name or name} ({error})") from None
    except SafetensorError as error:
        raise DamagedFile(f"{file}: damaged ({error})") from None


def _read_notes(folder: Path, file: Path, what: str) -> dict[str, Any]:
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{folder}: not a readable {what} ({error})") from None
    if not isinstance(meta, dict):
        raise DamagedFile(f"{file}: damaged (not a JSON object)")
    return meta


def remove_leftovers(folder: Path) -> None:
    """Removes from `folder` what `write_tensors` of a killed process left half written."""
    for aside in folder.glob(".*.tmp"):
        remove(aside)


def remove(path: Path) -> None:
    """Removes a folder and what is in it, or the file that is in its place, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(file: Path) -> str:
    """Of a file's content, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _notes_digest(notes: dict[str, Any]) -> str:
    """Of all notes but this digest itself, in a form that does not depend on white space or order."""
    rest = {key: value for key, value in notes.items() if key != "notes_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(aside: Path, folder: Path) -> None:
    """Puts `aside` in the place of `folder`; a folder with content can only be renamed out of the way first."""
    if not folder.exists():
        os.replace(aside, folder)
        return
    old = aside.with_suffix(".old.tmp")
    os.replace(folder, old)
    try:
        os.replace(aside, folder)
    except OSError:
        os.replace(old, folder)
        raise
    remove(old)


def _os_error(error: OSError | SafetensorError, folder: Path) -> OSError:
    """The error with the folder's name; safetensors tells the number of an I/O error in words only."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), str(folder))
    found = _OS_ERROR.search(str(error))
    number = int(found[1]) if found else 5
    return OSError(number, os.strerror(number) if found else str(error), str(folder))
