"""One optimizer step: losses of a worker's share in parts, gradients over the workers, clipping, AdamW, averages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ambient_sweep.training import distillation, objective
from ambient_sweep.training.compute import WrappedDenoiser, check_compiler
from ambient_sweep.training.distillation import DistillationDraws
from ambient_sweep.training.loader import Pieces
from ambient_sweep.training.objective import Draws, takes_part
from ambient_sweep.training.schedules import learning_rate
from ambient_sweep.training.state import SUMS, TrainState

# places in TrainState.sums; BELOW: the part of MAIN that images trained below their observed level make, SHARE: their share
MAIN, CONSISTENCY, NORM, BELOW, SHARE, GENERATOR = range(SUMS)


@dataclass(frozen=True)
class Task:
    """Losses, the count in the whole batch that their mean is over, and the weight of that mean.

    Each gets its own backward pass: a graph is freed before the next is built.
    """

    place: int
    losses: Callable[[], torch.Tensor]
    count: int
    weight: float = 1.0
    below: torch.Tensor | None = None


class Stepper:
    """Trains a state step by step. Losses are sums over the count of the *whole* batch, so that neither the number of
    workers nor that of parts changes what is trained. Nothing here waits for the device.
    """

    begun = 0  # images after which the averaged weights began

    def __init__(self, state: TrainState) -> None:
        self.state, self.config, self.group = state, state.config, state.group
        self.parameters = list(state.denoiser.parameters())
        state.denoiser.train()
        if self.config.compute.compile:
            check_compiler(state.device)
        self.wrapped = WrappedDenoiser(state.denoiser, self.config.compute, state.group)

    def step(self, step: int, pieces: Pieces, weight: float) -> float:
        """Trains step number `step`, from 0, on this worker's `pieces`; returns the learning rate.

        Adds the step's mean losses and gradient norm to state.sums (a worker's part of them).
        """
        lr = learning_rate(self.config.optimizer, (step + 1) / self.config.steps)
        norm = self._descend(self.wrapped, self.parameters, self.state.optimizer, lr, self._tasks(step, pieces, weight))
        self._reached(step, norm)
        return lr

    def _descend(
        self,
        wrapped: WrappedDenoiser,
        parameters: list[torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        lr: float,
        tasks: Sequence[Task],
    ) -> torch.Tensor:
        """Moves the parameters of `wrapped` by the losses of `tasks`; returns the norm of the gradient."""
        state = self.state
        optimizer.zero_grad()
        for number, task in enumerate(tasks):
            with wrapped.reducing(last=number == len(tasks) - 1):
                values = task.losses()
                total = values.sum()
                (total * (task.weight * self.group.size / task.count)).backward()  # type: ignore[no-untyped-call]
            state.sums[task.place] += total.detach() / task.count
            if task.below is not None:
                state.sums[BELOW] += (values.detach() * task.below).sum() / task.count
                state.sums[SHARE] += task.below.sum() / task.count
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        for each in optimizer.param_groups:
            each["lr"] = lr
        optimizer.step()
        return norm

    def _reached(self, step: int, norm: torch.Tensor) -> None:
        """Moves the averages and the position to the end of a step."""
        state, batch_size = self.state, self.config.training.batch_size
        if self.group.rank == 0:
            state.sums[NORM] += norm
        state.images = (step + 1) * batch_size
        state.averages.update(self.parameters, step * batch_size - self.begun, state.images - self.begun)

    def _tasks(self, step: int, pieces: Pieces, weight: float) -> list[Task]:
        batch_size, c, denoiser = self.config.training.batch_size, self.config.consistency, self.wrapped.denoiser
        sharing = max(int(takes_part(step * batch_size, batch_size, c.batch_share).sum()), 1)
        tasks: list[Task] = []
        for draws in pieces:
            assert isinstance(draws, Draws)
            tasks.append(Task(MAIN, partial(objective.main_loss, denoiser, draws), batch_size, below=draws.below))
            if weight > 0 and draws.consistency is not None:
                losses = partial(objective.consistency_term, self.config, denoiser, draws.consistency)
                tasks.append(Task(CONSISTENCY, losses, sharing, weight))
        return tasks


class DistillationStepper(Stepper):
    """Trains a generator, and before it, in each step, its fake denoiser distillation.ratio times."""

    def __init__(self, state: TrainState) -> None:
        self.distillation = d = state.distill()
        super().__init__(state)
        self.begun = self.config.images_at(self.config.distillation.start)
        d.fake.train()
        self.fake = WrappedDenoiser(d.fake, self.config.compute, state.group)
        alone = (WrappedDenoiser(each, self.config.compute) for each in (state.denoiser, d.teacher, d.fake))
        self.alone = [each.denoiser for each in alone]  # without gradients to reduce over the workers

    def step(self, step: int, pieces: Pieces, weight: float) -> float:
        """As for a Stepper, with the fake denoiser's loss as the main one, and the generator's norm."""
        config, d, batch_size = self.config, self.distillation, self.config.training.batch_size
        lr, ratio = config.distillation.lr, config.distillation.ratio
        drawn = [piece for piece in pieces if isinstance(piece, DistillationDraws)]
        generator, teacher, fake = self.alone
        of_fake = partial(distillation.fake_loss, config, generator, self.fake.denoiser)
        for number in range(ratio):
            tasks = [Task(MAIN, partial(of_fake, each.fake[number]), ratio * batch_size, ratio) for each in drawn]
            self._descend(self.fake, list(d.fake.parameters()), d.optimizer, lr, tasks)
        d.fake.requires_grad_(False)
        of_generator = partial(distillation.generator_loss, config, self.wrapped.denoiser, teacher, fake)
        tasks = [Task(GENERATOR, partial(of_generator, each.generator), batch_size) for each in drawn]
        norm = self._descend(self.wrapped, self.parameters, self.state.optimizer, lr, tasks)
        d.fake.requires_grad_(True)
        self._reached(step, norm)
        return lr
