# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes at one run: ``torchrun --nproc-per-node N -m hero_core.train STAGE ...``

Every process draws the same global batch from the same seed and computes its own share of it, weighted so
that the mean over the processes is the loss of the whole batch. So a run does not depend, but for rounding,
on how many processes share it. In a single process every function here does nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from hero_core.errors import HeroError


def start() -> None:
    """Join the other processes if torchrun started this one among several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _joined():
        return
    if not dist.is_available():
        raise HeroError("This PyTorch cannot train in several processes; start it without torchrun.")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # The others wait while the first validates.
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=2))


def finish() -> None:
    if _joined():
        dist.destroy_process_group()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process; 0 is the one that validates, writes and talks."""
    return dist.get_rank() if _joined() else 0


def size() -> int:
    return dist.get_world_size() if _joined() else 1


def say(text: str) -> None:
    """Print, once for all processes."""
    if rank() == 0:
        print(text, flush=True)


def alone(stage: str) -> None:
    """Raises HeroError where several processes would all do the same work."""
    if size() > 1:
        raise HeroError(f"The stage '{stage}' works in one process; start it with python instead of torchrun.")


def device(wanted: str) -> str:
    """The device of this process: "auto" and "cuda" become the GPU that is its own.

    Raises:
        HeroError: there is no such GPU, or fewer than processes.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if count else "cpu"
    if not wanted.startswith("cuda"):
        return wanted
    if not count:
        raise HeroError("The config asks for cuda and PyTorch sees no GPU; set loop.device to cpu.")
    if size() == 1:
        return wanted
    local = int(os.environ.get("LOCAL_RANK", rank()))
    if local >= count:
        raise HeroError(f"There are {count} GPUs here; start torchrun with --nproc-per-node {count}.")
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def share(count: int) -> slice:
    """Which of ``count`` samples of a global batch are this process's; shares differ by at most one.

    Raises:
        HeroError: fewer samples than processes.
    """
    if count < size():
        raise HeroError(f"A batch of {count} cannot be shared by {size()} processes; start fewer.")
    return slice(rank() * count // size(), (rank() + 1) * count // size())


def average_gradients(model: nn.Module, *numbers: float) -> list[float]:
    """Replace gradients by their mean over all processes; returns the sums of numbers over them.

    One message for all of it. A parameter that no process used keeps no gradient, as in a single process.
    """
    if size() == 1:
        return list(numbers)
    parameters = [p for p in model.parameters() if p.requires_grad]
    place = parameters[0].device
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=place)
    said = torch.tensor(numbers, dtype=torch.float32, device=place)
    pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in parameters]
    message = torch.cat((*pieces, used, said))
    dist.all_reduce(message)
    *grads, used, said = message.split([*(p.numel() for p in parameters), len(used), len(said)])
    for parameter, grad, count in zip(parameters, grads, used.tolist(), strict=True):
        parameter.grad = (grad / size()).view_as(parameter).to(parameter.dtype) if count else None
    return said.tolist()


def mean(numbers: dict[str, float]) -> dict[str, float]:
    """Mean over all processes of numbers with the same names in each."""
    if size() == 1:
        return numbers
    values = torch.tensor(list(numbers.values()), dtype=torch.float64)
    dist.all_reduce(values)
    return dict(zip(numbers, (values / size()).tolist(), strict=True))


def from_first(number: float) -> float:
    """What the first process says."""
    if size() == 1:
        return number
    value = torch.tensor([number], dtype=torch.float64)
    dist.broadcast(value, 0)
    return float(value)


def same_everywhere(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if size() > 1:
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def of_each(tensor: Tensor) -> list[Tensor]:
    """A CPU tensor of every process, in order."""
    if size() == 1:
        return [tensor]
    out = [torch.empty_like(tensor) for _ in range(size())]
    dist.all_gather(out, tensor)
    return out


def whole(mine: Tensor, count: int) -> Tensor:
    """The global batch (count, ...) float32 from the shares of all; gradients flow to this process's own only."""
    if size() == 1:
        return mine
    part = share(count)
    out = torch.zeros(count, *mine.shape[1:], device=mine.device)
    out[part] = mine.detach().float()
    dist.all_reduce(out)  # zeros elsewhere: a gather that does not mind uneven shares
    return torch.cat((out[: part.start], mine.float(), out[part.stop :]))


@contextlib.contextmanager
def same_random(generator: torch.Generator) -> Iterator[None]:
    """Inside, torch's own random numbers are the same in all processes, whose ``generator`` is in the same state."""
    if size() == 1:
        yield
        return
    ahead = torch.Generator()
    ahead.set_state(generator.get_state())
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=ahead)))
        yield
