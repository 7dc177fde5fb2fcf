"""The folder of a run: how it is claimed, and what must stay as it was in a sweep that has begun."""

import json
import os
from pathlib import Path
from typing import Any

from ambient_sweep import trust
from ambient_sweep.config.files import flatten
from ambient_sweep.errors import UserError
from ambient_sweep.object_store import fetch_folder, stored_sizes
from ambient_sweep.storage import write_atomic
from ambient_sweep.sweep.space.baseline import OTHERS
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import SWEEP_FILE

BEGUN_FILE = ".begun.json"
AGAIN = f"`run` its {SWEEP_FILE} under another --name, --from this run"  # where records are whole, and no more
DRIVER_LOCK = ".driver.lock"
RAY_FOLDER = "ray"  # of Tune and Train


def claim(root: Path, hint: str) -> Path:
    """Makes the folder of a new run, or takes one in which nothing was trained.

    Raises UserError where it holds anything else (`hint` says what to do about a run) or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); give another --storage or --name") from None
    if not _is_vacant(root):
        raise UserError(f"{root}: a run of this name already exists; {hint}, or give another --name")
    return root


def _is_vacant(root: Path) -> bool:
    """Whether the folder is as a driver that was killed before any training leaves it, or holds no file."""
    fetch_folder(root, DRIVER_LOCK, ".parquet")
    if (root / DRIVER_LOCK).exists():
        return not has_trials(root) and not any(root.glob("*.parquet"))
    return not stored_sizes(root) and not any(path.is_file() for path in root.rglob("*"))


def has_trials(root: Path) -> bool:
    """Whether any trial of the run has left something."""
    fetch_folder(root / "trials", "/trial.json")
    return (root / "trials").exists()


def sweep_folder(path: Path) -> Path:
    """The folder of a sweep, given as such or by its sweep.yaml. Raises UserError where it is none."""
    root = path.parent if path.name == SWEEP_FILE and path.is_file() else path
    if not (root / SWEEP_FILE).is_file():
        raise UserError(f"{root}: {SWEEP_FILE} is missing, so this is not the folder of a sweep")
    return root


def check_within(folder: Path) -> None:
    """Raises UserError for a symbolic link in the folder of a run, without --trust: files would be changed behind it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                trust.require(
                    f"{entry.path}: is a symbolic link, behind which this command would write and remove files"
                )
            elif entry.is_dir():
                check_within(Path(entry))


def note_begun(sweep: Sweep, root: Path) -> None:
    """Writes what `check_unchanged` compares with."""
    write_atomic(root / BEGUN_FILE, json.dumps(_fixed(sweep)).encode())


def check_unchanged(sweep: Sweep, root: Path) -> None:
    """Raises UserError for the first key of `root`'s sweep.yaml that is not what it was when the sweep began.

    Ranges may be wider, where clean training does not draw from them: what was measured stays within.
    """
    try:
        begun, now = dict(json.loads((root / BEGUN_FILE).read_bytes()).items()), _fixed(sweep)
    except (OSError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{root / BEGUN_FILE}: missing or damaged; restore it, or {AGAIN}") from None
    for key in begun | now:
        same = begun.get(key) == now.get(key) or key == "base.model.base"  # whose content `prepare` checks
        if not same and not _wider(key, begun.get(key), now.get(key)):
            raise UserError(
                f"{root / SWEEP_FILE}: {key}: is {now.get(key)} now, but was {begun.get(key)} when this sweep began; put it "
                "back, or `run` the file under another --name"
            )


def _wider(key: str, was: Any, now: Any) -> bool:
    """Whether the ends of a range without step lie further apart than they did."""
    section, _, kind = key.rpartition(".")
    is_range = section.startswith("space.") and kind in ("uniform", "loguniform", "int", "logint")
    if not is_range or not section.removeprefix("space.").startswith(OTHERS):
        return False
    match was, now:
        case [int() | float() as low, int() | float() as high], [lower, higher]:
            return bool(lower <= low <= high <= higher)
    return False


def _fixed(sweep: Sweep) -> dict[str, Any]:
    """What stays as it was once a sweep has begun: all of its file but `search` and `confirm`, under dotted keys."""
    tree = {name: section for name, section in sweep.dump().items() if name not in ("search", "confirm")}
    fixed: dict[str, Any] = json.loads(json.dumps(flatten(tree)))  # tuples become lists
    return fixed
