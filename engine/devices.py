"""Devices and processes: which device, which of torchrun's processes, gradients summed over them, signals."""

import argparse
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cli import UserError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name: "auto" is cuda where there is one; "cuda" the one of this process.

    Raises UserError for another kind (torch knows some that hold no numbers) or a device that it cannot use.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", name):
        raise UserError(f"--device: got {name!r:.60}, wanted auto, cpu, cuda, or one as cuda:1")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown name; torch without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {name!r} cannot be used here ({reason}); try cpu") from None
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the base model: "auto" is bfloat16 on CUDA and float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return getattr(torch, name)


@dataclass
class Processes:
    """This process among those torchrun started, or the only one."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None  # among those of its node; None: all are on one

    def sum(self, values: Tensor) -> Tensor:
        """Add up over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)

    def bar(self) -> bool | None:
        """tqdm's `disable`: None is off unless stderr is a terminal."""
        return None if self.rank == 0 else True

    @contextmanager
    def first_alone(self, wanted: bool = True) -> Iterator[None]:
        """The first process of each node goes through the block before all others, if that is wanted.

        It lets them go after a fault too, which they then find for themselves.
        """
        first = (self.rank if self.local_rank is None else self.local_rank) == 0
        if not wanted or self.size == 1:
            yield
            return
        group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        if not first:
            dist.barrier(group)
        try:
            yield
        finally:
            if first:
                dist.barrier(group)

    def end(self) -> None:
        """Leave the others."""
        if self.size > 1:
            dist.destroy_process_group()


def start_processes(args: argparse.Namespace) -> tuple[Processes, torch.device]:
    """Choose this process's device and, under torchrun, join the others. Raises UserError."""
    rank, size, local_rank = (variable(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    processes = Processes(rank or 0, size or 1, local_rank)
    if args.grad_accum < processes.size:
        got = f"got {args.grad_accum} micro-batches for {processes.size} processes"
        raise UserError(f"--grad-accum: {got}; wanted one or more for each")
    device = choose_device(args.device, local_rank or 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if processes.size > 1:
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:  # no address of the first process; nobody there
            reason = str(error).splitlines()[0]
            raise UserError(f"WORLD_SIZE is {processes.size}: {reason}; start by torchrun") from None
    return processes, device


def variable(name: str) -> int | None:
    """A number that torchrun puts into the environment; None where it has not. Raises UserError."""
    text = os.environ.get(name, "")
    if text and not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise UserError(f"{name}: got {text!r:.60} in the environment, wanted a number as torchrun sets it")
    return int(text) if text else None


def check_memory(trained: int, device: torch.device) -> None:
    """Raises UserError where a device cannot hold so many parameters with gradients and AdamW's moments."""
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = 16 * trained  # four numbers of four bytes each
    if wanted > there:
        got = f"{trained:,} parameters to train take {wanted >> 30:,} GiB, {device} has {there >> 30:,}"
        raise UserError(f"--rank: {got}; lower it or --loras, or train on a larger device")


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Ctrl-C, or SIGTERM from torchrun or a scheduler, goes into the list; a second Ctrl-C stops at once."""
    caught = []

    def handle(received: int, _) -> None:
        if received == signal.SIGINT and received in caught:
            raise KeyboardInterrupt
        caught.append(received)
        print("\nsaving after this step; Ctrl-C again stops at once", file=sys.stderr)

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def flat_gradients(parameters: list[nn.Parameter]) -> Tensor:
    """One buffer with every .grad as a view: zeroed, summed over processes, measured and clipped at one go.

    Not torch's DDP wrapper: it divides by the number of processes, though the loss is divided by the tokens
    of all, and waits for a backward from each, which one without micro-batch in the last step does not have.
    A gradient is never None, so AdamW updates the same parameters however a step is split.
    """
    sizes = [p.numel() for p in parameters]
    flat = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


def sum_gradients(gradients: Tensor, sharded: bool, processes: Processes) -> float:
    """Add up the flat buffer over the processes; return its norm.

    sharded: FSDP2 has added up already, and each process has the gradients of its own parts.
    """
    if not sharded:
        return float(torch.linalg.vector_norm(processes.sum(gradients)))
    squared = torch.linalg.vector_norm(gradients).square()
    return float(processes.sum(squared).sqrt())


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on the GPU, or this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
