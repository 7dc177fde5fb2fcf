"""The workers that train one model together; a single process is a group of one."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process's place among `size` workers."""

    rank: int = 0
    size: int = 1

    @classmethod
    def distributed(cls) -> "Group":
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, count: int) -> range:
        """This worker's contiguous part of range(count); the parts differ by at most one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a small tensor over the workers, in its place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """The largest of each value of a small tensor over the workers, in its place."""
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The workers' parts, of any lengths along the first axis, joined in order, on every worker's CPU."""
        parts = [rows.cpu()] * self.size
        if self.size > 1:
            dist.all_gather_object(parts, parts[self.rank])
        return torch.cat(parts)

    def broadcast(self, value: T) -> T:
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


SINGLE = Group()
