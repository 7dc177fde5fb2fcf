"""What packing gains here: a short race of a pack against one model by itself."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.training.loader import weight_at
from ambient_sweep.training.loop import train
from ambient_sweep.training.packed import train_packed
from ambient_sweep.training.state import TrainState

IMAGES = 256  # made up, to train on
STEPS = 8  # between two looks at the clock
FEWEST = 3  # rounds, whatever the time
ENDLESS = {"training.images": 2**40, "training.stop": 1.0, "training.records": 1}


def packing_gain(config: Config, count: int, seconds: float = 4.0, device: str = "cpu") -> float:
    """How many times as fast `count` models train in one pack as one after another, here, over a whole run of `config`.

    Trains made-up images of the config's shape for about `seconds`: rounds of both, the medians compared, before and after
    consistency begins. On a CPU it counts CPU time, on which what else runs here has little effect. The members differ in
    seed, noise level and learning rate. Raises UserError as `train_packed` does.
    """
    begin = next((step for step in range(config.steps) if weight_at(config, step) > 0), config.steps)
    after = 1 - begin / config.steps  # share of the run with consistency
    plain: dict[str, object] = {} if config.objective.kind != "ambient_consistency" else {"objective.kind": "ambient"}
    phases: list[tuple[float, dict[str, object]]] = [
        (1 - after, plain),
        (after, {"consistency.start": 0.0, "consistency.ramp": "step"}),
    ]
    alone = together = 0.0
    for share, changes in phases:
        if share > 0:
            times = _times(build_config(config.model_dump(), ENDLESS, changes), count, seconds * share, device)
            alone, together = alone + share * times[0], together + share * times[1]
    return alone / together


def _times(config: Config, count: int, seconds: float, device: str) -> tuple[float, float]:
    """Seconds of a step of one member, by itself and in a pack of `count`."""
    lr, sigma = config.optimizer.lr, config.observed.sigma
    configs = [
        build_config(config.model_dump(), {"seed": n, "optimizer.lr": lr / (1 + n), "observed.sigma": sigma / (1 + n)})
        for n in range(count)
    ]
    observed = [_observed(each) for each in configs]
    shape = (config.data.channels, config.data.image_size, config.data.image_size)
    classes = 2 if config.model.conditional else 0
    states = [TrainState.create(each, shape, device, classes) for each in configs]
    single = TrainState.create(configs[0], shape, device, classes)
    stops = frozenset(STEPS * config.training.batch_size * round_ for round_ in range(1, 100_000))
    clock = time.process_time if device == "cpu" else time.perf_counter
    with (
        closing(train(configs[0], observed[0], single, stops=stops)) as alone,
        closing(train_packed(configs, observed, states, stops=[stops] * count)) as together,
    ):
        rounds: list[tuple[float, float]] = []
        ends = time.perf_counter() + seconds
        while len(rounds) < 1 + FEWEST or time.perf_counter() < ends:
            rounds.append((_timed(clock, alone), _timed(clock, together)))
    serial, packed = (statistics.median(times) for times in zip(*rounds[1:], strict=True))  # the first warms up
    return serial / STEPS, packed / (STEPS * count)


def _timed(clock: Callable[[], float], records: Iterator[object]) -> float:
    begun = clock()
    next(records)  # waits for the device
    return clock() - begun


def _observed(config: Config) -> ObservedImages:
    side, sigma, generator = config.data.image_size, config.observed.sigma, torch.Generator().manual_seed(0)
    x = torch.rand((IMAGES, config.data.channels, side, side), generator=generator) * 2 - 1
    y = x + sigma * torch.randn(x.shape, generator=generator)
    labels = torch.arange(IMAGES) % 2 if config.model.conditional else None
    return ObservedImages(y, torch.full((IMAGES,), sigma), x, labels, 0 if labels is None else 2)
