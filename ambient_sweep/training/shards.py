"""Tensors of which each worker may hold a shard (DTensors, with compute.parallel=fsdp), and whole ones."""

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from ambient_sweep.training.group import Group


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's part of a tensor; shares its memory."""
    part: torch.Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, gathered from the workers' shards; every worker calls it."""
    full: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def gathered(tensors: Mapping[str, torch.Tensor], group: Group) -> dict[str, torch.Tensor]:
    """`tensors` whole and on the CPU on rank 0, one after another; every worker calls it, and the others get nothing."""
    result = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if group.rank == 0:
            result[name] = full.detach().cpu()
    return result


@torch.no_grad()
def copy_into(mine: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Copies a whole tensor, or this worker's part of it, into `mine`, whose device and layout stay."""
    if isinstance(mine, DTensor) and not isinstance(value, DTensor):
        value = distribute_tensor(value.to(mine.device), mine.device_mesh, mine.placements, src_data_rank=None)
    local(mine).copy_(local(value))
    return mine
