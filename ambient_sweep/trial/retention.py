"""What a sweep keeps when it has ended: records, pictures and chosen checkpoints. All else can be trained again."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.stages.keys import FOLDER
from ambient_sweep.storage import remove_whole
from ambient_sweep.text import command
from ambient_sweep.trial.records import (
    read_trial,
    read_trial_evaluations,
    read_trials,
    trial_folder,
    trial_path,
    write_trial,
)

STATE, SNAPSHOTS, CHECKPOINTS = "state", "snapshots", "checkpoints"
LISTED = 12  # names in a message


def discard(root: Path, keep_checkpoints: Collection[str]) -> list[Path]:
    """Removes the stages and, of trials that have ended, the training states and all checkpoints but `keep_checkpoints`.

    These are paths relative to `root`, as in EvaluationRecord.checkpoint. Trials that may still go on are left as they
    are. Snapshots of ema.kind=power stay with trials that keep a checkpoint, so that `average` works on these. Returns the
    folders that were removed. May be killed at any point and called again: each folder goes by a rename, after the trial's
    record says so. Raises UserError for a damaged record, before anything is removed, and OSError where a folder cannot be
    removed.
    """
    removed = []
    fetch_folder(root / "trials", "*.json")
    ended = [trial for trial in read_trials(root) if trial.ended]
    for trial in ended:
        folder = trial_folder(root, trial.trial_id)
        found = sorted((folder / CHECKPOINTS).glob("images-*"))
        kept = [place for place in found if place.relative_to(root).as_posix() in keep_checkpoints]
        others = [folder / STATE, *([] if kept else [folder / SNAPSHOTS])]
        gone = [*(place for place in others if place.exists()), *(place for place in found if place not in kept)]
        reported = max((e.images for e in read_trial_evaluations(root, trial.trial_id)), default=0)
        if gone and trial.discarded != reported:
            write_trial(root, replace(trial, discarded=reported))
        for place in gone:
            remove_whole(place)
        removed += gone
    if remove_whole(root / FOLDER):
        removed.append(root / FOLDER)
    return removed


def check_kept(path: Path) -> None:
    """Raises UserError, with the cure, for a checkpoint, or a trial's snapshots, removed when the sweep ended.

    `path`: `<root>/trials/<trial id>/checkpoints/images-<n>`, or the folder of a trial.
    """
    path = path.absolute()
    folder = path.parent.parent if path.parent.name == CHECKPOINTS else path
    removed = folder / SNAPSHOTS if folder == path else path
    root, trial_id = folder.parent.parent, folder.name
    if removed.exists() or folder.parent.name != "trials" or not trial_path(root, trial_id).exists():
        return
    trial = read_trial(root, trial_id)
    config = build_config(trial.config, where=trial_id)
    if not trial.discarded or (folder == path and config.ema.kind != "power"):
        return
    raise UserError(
        f"{removed}: was removed when the sweep ended (search.keep=frontier); to have it again, run "
        f"`{command('train', folder / 'config.yaml')}`; search.keep=all keeps all of a sweep; "
        f"{listed(root, checkpoints(root))}"
    )


def is_of_trial(checkpoint: Path) -> bool:
    """Whether the folder of a checkpoint is that of a trial of a run; `average` writes others."""
    return checkpoint.parent.name == CHECKPOINTS and (checkpoint.parents[1] / "trial.json").is_file()


def checkpoints(root: Path) -> list[Path]:
    """The folders of the checkpoints that a sweep has."""
    return sorted(file.parent for file in root.glob(f"trials/*/{CHECKPOINTS}/images-*/checkpoint.json"))


def listed(folder: Path, paths: Sequence[Path]) -> str:
    """What there is in a folder, for a message."""
    names = [path.relative_to(folder).as_posix() for path in paths[:LISTED]]
    more = [f"{len(paths) - LISTED} more"] if len(paths) > LISTED else []
    return f"in {folder} there is {', '.join(names + more) or 'none'}"
