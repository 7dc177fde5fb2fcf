"""How a network is computed: layout, checkpointing, sharding, compilation, bf16, and several workers.

`prepare_network` changes the network itself, once, when the state is created; `WrappedDenoiser` wraps it for training, while
the state keeps the bare network and its names. docs/training.md says how far each knob changes the numbers.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ambient_sweep.config import ComputeConfig
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.errors import UserError
from ambient_sweep.models import Network, Shape, checkpoint_activations
from ambient_sweep.training.group import SINGLE, Group

BACKEND = "inductor"  # of torch.compile
# of DDP: buffers are constants here, and need not be sent around before every forward pass; the name is torch 2.13's
NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
VARIANTS = 16  # of one function that torch.compile may keep per block: batch sizes, with and without gradient


def is_sharded(config: ComputeConfig, group: Group) -> bool:
    """Whether each worker holds a part of every weight."""
    return group.size > 1 and config.parallel == "fsdp"


def prepare_network(denoiser: Denoiser, config: ComputeConfig, group: Group = SINGLE) -> None:
    """Sets the network's memory layout, checkpointing and sharding, in place. Raises UserError for unsupported bf16."""
    network = denoiser.network
    if not isinstance(network, Network):
        raise TypeError(f"{type(network).__name__} is not a Network")
    device = next(network.parameters()).device
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise UserError(f"compute.precision: {torch.cuda.get_device_name()} does not support bf16; use float32")
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    if config.activation_checkpointing:
        checkpoint_activations(network)
    if is_sharded(config, group):
        _shard(network, config.compile, device.type, group)


def _shard(network: Network, compiles: bool, device: str, group: Group) -> None:
    """FSDP2: each worker keeps its part of every block's weights, and gathers a block to compute it."""
    mesh, blocks = init_device_mesh(device, (group.size,)), network.blocks_to_wrap()
    for block in blocks:
        if compiles:  # block by block: the gathering of weights between them cannot be compiled
            block.forward = _compiled(block.forward, len(blocks))
        fully_shard(block, mesh=mesh)
    # free the rest too after each forward pass: one without gradient would keep it while the weights change
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def _compiled(function: Callable[..., Any], blocks: int = 1) -> Any:
    # blocks of one class share their code, and torch.compile gives up where it has kept too many variants of it
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS * blocks)
    with _compile_errors():
        return torch.compile(function, backend=BACKEND)


@contextlib.contextmanager
def _compile_errors() -> Iterator[None]:
    """Turns an error of torch.compile, now or in a first pass, into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the base of all errors of torch.compile
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"compute.compile: torch.compile failed ({reason}); use compute.compile=false") from None


class WrappedDenoiser:
    """The denoiser as training computes it: the state's own weights, in the configured precision and on all workers."""

    def __init__(self, denoiser: Denoiser, config: ComputeConfig, group: Group = SINGLE) -> None:
        network: nn.Module = denoiser.network
        self._ddp: DistributedDataParallel | None = None
        trains = any(p.requires_grad for p in network.parameters())
        reduces = trains and group.size > 1 and not is_sharded(config, group)
        compiles = config.compile and not is_sharded(config, group)
        # outside of DDP torch.compile cuts the graph at its buckets, so that reductions overlap; checkpoints it cannot cut
        inside = compiles and config.activation_checkpointing
        if inside:
            network = _compiled(network)
        if reduces:  # sends rank 0's weights to the others, once, now
            network = self._ddp = DistributedDataParallel(network, gradient_as_bucket_view=True, **NO_BUFFERS)
        if compiles and not inside:
            network = _compiled(network)
        if config.precision == "bf16":
            network = _Autocast(network)
        self.denoiser = Denoiser(network, denoiser.sigma_data)

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """A context for a forward and backward pass: DDP sums the workers' gradients in the last pass of a step only.

        FSDP does so in every pass: whole gradients would not fit where the weights must be sharded.
        """
        return contextlib.nullcontext() if self._ddp is None or last else self._ddp.no_sync()


class _Autocast(nn.Module):
    """The network with its matrix products and convolutions in bf16; takes and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            output: torch.Tensor = self.network(x, *others)
        return output.float()


def try_compiled(wrapped: WrappedDenoiser, shape: Shape, size: int, device: str | torch.device, labels: bool) -> None:
    """One forward and backward pass of `size` images through a compiled network; leaves no gradient.

    Raises UserError if torch.compile fails.
    """
    x, sigma = torch.zeros(size, *shape, device=device), torch.ones(size, device=device)
    inputs = (x, sigma, torch.zeros(size, dtype=torch.int64, device=device)) if labels else (x, sigma)
    with _compile_errors():
        with torch.no_grad():
            wrapped.denoiser(*inputs)
        wrapped.denoiser(*inputs).sum().backward()
    wrapped.denoiser.zero_grad()
