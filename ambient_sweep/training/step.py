"""One optimizer step: losses of a worker's share in parts, gradients over the workers, clipping, AdamW, averages."""

from collections.abc import Callable
from functools import partial

import torch

from ambient_sweep.training import objective
from ambient_sweep.training.compute import WrappedDenoiser, check_compiler
from ambient_sweep.training.loader import Pieces
from ambient_sweep.training.objective import takes_part
from ambient_sweep.training.schedules import learning_rate
from ambient_sweep.training.state import SUMS, TrainState

# places in TrainState.sums; BELOW: the part of MAIN that images trained below their observed level make, SHARE: their share
MAIN, CONSISTENCY, NORM, BELOW, SHARE = range(SUMS)

Losses = Callable[[], torch.Tensor]
Task = tuple[int, Losses, int, torch.Tensor | None]


class Stepper:
    """Trains a state step by step. Losses are sums over the count of the *whole* batch, so that neither the number of
    workers nor that of parts changes what is trained. Nothing here waits for the device.
    """

    def __init__(self, state: TrainState) -> None:
        config, group = state.config, state.group
        self.state, self.config, self.group = state, config, group
        self.parameters = list(state.denoiser.parameters())
        state.denoiser.train()
        if config.compute.compile:
            check_compiler(state.device)
        self.wrapped = WrappedDenoiser(state.denoiser, config.compute, group)

    def step(self, step: int, pieces: Pieces, weight: float) -> float:
        """Trains step number `step`, from 0, on this worker's `pieces`; returns the learning rate.

        Adds the step's mean losses and gradient norm to state.sums (a worker's part of them).
        """
        state, config = self.state, self.config
        batch_size = config.training.batch_size
        state.optimizer.zero_grad()
        tasks = self._tasks(step, pieces, weight)
        for number, (place, losses, count, below) in enumerate(tasks):
            with self.wrapped.reducing(last=number == len(tasks) - 1):
                values = losses()
                total = values.sum()
                share = weight if place == CONSISTENCY else 1.0
                (total * (share * self.group.size / count)).backward()  # type: ignore[no-untyped-call]
            state.sums[place] += total.detach() / count
            if below is not None:
                state.sums[BELOW] += (values.detach() * below).sum() / count
                state.sums[SHARE] += below.sum() / count
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.optimizer.clip_norm)
        if self.group.rank == 0:
            state.sums[NORM] += norm
        lr = learning_rate(config.optimizer, (step + 1) / config.steps)
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = lr
        state.optimizer.step()
        state.images = (step + 1) * batch_size
        state.averages.update(self.parameters, step * batch_size, state.images)
        return lr

    def _tasks(self, step: int, pieces: Pieces, weight: float) -> list[Task]:
        """The losses of this step, each with its place, the count in the whole batch that its mean is over, and `below`.

        Each gets its own backward pass: a graph is freed before the next is built.
        """
        batch_size, c, denoiser = self.config.training.batch_size, self.config.consistency, self.wrapped.denoiser
        sharing = max(int(takes_part(step * batch_size, batch_size, c.batch_share).sum()), 1)
        tasks: list[Task] = []
        for draws in pieces:
            tasks.append((MAIN, partial(objective.main_loss, denoiser, draws), batch_size, draws.below))
            if weight > 0 and draws.consistency is not None:
                losses = partial(objective.consistency_term, self.config, denoiser, draws.consistency)
                tasks.append((CONSISTENCY, losses, sharing, None))
        return tasks
