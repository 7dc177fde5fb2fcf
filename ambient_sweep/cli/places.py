"""What a path means to a command: a run, a trial or a checkpoint, or something in or above one."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.select import complete, read_candidates, select
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import EVALUATIONS_FILE
from ambient_sweep.trial.records import checkpoint_folder, read_trial
from ambient_sweep.trial.retention import check_kept, checkpoints, listed


def find_place(path: Path) -> tuple[Path, Path]:
    """The run at or around `path`, and what in it is meant: the run, a trial or a checkpoint, which may be missing.

    A folder that holds a single run means that one. Raises UserError, which lists what there is.
    """
    full = Path(os.path.abspath(path))
    for root in (full, *full.parents):
        trials = trials_of(root)
        if trials:
            match = re.match(r"trials/[^/]+(/checkpoints/[^/]+)?", full.relative_to(root).as_posix())
            meant = root / match[0] if match else root
            known = meant == root or not {meant, meant.parents[1]}.isdisjoint(trials)
            if known and (full.exists() or meant not in (root, *trials)):
                return root, meant
            raise UserError(f"{path}: no such trial or checkpoint; {listed(root, trials)}")
    folder = next(each for each in (full, *full.parents) if each.exists())
    runs = sorted({record.parents[2] for record in folder.glob("*/trials/*/trial.json")})
    if folder == full and len(runs) == 1:
        return runs[0], runs[0]
    problem = "holds several runs, give one" if runs else "neither a run nor a trial or checkpoint of one"
    raise UserError(f"{path}: {problem if folder == full else 'no such file or folder'}; {listed(folder, runs)}")


def trials_of(root: Path) -> list[Path]:
    return sorted(record.parent for record in root.glob("trials/*/trial.json"))


def find_checkpoint(path: Path, echo: Callable[[str], None]) -> tuple[Path, str | None]:
    """The checkpoint that `path` means, which `echo` prints, and the endpoint that `best` picks it for, if it does.

    Of a trial the longest trained; of a run the same where it has one trial, else what `best` picks, else its only one.
    Raises UserError, which lists what there is.
    """
    given = path.parent if path.is_file() else path
    if (given / "checkpoint.json").is_file():
        return given, None
    root, meant = find_place(given)
    found, endpoint = [folder for folder in checkpoints(root) if meant in folder.parents], None
    if meant == root and len(trials_of(root)) > 1:
        chosen = found[0] if len(found) == 1 else None
        with suppress(UserError):  # there is nothing to pick from
            file = root / EVALUATIONS_FILE
            row = complete(select(read_candidates(file), "knee"), file).row
            if root / row[schema.CHECKPOINT] in found:
                chosen, endpoint = root / row[schema.CHECKPOINT], row[schema.ENDPOINT]
    else:
        chosen = found[-1] if found else None
        if chosen is None:
            trial = next(each.name for each in trials_of(root) if meant == root or each in (meant, meant.parents[1]))
            last = checkpoint_folder(root, trial, read_trial(root, trial).discarded)
            check_kept(last if meant in last.parents else meant)
    if chosen is None:
        problem = "holds several checkpoints, give one" if found else "there is no checkpoint"
        raise UserError(f"{path}: {problem}; {listed(root, checkpoints(root))}")
    echo(f"checkpoint: {chosen}{' (the choice of `best`)' if endpoint else ''}")
    return chosen, endpoint
