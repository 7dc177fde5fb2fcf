"""The training loop: a generator of records. The caller owns logging, checkpoints and evaluation."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ambient_sweep.config import Config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.diffusion.ema import ema_decay, ema_update
from ambient_sweep.errors import TrainingDiverged
from ambient_sweep.training.group import SINGLE, Group
from ambient_sweep.training.objective import consistency_term, draw, main_loss, takes_part
from ambient_sweep.training.schedules import consistency_weight, learning_rate
from ambient_sweep.training.state import TrainState
from ambient_sweep.training.stream import Stream


@dataclass(frozen=True)
class Record:
    """Means since the record before, over all workers."""

    images: int
    loss: float
    consistency: float  # an unbiased estimate that may be negative; 0 while it is not trained
    consistency_weight: float
    gradient_norm: float
    lr: float
    images_per_second: float


def train(
    config: Config,
    observed: ObservedImages,
    state: TrainState,
    *,
    stops: frozenset[int] = frozenset(),
    group: Group = SINGLE,
    device: str = "cpu",
) -> Iterator[Record]:
    """Trains from `state.images` to config.training.stop, in place, and yields a record now and then.

    A record falls on every image count in `stops` (multiples of the batch size) and config.training.records times over
    the run. What is trained depends on the config and the position alone: neither on the number of workers nor on how
    often the run was interrupted. Raises TrainingDiverged when a loss is not finite.
    """
    batch_size, steps = config.training.batch_size, config.steps
    last = config.images_at(config.training.stop) // batch_size
    record_every = max(1, steps // config.training.records)
    stream = Stream(observed, config.seed, config.data.flip)
    part = group.share(batch_size)
    parameters = list(state.denoiser.parameters())
    average, live = list(state.average.parameters()), [p.detach() for p in parameters]
    sums = torch.zeros(4, dtype=torch.float64)  # main loss, consistency loss, gradient norm, steps
    began, counted = time.perf_counter(), 0
    state.denoiser.train()
    for step in range(state.images // batch_size, last):
        batch = stream.batch(step * batch_size + part.start, len(part))
        weight = consistency_weight(config.consistency, step / steps)
        if config.objective.kind != "ambient_consistency":
            weight = 0.0
        draws = draw(config, batch, consistency=weight > 0).to(device)
        main = main_loss(state.denoiser, draws)
        loss = main.sum() / batch_size
        consistency = torch.zeros(())
        if draws.consistency is not None:
            share = takes_part(step * batch_size, batch_size, config.consistency.batch_share).sum()
            teacher = state.average if config.consistency.target == "ema" else None
            consistency = consistency_term(config, state.denoiser, draws.consistency, teacher).sum() / max(
                int(share), 1
            )
            loss = loss + weight * consistency
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        group.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
        lr = learning_rate(config.optimizer, (step + 1) / steps)
        state.optimizer.param_groups[0]["lr"] = lr
        state.optimizer.step()
        state.images = (step + 1) * batch_size
        decay = ema_decay(state.images, batch_size, config.ema.halflife, config.ema.rampup)
        ema_update(average, live, decay)
        sums += torch.stack([main.detach().sum().cpu() / batch_size, consistency.detach().cpu(),
                             norm.cpu() / group.size, torch.tensor(1 / group.size)])  # fmt: skip
        counted += batch_size
        if state.images in stops or (step + 1) % record_every == 0 or step + 1 == last:
            total = group.sum(sums)
            mean = (total / total[3]).tolist()
            if not torch.isfinite(total).all():
                raise TrainingDiverged(
                    f"the loss is not finite at {state.images} images; lower optimizer.lr or consistency.weight"
                )
            seconds = max(time.perf_counter() - began, 1e-9)
            yield Record(state.images, mean[0], mean[1], weight, mean[2], lr, counted / seconds)
            sums.zero_()
            began, counted = time.perf_counter(), 0
