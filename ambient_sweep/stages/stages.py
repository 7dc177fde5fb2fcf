"""The stages of a sweep: states of training that several trials have in common, and the evaluations made of them.

A state is stored under the key of all that determines it (stages/prefix.py); beside it lie the snapshot that
ema.kind=power makes there, and full evaluations, each by what it depends on:

<root>/stages/<images>-<hash>/state/              state.safetensors, state.json
                              snapshot/           snapshot.safetensors, snapshot.json
                              evaluation-<hash>/  model.safetensors, checkpoint.json; per endpoint a record and a picture

A trial copies what it goes on from (trial/stage_client.py) and does not depend on the store afterwards.
"""

from collections.abc import Iterable, Set
from pathlib import Path

from ambient_sweep.config import Config
from ambient_sweep.stages.keys import data_key, images_of
from ambient_sweep.stages.prefix import prefix_of
from ambient_sweep.stages.store import DamagedPart, Gone, Store

FOLDER, STATE = "stages", "state"
NEEDS = "needs"  # in a state's notes: the keys of earlier snapshots and evaluations that whoever takes it wants too


class Stages:
    """The stages of the sweep in `root`; `every_length` as in `fork_points`."""

    def __init__(self, root: Path, *, every_length: bool = False) -> None:
        self.root, self.every_length = root, every_length
        self.store = Store(root / FOLDER)

    def states(self) -> set[str]:
        return self.store.having(STATE)

    def collect(self, keep: Set[str], running: Iterable[Config]) -> list[str]:
        """Removes the states that neither `keep` nor the `running` configs need, and gives their keys.

        Snapshots and evaluations that lead up to a state that stays are kept: without them no trial could take it at
        once. Raises UserError where the sweep's data.json cannot be read.
        """
        self.store.remove_leftovers()
        stored, data = self.store.stored(), data_key(self.root)
        positions = {images_of(key) for key in stored}
        wanted = keep | {prefix_of(config).key(images, data) for config in running for images in positions}
        support = set().union(*map(self._needs, stored & wanted))
        removed = []
        for key in sorted(stored - wanted):
            has_state = self.store.has(key, STATE)
            if self.store.remove(key, STATE if key in support else None) and has_state:
                removed.append(key)
        return removed

    def _needs(self, key: str) -> set[str]:
        try:
            return set(self.store.notes(key, STATE)[NEEDS])
        except (Gone, DamagedPart):
            return set()
