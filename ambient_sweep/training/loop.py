"""The training loop: a generator of records. The caller owns logging, checkpoints and evaluation."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import torch

from ambient_sweep.config import Config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.errors import TrainingDiverged
from ambient_sweep.training.group import Group
from ambient_sweep.training.loader import batches, weight_at
from ambient_sweep.training.state import TrainState
from ambient_sweep.training.step import (
    BELOW,
    CONSISTENCY,
    GENERATOR,
    MAIN,
    NORM,
    SHARE,
    DistillationStepper,
    Stepper,
)

AGREE_SECONDS = 2.0  # between the workers' agreements on whether to stop


@dataclass(frozen=True)
class Record:
    """Means over all workers since the last regular record, however often training was stopped or saved in between."""

    images: int
    loss: float
    loss_above: float | None  # at levels from the image's observed level on; None: no image was trained there
    loss_below: float | None
    consistency: float  # an unbiased estimate that may be negative; 0 while it is not trained
    consistency_weight: float
    distillation: float | None  # the generator's loss, while `loss` is its fake denoiser's; None: there is none yet
    gradient_norm: float
    lr: float
    images_per_second: float


def train(
    config: Config,
    observed: ObservedImages,
    state: TrainState,
    *,
    stops: frozenset[int] = frozenset(),
    interrupted: Callable[[], bool] = lambda: False,
) -> Generator[Record, None, None]:
    """Trains from `state.images` to config.training.stop, in place.

    It yields regular records, config.training.records over the horizon, and one at every image count in `stops` (multiples
    of the batch size) and at an early stop. When `interrupted` returns True on any worker, training ends after the step with
    a last record. The result depends on the config and the position alone: neither on the number of workers nor on where
    or how often the run was stopped. Every worker of state.group calls it. Raises
    TrainingDiverged when a loss or gradient is not finite: no state with such a value is ever yielded.
    """
    state.config = config
    batch_size, steps = config.training.batch_size, config.steps
    ahead = range(state.images // batch_size, config.length // batch_size)
    if not ahead:
        return
    every = max(1, steps // config.training.records)
    teacher = config.images_at(config.distillation.start) // batch_size  # steps, whose losses are of other networks
    teacher = teacher if config.objective.kind == "ambient_distilled" else steps
    stepper: Stepper | None = None
    stop = _Stop(state.group, state.device, interrupted)
    began, counted = time.perf_counter(), 0
    with closing(batches(config, observed, ahead, state.group, state.device)) as source:
        for step, pieces in zip(ahead, source, strict=True):
            weight = weight_at(config, step)
            kind = DistillationStepper if config.is_distilled((step + 1) * batch_size) else Stepper
            stepper = stepper if type(stepper) is kind else kind(state)
            if step == teacher:
                state.sums.zero_()
            lr = stepper.step(step, pieces, weight)
            counted += batch_size
            stopping = stop()
            regular = (step + 1) % every == 0 or step + 1 == steps
            if not (stopping or step + 1 == ahead.stop or regular or state.images in stops):
                continue
            since = max(step // every * every, teacher if teacher <= step else 0)
            mean = _means(state, step + 1 - since)
            if regular:
                state.sums.zero_()
            pace = counted / max(time.perf_counter() - began, 1e-9)
            loss, below, share = mean[MAIN], mean[BELOW], mean[SHARE]
            above = (loss - below) / (1 - share) if share < 1 else None
            parts = above, below / share if share > 0 else None
            distilled = mean[GENERATOR] if kind is DistillationStepper else None
            yield Record(state.images, loss, *parts, mean[CONSISTENCY], weight, distilled, mean[NORM], lr, pace)
            began, counted = time.perf_counter(), 0
            if stopping:
                return


def _means(state: TrainState, steps: int) -> list[float]:
    """The means of state.sums over `steps` and all workers; rank 0 keeps the total, which may be saved.

    Raises TrainingDiverged if one of them is not finite.
    """
    total = state.group.sum(state.sums.clone())
    state.sums.copy_(total if state.group.rank == 0 else torch.zeros_like(total))
    means: list[float] = (total / steps).tolist()
    places = {"loss": MAIN, "consistency loss": CONSISTENCY, "generator's loss": GENERATOR, "gradient norm": NORM}
    for name, place in places.items():
        if not math.isfinite(means[place]):
            raise TrainingDiverged(
                f"the {name} is not finite at {state.images} images ({means[place]}); "
                "lower optimizer.lr, consistency.weight or distillation.lr"
            )
    return means


class _Stop:
    """Whether to stop after this step, the same on all workers, which agree every few seconds."""

    def __init__(self, group: Group, device: torch.device, interrupted: Callable[[], bool]) -> None:
        self._group, self._device, self._interrupted = group, device, interrupted
        self._steps, self._next, self._began = 0, 1, time.perf_counter()

    def __call__(self) -> bool:
        if self._group.size == 1:
            return self._interrupted()
        self._steps += 1
        if self._steps < self._next:
            return False
        pace = (time.perf_counter() - self._began) / self._steps
        mine = torch.tensor([float(self._interrupted()), pace], device=self._device)
        stop, slowest = self._group.max(mine).tolist()
        self._next = self._steps + max(1, int(AGREE_SECONDS / max(slowest, 1e-6)))
        return bool(stop > 0)
