"""Training of one network by several processes (torchrun): the steps of one process, each rank with a share of a batch.

Every rank draws the whole batch, its times and its pairs from the same streams, so stratification and optimal transport
see the global batch. The network then sees the rank's share, and DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.core.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """The number of processes of a training, and the rank of this one."""

    rank: int = 0
    number: int = 1
    signals: dist.ProcessGroup | None = None
    """A process group on the CPU, for messages that must not wait for the device."""

    @property
    def first(self) -> bool:
        """Whether this process writes: checkpoints, metrics, records."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network, wrapped so that its gradients are averaged over the ranks."""
        return network if self.number == 1 else DistributedDataParallel(network)

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which a wrapped network's gradients are not averaged yet."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def any(self, mine: bool) -> bool:
        """Whether `mine` is True on any rank; all ranks get the same answer."""
        if self.number == 1:
            return mine
        said = torch.tensor(int(mine))
        dist.all_reduce(said, dist.ReduceOp.MAX, self.signals)
        return bool(said)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks."""
        if self.number == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Wait until every rank has reached this call."""
        if self.number > 1:
            dist.barrier(self.signals)


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started, or `ALONE`; each takes the GPU of its local rank if there are GPUs.

    Raises `UserError` if another rank cannot be reached any more.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        signals: Any = dist.new_group(backend="gloo")  # a group, since this rank is in it
        yield Ranks(dist.get_rank(), dist.get_world_size(), signals)
    except RuntimeError as error:  # gloo has no exception class
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(
                "another rank of this training was lost. The last checkpoint stands; the same command continues."
            ) from error
        raise
    finally:
        dist.destroy_process_group()
