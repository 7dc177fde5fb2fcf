"""One step of all members of a pack: their draws side by side, their losses as the sums of one pass each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ambient_sweep.config import Config
from ambient_sweep.diffusion.denoiser import Denoiser, given
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.models import build_model
from ambient_sweep.training import objective
from ambient_sweep.training.loader import weight_at
from ambient_sweep.training.objective import ConsistencyDraws, Draws, branch_of, takes_part
from ambient_sweep.training.packed_layers import Rows, Tensors, replace_layers
from ambient_sweep.training.packed_memory import PackedStates
from ambient_sweep.training.step import CONSISTENCY, MAIN, NORM
from ambient_sweep.training.stream import Stream

Structure = tuple[object, ...]


@dataclass(frozen=True)
class Chains:
    """The consistency loss of members begin .. end - 1, `count` rows each; rows that fill one up count nothing."""

    begin: int
    end: int
    config: Config  # any of theirs: they agree on the structure
    draws: ConsistencyDraws
    weight: torch.Tensor  # of each member's consistency loss, [end - begin]
    sharing: torch.Tensor  # images of its whole batch that take part, [end - begin]

    def to(self, device: torch.device) -> "Chains":
        draws, weight, sharing = self.draws.to(str(device)), self.weight.to(device), self.sharing.to(device)
        return Chains(self.begin, self.end, self.config, draws, weight, sharing)


@dataclass(frozen=True)
class Feed:
    """What one step of a pack is a function of, besides weights: rows member by member."""

    draws: Draws
    chains: list[Chains]

    def to(self, device: torch.device) -> "Feed":
        return Feed(self.draws.to(str(device)), [chains.to(device) for chains in self.chains])


def structure(config: Config) -> Structure:
    """What the consistency losses of two members must agree on to be computed in one pass."""
    c = config.consistency
    return branch_of(c), c.chain_steps, c.draws, c.gradient, c.target


def feed(configs: Sequence[Config], streams: Sequence[Stream], steps: Sequence[int]) -> Feed:
    """The draws of the members, each in its own step, counted from 0."""
    weights = [weight_at(config, step) for config, step in zip(configs, steps, strict=True)]
    draws = [
        objective.draw(config, stream.batch(step * config.training.batch_size, config.training.batch_size), weight > 0)
        for config, stream, step, weight in zip(configs, streams, steps, weights, strict=True)
    ]
    groups: dict[Structure, list[int]] = {}
    for member, config in enumerate(configs):
        if weights[member] > 0 and draws[member].consistency is not None:
            groups.setdefault(structure(config), []).append(member)
    chains = []
    for members in groups.values():
        begin, end = members[0], members[-1] + 1
        inside = [draws[m].consistency if m in members else None for m in range(begin, end)]
        shares = [configs[m].consistency.batch_share for m in range(begin, end)]
        sharing = [
            max(int(takes_part(steps[m] * configs[m].training.batch_size, len(draws[m]), share).sum()), 1)
            for m, share in zip(range(begin, end), shares, strict=True)
        ]
        weight = [weights[m] if m in members else 0.0 for m in range(begin, end)]
        config = configs[begin]
        chains.append(Chains(begin, end, config, _joined(config, inside), torch.tensor(weight), torch.tensor(sharing)))
    return Feed(_side_by_side(draws), chains)


def _side_by_side(draws: Sequence[Draws]) -> Draws:
    def joined(of: Callable[[Draws], torch.Tensor]) -> torch.Tensor:
        return torch.cat([of(each) for each in draws])

    labels = [each.labels for each in draws if each.labels is not None]
    return Draws(
        y=joined(lambda d: d.y),
        known=joined(lambda d: d.known),
        sigma=joined(lambda d: d.sigma),
        noise=joined(lambda d: d.noise),
        weight=joined(lambda d: d.weight),
        labels=torch.cat(labels) if labels else None,
        consistency=None,
    )


def _joined(config: Config, members: Sequence[ConsistencyDraws | None]) -> ConsistencyDraws:
    """Chains of all, as many rows for each as the longest has; what is missing are rows of weight 0."""
    some = [each for each in members if each is not None]
    longest, like = max(len(each.x) for each in some), some[0]
    levels = torch.linspace(1.0, 0.5, config.consistency.chain_steps + 1)  # any that descend: the loss stays finite

    def filled(of: Callable[[ConsistencyDraws], torch.Tensor], filling: torch.Tensor) -> torch.Tensor:
        parts = []
        for each in members:
            own = [] if each is None else [of(each)]
            missing = longest - sum(map(len, own))
            parts += [*own, filling.expand(missing, *filling.shape)]
        return torch.cat(parts)

    labels = None
    if like.labels is not None:
        labels = filled(lambda c: _given(c.labels), like.labels.new_zeros(()))
    return ConsistencyDraws(
        x=filled(lambda c: c.x, torch.zeros_like(like.x[0])),
        levels=filled(lambda c: c.levels, levels),
        noise=filled(lambda c: c.noise, torch.zeros_like(like.noise[0])),
        weight=filled(lambda c: c.weight, like.weight.new_zeros(())),
        labels=labels,
    )


def _given(labels: torch.Tensor | None) -> torch.Tensor:
    if labels is None:
        raise ValueError("some members of a pack have labels and others none")
    return labels


class PackedStepper:
    """Makes gradients of all members, and from them the step of each; nothing here waits for a GPU."""

    def __init__(self, memory: PackedStates, configs: Sequence[Config]) -> None:
        self.memory, self.configs = memory, configs
        self.rows = Rows(len(configs))
        self.student = self._denoiser(memory.parts(memory.weights), memory.parts(memory.grads))
        followed = any(config.consistency.target == "ema" for config in configs)
        # the averages themselves, which change after a step's gradients alone: nothing to copy, as in step._Teacher
        self.teacher = self._denoiser(memory.parts(memory.averages[0]), None) if followed else None
        device = memory.sums.device
        self.largest = torch.tensor([config.optimizer.clip_norm for config in configs], device=device)

    def _denoiser(self, weights: Tensors, grads: Tensors | None) -> Denoiser:
        state, config = self.memory.states[0], self.configs[0]
        own = build_model(config.model, state.shape, config.seed, state.classes).to(state.device)
        replace_layers(own, self.rows, weights, grads)
        return own

    def step(self, feed: Feed, rates: Sequence[float], before: Sequence[int], after: Sequence[int]) -> None:
        """Trains on `feed` with each member's learning rate, from and to its image counts; adds to the sums of each."""
        memory, sums = self.memory, self.memory.sums
        memory.grads.zero_()
        sums[:, MAIN] += self._main(feed.draws)
        for chains in feed.chains:
            sums[chains.begin : chains.end, CONSISTENCY] += self._consistency(chains)
        sums[:, NORM] += memory.clip(self.largest)
        memory.descend(rates)
        for state, images in zip(memory.states, after, strict=True):
            state.images = images
        memory.average(before, after)

    def _main(self, draws: Draws) -> torch.Tensor:
        """Makes the gradients of the main losses, and gives their means."""
        self.rows.begin, self.rows.end = 0, len(self.configs)
        each = objective.main_loss(given(self.student, draws.labels), draws).view(len(self.rows), -1)
        means = each.sum(1) / each.shape[1]
        means.sum().backward()  # type: ignore[no-untyped-call]
        return means.detach()

    def _consistency(self, chains: Chains) -> torch.Tensor:
        """Makes the gradients of the consistency losses, times their weights, and gives their means."""
        self.rows.begin, self.rows.end = chains.begin, chains.end
        draws, members = chains.draws, len(self.rows)
        ema = chains.config.consistency.target == "ema"
        teacher = self._in_order(self.teacher, draws) if ema and self.teacher is not None else None
        losses = objective.consistency_term(chains.config, self._in_order(self.student, draws), draws, teacher)
        means = losses.view(members, -1).sum(1) / chains.sharing
        (means * chains.weight).sum().backward()  # type: ignore[no-untyped-call]
        return means.detach()

    def _in_order(self, denoiser: Denoiser, draws: ConsistencyDraws) -> DenoiserFn:
        """The denoiser of rows that may be several copies of the draws' rows, one after another."""
        members = len(self.rows)

        def by_member(x: torch.Tensor, copies: int) -> torch.Tensor:
            return x.reshape(copies, members, -1, *x.shape[1:]).transpose(0, 1).flatten(0, 2)

        def computed(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            copies = len(x) // len(draws.x)
            if copies == 1:
                return given(denoiser, draws.labels)(x, sigma)
            labels = [] if draws.labels is None else [by_member(draws.labels.repeat(copies), copies)]
            out = denoiser(by_member(x, copies), by_member(sigma, copies), *labels)
            back: torch.Tensor = out.reshape(members, copies, -1, *out.shape[1:]).transpose(0, 1)
            return back.flatten(0, 2)

        return computed
