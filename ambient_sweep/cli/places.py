"""What a path means to a command: a run, a trial or a checkpoint, or something in or above one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.select import select
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import EVALUATIONS_FILE, read_table
from ambient_sweep.trial.records import checkpoint_folder, read_trial
from ambient_sweep.trial.retention import CHECKPOINTS, check_kept, checkpoints, listed


@dataclass(frozen=True)
class Place:
    """A run's folder, and which trial and checkpoint in it are meant, if any."""

    root: Path
    trial: str | None = None
    checkpoint: Path | None = None  # which may be missing

    def trials(self) -> list[Path]:
        """The trial, or all of the run."""
        return sorted(record.parent for record in self.root.glob(f"trials/{self.trial or '*'}/trial.json"))

    def rows(self, table: pa.Table) -> pa.Table:
        """What a table of evaluations says of them."""
        if self.trial is not None:
            table = table.filter(pc.equal(table[schema.TRIAL_ID], self.trial))
        if self.checkpoint is not None:
            name = self.checkpoint.relative_to(self.root).as_posix()
            table = table.filter(pc.equal(table[schema.CHECKPOINT], name))
        return table


def find_place(path: Path) -> Place:
    """The run, trial or checkpoint at `path` or around it; of a folder with a single run, that. Raises UserError."""
    full = Path(os.path.abspath(path.expanduser()))
    for root in (full, *full.parents):
        if Place(root).trials():
            parts = full.relative_to(root).parts
            trial = parts[1] if parts[:1] == ("trials",) and len(parts) > 1 else None
            place = Place(
                root, trial, root.joinpath(*parts[:4]) if parts[2:3] == (CHECKPOINTS,) and len(parts) > 3 else None
            )
            if place.trials() and (full.exists() or place.checkpoint):
                return place
            raise UserError(f"{path}: no such trial or checkpoint; {listed(root, Place(root).trials())}")
    folder = next(each for each in (full, *full.parents) if each.exists())
    runs = sorted({record.parents[2] for record in folder.glob("*/trials/*/trial.json")})
    if folder == full and len(runs) == 1:
        return Place(runs[0])
    problem = "holds several runs, give one" if runs else "neither a run nor a trial or checkpoint of one"
    raise UserError(f"{path}: {problem if folder == full else 'no such file or folder'}; {listed(folder, runs)}")


def find_trial(path: Path) -> Path:
    """The folder of the trial at `path` or around it; of a run with a single trial, that. Raises UserError."""
    place = find_place(path)
    first, *others = place.trials()
    if others:
        raise UserError(f"{path}: holds several trials, give one; {listed(place.root, [first, *others])}")
    return first


def find_checkpoint(path: Path, echo: Callable[[str], None]) -> tuple[Path, str | None]:
    """The checkpoint that `path` means, and the endpoint that `best` picks it for, if it does; `echo` is told which.

    Of a trial the longest trained; of a run the same where it has one trial, else what `best` picks, else its only one.
    Raises UserError, which lists what there is.
    """
    given = path.parent if path.is_file() else path
    if (given / "checkpoint.json").is_file():
        return given, None
    place = find_place(given)
    trials, found, endpoint = place.trials(), checkpoints(place.root, place.trial), None
    chosen = found[-1] if found and len(trials) == 1 and place.checkpoint is None else None
    if len(trials) > 1:
        chosen, endpoint = _best(place.root)
        if chosen not in found:
            chosen, endpoint = found[0] if len(found) == 1 else None, None
    if chosen is None:
        if len(trials) == 1:
            last = read_trial(place.root, trials[0].name).discarded
            check_kept(place.checkpoint or checkpoint_folder(place.root, trials[0].name, last))
        problem = "holds several checkpoints, give one" if found else "holds no checkpoint"
        raise UserError(f"{path}: {'no such checkpoint' if place.checkpoint else problem}; {listed(place.root, found)}")
    echo(f"checkpoint: {chosen}{' (the choice of `best`)' if endpoint else ''}")
    return chosen, endpoint


def _best(root: Path) -> tuple[Path | None, str | None]:
    """The checkpoint and the endpoint that `best` picks of a run, if it can."""
    try:
        row = select(read_table(root / EVALUATIONS_FILE), "knee").row
    except UserError:
        return None, None
    return root / row[schema.CHECKPOINT], row[schema.ENDPOINT]
