"""Networks of equal shape as one: a layer with weights computes all members of a pack in one batched product.

Rows lie member by member: x [P N, ...] holds N rows of each of P members. What lies between layers with weights treats each
row alone and stays as it is. Weights are views of one memory per pack, and so are their gradients, which are added to in
place: torch.vmap makes and copies them, which on a CPU costs all that batching gains.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ambient_sweep.errors import UserError

Tensors = Mapping[str, torch.Tensor]  # stacked, [P, *shape], by the name of the parameter


class Rows:
    """The members begin .. end - 1 that a pass is of; all layers of a packed network look here."""

    def __init__(self, members: int) -> None:
        self.begin, self.end = 0, members

    def __len__(self) -> int:
        return self.end - self.begin

    def of(self, stacked: torch.Tensor) -> torch.Tensor:
        """Their part of a stacked tensor; shares its memory."""
        return stacked[self.begin : self.end]


class _Packed(nn.Module):
    """A layer of all members: weight [P, ...] and bias [P, out]. With `grads` their gradients are added there."""

    def __init__(self, rows: Rows, weights: Tensors, grads: Tensors | None) -> None:
        super().__init__()
        self.rows = rows
        for name, value in weights.items():
            parameter = nn.Parameter(value, requires_grad=grads is not None)
            parameter.grad = None if grads is None else grads[name]
            self.register_parameter(name, parameter)

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The stacked weight and bias."""
        return self.get_parameter("weight"), self.get_parameter("bias")


def _into(weight: torch.Tensor, rows: Rows) -> torch.Tensor | None:
    """Where the gradient of a stacked weight is added."""
    return None if weight.grad is None else rows.of(weight.grad)


class _Stacked(torch.autograd.Function):
    """A stacked weight, for layers whose passes autograd knows."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, rows: Rows) -> torch.Tensor:
        ctx.into = _into(weight, rows)
        return rows.of(weight.detach()).clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None]:
        ctx.into.add_(grad)
        return None, None


class _LinearProduct(torch.autograd.Function):
    """x [R, in] by the weights of each member; a batched product forward, two backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rows: Rows) -> torch.Tensor:
        w, stacked = rows.of(weight.detach()), x.reshape(len(rows), -1, x.shape[-1])
        ctx.save_for_backward(stacked, w)
        ctx.into = _into(weight, rows), _into(bias, rows)
        return torch.baddbmm(rows.of(bias.detach())[:, None], stacked, w.transpose(1, 2)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        stacked, w = ctx.saved_tensors
        g = grad.reshape(*stacked.shape[:2], -1)
        into_weight, into_bias = ctx.into
        into_weight.baddbmm_(g.transpose(1, 2), stacked)
        into_bias.add_(g.sum(1))
        return torch.bmm(g, w).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None, None, None, None


class _Linear(_Packed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _LinearProduct.apply(x, *self.both(), self.rows)
        return output


class _Convolution(torch.autograd.Function):
    """x [R,C,H,W] by the filters of each member, one after another: grouped, they are mostly slower on a CPU."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rows: Rows, how: tuple[list[int], ...]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, rows.of(weight.detach()))
        ctx.into, ctx.how = (_into(weight, rows), _into(bias, rows)), how
        stride, padding, dilation = how
        parts = zip(x.chunk(len(rows)), rows.of(weight.detach()), rows.of(bias.detach()), strict=True)
        return torch.cat([F.conv2d(part, w, b, stride, padding, dilation) for part, w, b in parts])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        back, needed = [], ctx.needs_input_grad[0]
        parts = zip(grad.chunk(len(weight)), x.chunk(len(weight)), weight, *ctx.into, strict=True)
        for g, part, w, into_weight, into_bias in parts:
            of_part, of_weight, of_bias = torch.ops.aten.convolution_backward(
                g, part, w, [len(into_bias)], stride, padding, dilation, False, [0, 0], 1, [needed, True, True]
            )
            into_weight.add_(of_weight)
            into_bias.add_(of_bias)
            back.append(of_part)
        return torch.cat(back) if needed else None, None, None, None, None


class _Conv2d(_Packed):
    def __init__(self, rows: Rows, weights: Tensors, grads: Tensors | None, like: nn.Conv2d) -> None:
        super().__init__(rows, weights, grads)
        if like.groups != 1 or like.padding_mode != "zeros" or isinstance(like.padding, str):
            raise UserError(f"model.kind: {like} cannot be packed; train such models one by one")
        self.how = list(like.stride), list(like.padding), list(like.dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _Convolution.apply(x, *self.both(), self.rows, self.how)
        return output


class _GroupNorm(_Packed):
    def __init__(self, rows: Rows, weights: Tensors, grads: Tensors | None, like: nn.GroupNorm) -> None:
        super().__init__(rows, weights, grads)
        self.groups, self.eps = like.num_groups, like.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.group_norm(x, self.groups, eps=self.eps).view(len(self.rows), -1, *x.shape[1:])
        scale, shift = (_Stacked.apply(each, self.rows)[:, None, :, None, None] for each in self.both())
        output: torch.Tensor = normed * scale + shift
        return output.flatten(0, 1)


class _Embedding(_Packed):
    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        stacked = _Stacked.apply(self.get_parameter("weight"), self.rows)
        member = torch.arange(len(stacked), device=labels.device).repeat_interleave(len(labels) // len(stacked))
        output: torch.Tensor = stacked[member, labels]
        return output


_KINDS: dict[type[nn.Module], Callable[[Rows, Tensors, Tensors | None, Any], nn.Module]] = {
    nn.Linear: lambda rows, weights, grads, like: _Linear(rows, weights, grads),
    nn.Conv2d: _Conv2d,
    nn.GroupNorm: _GroupNorm,
    nn.Embedding: lambda rows, weights, grads, like: _Embedding(rows, weights, grads),
}


def replace_layers(denoiser: nn.Module, rows: Rows, weights: Tensors, grads: Tensors | None) -> None:
    """Puts layers of `weights` in the place of all that have any: from then on it takes [P N, ...] to [P N, ...].

    Without `grads` it is for passes without gradient alone. Raises UserError for a layer that packs do not know.
    """
    for name, module in list(denoiser.named_modules()):
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        make = _KINDS.get(type(module))
        if make is None or (isinstance(module, nn.Linear | nn.Conv2d) and module.bias is None):
            raise UserError(f"model.kind: its layer {name} ({module}) cannot be packed; train such models one by one")
        mine = {key: weights[f"{name}.{key}"] for key in own}
        into = None if grads is None else {key: grads[f"{name}.{key}"] for key in own}
        parent, _, last = name.rpartition(".")
        setattr(denoiser.get_submodule(parent), last, make(rows, mine, into, module))
