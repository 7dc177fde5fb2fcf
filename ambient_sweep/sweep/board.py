"""The sweep's own run in TensorBoard: which keys the HPARAMS tab shows, and the frontier as a picture."""

from pathlib import Path

from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.trial.tensorboard import ROLE, Board

FOLDER = "sweep"  # in that of the sweep
MORE = 12  # columns at most, beside the searched keys


def begin_board(sweep: Sweep, root: Path) -> None:
    """Writes the columns of the HPARAMS tab, which the trials do not know."""
    evaluation = sweep.some_config().evaluation
    board = Board(root / FOLDER)
    board.columns(sweep.space, differing(sweep), (evaluation.fidelity, evaluation.memorization))
    board.close()


def differing(sweep: Sweep) -> list[str]:
    """Of what is not searched, at most MORE keys that differ between trials; how often they are measured is left out."""
    fixed = sweep.fixed_trials()
    given = dict.fromkeys(key for t in fixed for key in t.values if key not in (*sweep.space, "evaluation.lengths"))
    keys = [key for key in given if any(t.values.get(key, sweep.base[key]) != sweep.base[key] for t in fixed)]
    replicates = ["seed"] if sweep.confirm.seeds and "seed" not in keys else []
    return [ROLE, *keys, *replicates][:MORE]


def show_frontier(root: Path, images: int, png: bytes) -> None:
    """Adds the frontier as it stands after so many images that all trials together have trained."""
    board = Board(root / FOLDER)
    board.picture(images, "frontier", png)
    board.close()
