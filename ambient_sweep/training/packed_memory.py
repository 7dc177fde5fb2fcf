"""The states of a pack in one memory: weights, gradients, moments and averages stacked, [P, all weights of one model].

While they are packed, the tensors of each `TrainState` are views of it: such a state can be saved, evaluated and forked as
any other between two steps. `release` gives it memory of its own again.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.optim.adamw import adamw

from ambient_sweep.training.averages import Averages
from ambient_sweep.training.state import TrainState

LINE = 64  # floats
FLAT = ("all",)  # the name of the one tensor that all weights of a member are


class PackedStates:
    """`states`, which must have the same parameters, on one device, in one process."""

    def __init__(self, states: Sequence[TrainState]) -> None:
        self.states = list(states)
        first = dict(states[0].denoiser.named_parameters())
        self.shapes = {name: parameter.shape for name, parameter in first.items()}
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        # rows begin on whole cache lines: what a member's numbers round to does not depend on its row
        size, count, device = -(-sum(self._sizes) // LINE) * LINE, len(states), states[0].device
        # every average has a place; the one that a teacher takes (Averages.nearest) comes first
        names = [_nearest_first(state.averages) for state in states]
        # each its own memory: autograd refuses a backward pass through weights of which any view has been written to
        self.weights, self.grads = torch.zeros((count, size), device=device), torch.zeros((count, size), device=device)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.averages = [torch.zeros_like(self.weights) for _ in range(max(map(len, names)))]
        self.sums = torch.zeros((count, 3), dtype=torch.float64, device=device)
        self._steps = torch.zeros((count, len(self.shapes)), device=device)
        for row, (state, own) in enumerate(zip(states, names, strict=True)):
            self._adopt(row, state, own)
        self._clocks = [steps[0].clone() for steps in self._steps]  # the optimizer's own count of steps, per member
        self._flat = [
            Averages(state.averages.config, FLAT, {name: [self.averages[k][row]] for k, name in enumerate(own)})
            for row, (state, own) in enumerate(zip(states, names, strict=True))
        ]

    def parts(self, stacked: torch.Tensor) -> dict[str, torch.Tensor]:
        """[P, size] as the parameters it is made of, each [P, *shape]; shares its memory."""
        parts = torch.split(stacked[:, : sum(self._sizes)], self._sizes, dim=1)
        return {
            name: part.view(len(stacked), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    @torch.no_grad()
    def _adopt(self, row: int, state: TrainState, averages: Sequence[str]) -> None:
        weights = self._of(row, self.weights)
        moments = {"exp_avg": self._of(row, self.exp_avg), "exp_avg_sq": self._of(row, self.exp_avg_sq)}
        steps = self._steps[row]
        for number, (name, parameter) in enumerate(state.denoiser.named_parameters()):
            weights[name].copy_(parameter)
            parameter.data, parameter.grad = weights[name], None
            slots = state.optimizer.state[parameter]
            mine = {"step": steps[number]} | {key: values[name] for key, values in moments.items()}
            for key, place in mine.items():
                if key in slots:
                    place.copy_(slots[key])
                slots[key] = place
        for place, average in zip(self.averages, averages, strict=False):
            views = self._of(row, place)
            for name, tensor in zip(state.averages.names, state.averages.models[average], strict=True):
                views[name].copy_(tensor)
            state.averages.models[average] = [views[name] for name in state.averages.names]
        state.sums = self.sums[row].copy_(state.sums)

    def _of(self, row: int, stacked: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: part[0] for name, part in self.parts(stacked[row : row + 1]).items()}

    @staticmethod
    @torch.no_grad()
    def release(state: TrainState) -> None:
        """Gives a state that was packed memory of its own; the pack must make no step any more."""
        for parameter in state.denoiser.parameters():
            parameter.data, parameter.grad = parameter.data.clone(), None
            slots = state.optimizer.state[parameter]
            slots.update({key: value.clone() for key, value in slots.items()})
        for average, tensors in state.averages.models.items():
            state.averages.models[average] = [tensor.clone() for tensor in tensors]
        state.sums = state.sums.clone()

    # -- what a step does after its gradients are there -------------------------------------------------------------

    @torch.no_grad()
    def clip(self, largest: torch.Tensor) -> torch.Tensor:
        """Scales each member's gradient to a norm of at most `largest` [P], as clip_grad_norm_ does; gives the norms."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.grads, dim=1)
        scale = (largest / (norms + 1e-6)).clamp(max=1.0)
        if self.grads.is_cuda or bool((scale < 1).any()):  # a product with 1 changes nothing, but reads all gradients
            self.grads.mul_(scale[:, None])
        return norms

    @torch.no_grad()
    def descend(self, rates: Sequence[float]) -> None:
        """AdamW's step with each member's learning rate and own settings; members with the same make it together."""
        alike: dict[tuple[float, ...], list[int]] = {}
        for row, (state, lr) in enumerate(zip(self.states, rates, strict=True)):
            group = state.optimizer.param_groups[0]
            group["lr"] = lr
            alike.setdefault((lr, *group["betas"], group["weight_decay"], group["eps"]), []).append(row)
        for (lr, beta1, beta2, weight_decay, eps), rows in alike.items():
            weights, grads, exp_avg, exp_avg_sq = (
                [tensor[row] for row in rows] for tensor in (self.weights, self.grads, self.exp_avg, self.exp_avg_sq)
            )
            adamw(
                weights,
                grads,
                exp_avg,
                exp_avg_sq,
                max_exp_avg_sqs=[],
                state_steps=[self._clocks[row] for row in rows],
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=weight_decay,
                eps=eps,
                maximize=False,
            )
        self._steps += 1

    def average(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Takes the weights after each member's step between two image counts into its averages."""
        for row, averages in enumerate(self._flat):
            averages.update([self.weights[row]], before[row], after[row])


def _nearest_first(averages: Averages) -> list[str]:
    taken = next(iter(averages.nearest().values()))
    return sorted(averages.models, key=lambda name: averages.models[name][0] is not taken)


def same_parameters(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two models can be stacked."""
    return [(n, p.shape) for n, p in first.items()] == [(n, p.shape) for n, p in second.items()]
