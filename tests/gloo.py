"""A process group over gloo (or nccl), for tests that start workers of their own."""

import contextlib
import weakref

import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401 (see `gloo_group`)

from ambient_sweep.training.group import Group


@contextlib.contextmanager
def gloo_group(folder, rank, size=2, backend="gloo"):
    """A group of `size` workers that meet in `folder`; yields this process's place in it. Ends gloo's threads.

    A thread of gloo that is still alive when the interpreter ends may then release the tensors of the last collective.
    Python ends a thread that does so, and C++ aborts the process: "terminate called without an active exception".
    `destroy_process_group` joins the threads only if nothing else refers to the group. torch.distributed.nn.functional,
    which torch._dynamo imports, has the group of the time of its import as default arguments: it is imported beforehand.
    """
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    group = weakref.ref(dist.group.WORLD)
    try:
        yield Group.distributed()
    finally:
        dist.destroy_process_group()
    assert backend != "gloo" or group() is None, "a reference to the group is left, and with it gloo's threads"
