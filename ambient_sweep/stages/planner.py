"""What the trials of a sweep have trained so far, as the driver knows it, and so what a config would still cost.

Trials read and write the stored states on their own: this decides only in which order configs are tried.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ambient_sweep.config import Config
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.stages.keys import Prefix, evaluation_part, fork_points, images_of, prefix_of

Values = Mapping[str, Any]
KNOWN = 16384  # configs whose prefixes are remembered


@dataclass(frozen=True)
class Run:
    """A config's training: the states that it stores, and its evaluations, by images and rising."""

    prefix: Prefix
    states: tuple[tuple[int, str], ...]
    evaluations: tuple[tuple[int, str], ...]


@dataclass
class Planner:
    """Which prefixes are stored, and which are being trained.

    `data`: the fingerprint of the training data (`data_key`). `every_length`: as in `fork_points`. `shares`: whether trials
    store and take anything; if not, each costs its whole training.
    """

    config_for: Callable[[Values], Config]
    data: str = ""
    every_length: bool = False
    shares: bool = True
    stored: set[str] = field(default_factory=set)  # states, and evaluations of states that are not stored themselves

    def __post_init__(self) -> None:
        self._running: dict[str, tuple[Run, int]] = {}  # with the images that it has stored
        self._positions = {images_of(key) for key in self.stored}  # of stored states, in images
        self._run = lru_cache(KNOWN)(self._make)

    def run(self, values: Values) -> Run:
        return self._run(json.dumps(dict(values), sort_keys=True))

    def cost(self, values: Values) -> int:
        run = self.run(values)
        return run.prefix.last - self._reachable(run)

    def busy(self, values: Values) -> bool:
        """Whether a running trial is on its way to store a longer prefix of this config than is stored."""
        if not self._running:
            return False
        run = self.run(values)
        position = self._reachable(run)
        for other, stored in self._running.values():
            shared = run.prefix.shared_until(other.prefix)
            to_come = max((images for images, _ in other.states if images <= shared), default=0)
            if to_come > max(position, stored):
                return True
        return False

    def _reachable(self, run: Run) -> int:
        states = {images for images in self._positions if run.prefix.key(images, self.data) in self.stored}
        measurable = states | {images for images, key in run.evaluations if key in self.stored}
        missing = next((images for images, _ in run.evaluations if images not in measurable), run.prefix.last)
        return max((images for images in states if images <= missing), default=0)

    def started(self, trial_id: str, values: Values) -> None:
        """A trial started or goes on."""
        if self.shares:
            run = self.run(values)
            self._running[trial_id] = run, self._reachable(run)

    def reached(self, trial_id: str, images: int) -> None:
        """A running trial was evaluated after `images`, and has stored what others may share up to there."""
        if trial_id in self._running:
            run, stored = self._running[trial_id]
            self._running[trial_id] = run, max(images, stored)
            last = max((at for at, _ in run.states if at <= images), default=0)
            new = {key for at, key in (*run.states, *run.evaluations) if at <= last}
            self.stored |= new
            self._positions |= {images_of(key) for key in new}

    def ended(self, trial_id: str) -> None:
        """A trial is over, or pauses."""
        self._running.pop(trial_id, None)

    def forget(self, keys: Iterable[str]) -> None:
        """The states of these keys are gone, and perhaps the evaluations made of them."""
        gone = set(keys)
        self.stored = {key for key in self.stored if key.partition("/")[0] not in gone}

    def _make(self, values: str) -> Run:
        config = self.config_for(json.loads(values))
        prefix = prefix_of(config)
        evaluations = tuple(
            (images, f"{prefix.key(images, self.data)}/{evaluation_part(config, images, '')}")
            for images in sorted(evaluated_lengths(config))
        )
        states = tuple((images, prefix.key(images, self.data)) for images in fork_points(config, self.every_length))
        return Run(prefix, states, evaluations)
