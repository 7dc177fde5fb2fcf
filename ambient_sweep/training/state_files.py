"""The states of a run on disk: the two newest are kept; if one is damaged, the one before it is used."""

from collections.abc import Callable
from pathlib import Path

from ambient_sweep.errors import UserError
from ambient_sweep.storage import remove, remove_leftovers
from ambient_sweep.training.files import DamagedFile
from ambient_sweep.training.state import TrainState, read_state

KEPT = 2
BEGIN_AGAIN = "and the run begins again"


def state_name(images: int) -> str:
    return f"images-{images:09d}"


def saved_states(place: Path) -> list[Path]:
    """The folders of states in `place`, the newest first."""
    found = {path: path.name.removeprefix("images-") for path in place.glob("images-*")}
    return sorted((path for path in found if found[path].isdigit()), key=lambda path: int(found[path]), reverse=True)


def save_newest(place: Path, state: TrainState) -> None:
    """Saves the state in `place` and keeps it and the newest one before it; every worker calls it, rank 0 writes.

    Removes later ones, which are damaged. Raises OSError that names what cannot be written.
    """
    mine = place / state_name(state.images)
    state.save(mine)
    if state.group.rank == 0:
        states = saved_states(place)
        kept = states[states.index(mine) :][:KEPT]
        for old in states:
            if old not in kept:
                remove(old)


def restore_newest(place: Path, state: TrainState, echo: Callable[[str], None]) -> str | None:
    """Restores `state` from the newest sound state in `place`, the same on every worker; returns its name, or None.

    Echoes one line for a damaged state and uses the one before it. Raises UserError if all are damaged, or if one belongs
    to another config or format.
    """
    choice = state.group.broadcast(_choose(place, echo) if state.group.rank == 0 else None)
    if choice is None:
        return None
    if isinstance(choice, str):
        raise UserError(choice)
    state.restore(choice, *read_state(choice))
    return choice.name


def _choose(place: Path, echo: Callable[[str], None]) -> Path | str | None:
    """The newest sound state, None if there is no state, or the reason why none can be used."""
    remove_leftovers(place)
    states, damages = saved_states(place), []
    for folder in states:
        try:
            read_state(folder)
        except DamagedFile as error:
            without_path = str(error).removeprefix(str(folder)).partition(": ")[2]
            damages.append(f"state {folder.name}: {without_path}")
            continue
        except UserError as error:
            return f"{error}; remove {place} {BEGIN_AGAIN}"
        for damage in damages:
            echo(f"{damage}; going on from {folder.name}")
        return folder
    if damages:
        return f"{place}: no state can be read ({'; '.join(damages)}); restore one, or remove {place} {BEGIN_AGAIN}"
    return None
