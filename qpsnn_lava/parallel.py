"""Training in several processes (``torchrun``): who am I, and sums over all of us.

Every process holds the whole model and an equal share of each batch (``indices[rank::size]``), so that a step computes what one
process computes on the whole batch, up to the order of the sums.  Without ``torchrun`` all of this is one process and no communication.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from netx_export.errors import ConfigError, MismatchError


def rank() -> int:
    """Number of this process, from 0; process 0 writes the files and speaks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def joined() -> Iterator[torch.device]:
    """Joins the processes that ``torchrun`` started (over gloo, on CUDA over nccl) and leaves them at the end.

    Yields:
        the device of this process: ``cuda:LOCAL_RANK`` where CUDA is at hand, else the CPU.

    Raises:
        ConfigError: where the variables of ``torchrun`` are incomplete or the group cannot be made.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if cuda else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes did not find each other ({error}); "
            "start them with torchrun --nproc_per_node=N -m qpsnn_lava train ..."
        ) from error
    try:
        yield device
    finally:
        dist.destroy_process_group()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of ``values`` over all processes, with its gradient; of one process: ``values``."""
    if size() == 1:
        return values
    result: torch.Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
    return result


class _Total(torch.autograd.Function):
    """y = sum of all x; every process's loss is a part of the whole, so its gradient is the sum of all gradients of y."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        whole = values.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        whole = gradients[0].clone()
        dist.all_reduce(whole)
        return whole


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    if size() == 1:
        return number
    value = torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def require_equal(model: torch.nn.Module) -> None:
    """Holds the weights of all processes against each other, bit for bit.

    Raises:
        MismatchError: where they differ (a process computed something else: another version, a fault of the machine).
    """
    if size() == 1:
        return
    for name, value in model.state_dict().items():
        theirs = value.detach().clone()
        dist.broadcast(theirs, 0)
        if largest(int(not torch.equal(theirs, value))):
            raise MismatchError(f"{name} differs between the processes; use the same versions and machines for all of them.")


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        dist.barrier()
