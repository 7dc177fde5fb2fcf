"""Stages: what several trials have in common is trained and evaluated once (stage trees: Hippo, arXiv 2006.11972).

A stage is the state of training after so many images, under the key of all that determines it (training/prefix.py). Beside
the state lie the snapshot that ema.kind=power makes there, and the full evaluations made of it, by what these depend on:

<root>/stages/<images>-<hash>/state/              state.safetensors, state.json
                              snapshot/           snapshot.safetensors, snapshot.json
                              evaluation-<hash>/  model.safetensors, checkpoint.json; per endpoint a record and a picture

A trial takes copies of what it goes on from (trial/sharing.py) and needs nothing of the store afterwards.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.errors import UserError
from ambient_sweep.stages.folder_store import FolderStore
from ambient_sweep.stages.prefix import phase_starts, prefix_of
from ambient_sweep.stages.store import DamagedPart, Gone
from ambient_sweep.training.posthoc_ema import snapshot_images
from ambient_sweep.trial.records import read_trials
from ambient_sweep.trial.samples import samples_at
from ambient_sweep.trial.setup import TRAINED_ON, evaluated_lengths

FOLDER = "stages"
STATE = "state"
NEEDS = (
    "needs"  # in the notes of a state: the keys before it of snapshots and evaluations that whoever takes it wants too
)


class Stages:
    """The stages of the sweep in `root`.

    `every_length`: as of `fork_points`.
    """

    def __init__(self, root: Path, *, every_length: bool = False) -> None:
        self.root, self.every_length = root, every_length
        self.store = FolderStore(root / FOLDER)

    def states(self) -> set[str]:
        """The keys of all states that are stored."""
        return self.store.having(STATE)

    def bytes(self) -> int:
        """What is stored, in bytes; files that trials hold as well count too."""
        return self.store.bytes()

    def collect(self, keep: Set[str], running: Iterable[Config] | None = None) -> list[str]:
        """Removes the states that neither `keep` nor trials under way need, and gives their keys.

        Of what lies before a state that stays, its snapshots and evaluations stay, without which nobody could go on from it
        at once. `running`: the configs under way; by default those whose records say so. What is being read stays. Raises
        UserError naming a damaged record.
        """
        self.store.sweep()
        stored, data = self.store.stored(), data_key_of(self.root)
        wanted = stored & keep
        if data is not None:
            images = {images_of(key) for key in stored}
            for config in _under_way(self.root) if running is None else running:
                wanted |= {prefix_of(config).key(n, data) for n in images} & stored
        support = set().union(*map(self._needs, wanted))
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


def collect(root: Path, keep: Set[str], running: Iterable[Config] | None = None) -> list[str]:
    """`Stages.collect` of the sweep in `root`."""
    return Stages(root).collect(keep, running)


def _under_way(root: Path) -> Iterator[Config]:
    for trial in read_trials(root):
        if trial.status == "running":
            yield build_config(trial.config, where=trial.trial_id)


# -- keys -------------------------------------------------------------------------------------------------------------


def data_key(data: ImageData) -> str:
    """The fingerprint of what is trained on, for `prefix_key`."""
    return _key_of(data.trained_on())


def data_key_of(root: Path) -> str | None:
    """The same from the note that a sweep's folder keeps of its data; None where there is none yet."""
    try:
        tree = json.loads((root / TRAINED_ON).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{root / TRAINED_ON}: cannot be read ({error}); restore it") from None
    return _key_of(tree)


def _key_of(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:24]


def images_of(key: str) -> int:
    """The images after which a stage stands; 0 for what is no key."""
    digits = key.partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def fork_points(config: Config, every_length: bool = False) -> tuple[int, ...]:
    """The image counts, rising, at which a trial publishes its state.

    The evaluated lengths up to where its own last phase begins, the begin of each phase, and where it stops. `every_length`:
    all evaluated lengths, for trials that are one training to the end, and measured otherwise.
    """
    starts, last = phase_starts(config), config.images_at(config.training.stop)
    before = last if every_length else max(starts, default=last)
    return tuple(sorted({n for n in evaluated_lengths(config) if n <= before} | {*starts, last}))


def stage_keys(config: Config, data: str, every_length: bool = False) -> dict[int, str]:
    """The keys of the states that a trial publishes, by images, rising; `data` as `data_key` gives it."""
    return {images: prefix_of(config).key(images, data) for images in fork_points(config, every_length)}


def evaluation_part(config: Config, images: int, reference_key: str) -> str:
    """The name of an evaluation of a state: a hash of all that it depends on beside the state."""
    e = config.evaluation
    settings: list[Any] = [
        reference_key,
        samples_at(config, images),
        list(config.endpoints()),
        e.model_dump(mode="json", exclude={"lengths", "samples", "early_samples", "endpoints"}),
        config.sampling.model_dump(mode="json"),
    ]
    if config.ema.kind == "power":
        settings.append(config.ema.length)
        if config.ema.length not in config.ema.tracked:  # reconstructed from the snapshots up to here
            settings.append([n for n in snapshot_images(config) if n < images])
    return f"evaluation-{_key_of(settings)}"


def made_with(device: torch.device) -> dict[str, str]:
    """What bits depend on beside the config: only where it is the same is a stage the trial's own training."""
    kind = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {"torch": torch.__version__, "device": f"{device.type} {kind}"}
