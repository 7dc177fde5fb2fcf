"""How a network is computed: layout, checkpointing, compilation, bf16, and several workers.

`prepare_network` changes the network itself, once, when the state is created; `WrappedDenoiser` wraps it for training, while
the state keeps the bare network and its names. docs/training.md says how far each knob changes the numbers.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ambient_sweep.config import ComputeConfig
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.errors import UserError
from ambient_sweep.models import checkpoint_activations
from ambient_sweep.training.group import SINGLE, Group

BACKEND = "inductor"  # of torch.compile
VARIANTS = 16  # of a function that torch.compile may keep: batch sizes, with and without gradient


def prepare_network(denoiser: Denoiser, config: ComputeConfig) -> None:
    """Sets the network's memory layout and checkpointing, in place. Raises UserError for unsupported bf16."""
    network = denoiser.network
    if config.precision == "bf16" and next(network.parameters()).is_cuda and not torch.cuda.is_bf16_supported(False):
        raise UserError(f"compute.precision: {torch.cuda.get_device_name()} does not support bf16; use float32")
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    if config.activation_checkpointing:
        checkpoint_activations(network)


def _compiled(function: Callable[..., Any]) -> Any:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    return torch.compile(function, backend=BACKEND)


def check_compiler(device: str | torch.device = "cpu") -> None:
    """Compiles a small function. Raises UserError where torch.compile does not work on this machine."""
    try:
        _compiled(torch.sin)(torch.ones(8, device=device))
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
        # outside of DDP torch.compile cuts the graph at its buckets, so that reductions overlap; checkpoints it cannot cut
        inside = config.compile and config.activation_checkpointing
        if inside:
            network = _compiled(network)
        if group.size > 1:  # sends rank 0's weights to the others, once, now
            self._ddp = DistributedDataParallel(
                network,
                gradient_as_bucket_view=True,
                forward_sync_buffers=False,  # buffers are constants here
            )
            network = self._ddp
        if config.compile and not inside:
            network = _compiled(network)
        if config.precision == "bf16":
            network = _Autocast(network)
        self.denoiser = Denoiser(network, denoiser.scaling)

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """A context for a forward and backward pass: DDP sums the workers' gradients in the last pass of a step only."""
        return contextlib.nullcontext() if self._ddp is None or last else self._ddp.no_sync()


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 or bfloat16 in place of float32, whatever training has set, and no algorithm chosen by timing."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Autocast(nn.Module):
    """The network with its matrix products and convolutions in bf16; takes and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            output: torch.Tensor = self.network(x, *others)
        return output.float()
