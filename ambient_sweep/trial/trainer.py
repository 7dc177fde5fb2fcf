"""How a trial is trained: by itself, or with others (trial/pack.py)."""

import time
from collections.abc import Callable, Generator
from typing import Protocol

from ambient_sweep.config import Config
from ambient_sweep.data.observed import Observed
from ambient_sweep.training.loop import Record, never, train
from ambient_sweep.training.state import TrainState


class Trainer(Protocol):
    """How a trial is trained: by itself, or with others."""

    def train(
        self,
        config: Config,
        observed: Observed,
        state: TrainState,
        *,
        stops: frozenset[int] = frozenset(),
        interrupted: Callable[[], bool] = never,
    ) -> Generator[Record, None, None]:
        """As `training.loop.train`. The state may be changed when the generator is closed."""

    def seconds(self) -> float:
        """Seconds of the device that went to the trial so far."""


class Alone:
    """Trained by itself: the device is the trial's own."""

    train = staticmethod(train)

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._began
