"""--fsdp: the base model shared out over torchrun's processes by FSDP2, for one that no single device holds.

A process keeps its part of each tensor, a slice of the first axis. Before a decoder layer runs, forward and
again backward, FSDP2 gathers its tensors, and drops them behind it. Embedding, final norm and head stay whole
from a forward to the end of its backward, since engine/loss.py takes the head's weight by itself.

What is trained:
  adapters   are added to the sharded model, so FSDP2 does not know them. They are whole in each process, and
             their gradients are summed in the one flat buffer, as without --fsdp
  --method full   trains the parts: FSDP2 adds up the gradients and leaves each process those of its parts,
             and engine/full.py's copies and AdamW's moments are of these alone

Gathering takes all processes. So all make equally many passes: one that has no more of its own makes idle
ones (`complete_round`, `in_step`).

FSDP2 is imported where it is used, and its tensors, DTensors, are known by their methods: the import takes
half a second, and every command imports this file.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from data import Example
from engine.devices import Processes
from engine.loss import token_losses
from model import Transformer

IDLE = Example([0, 0], [-100, 0], [0, 0])  # the shortest text with a loss


def load_sharded(path: Path, dtype: torch.dtype, device: torch.device, processes: Processes) -> Transformer:
    """Transformer.from_pretrained, of which this process keeps its part. Raises UserError as that does."""
    model, tensors = Transformer.of_checkpoint(path, dtype)
    mesh = init_device_mesh(device.type, (processes.size,))
    shard(model.to(dtype), mesh)
    state = {}
    for name, tensor in tensors:
        own = part(tensor, mesh).to(device, dtype, copy=True)
        state[name] = as_part(own, mesh, tensor)
    model.fill(state)
    return model


def shard(model: Transformer, mesh: DeviceMesh) -> None:
    """Let FSDP2 look after the parameters of a model, which may be on the meta device."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    for layer in model.model.layers:
        fully_shard(layer, reshard_after_forward=True, **options)
    fully_shard(model, reshard_after_forward=False, **options)
    for module in (*model.model.layers, model):  # gradients are summed: the loss is divided by all tokens
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "hidden_states")  # which is called without `forward` around it


# ---- parts and wholes ----


def is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "full_tensor")


def part(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """This process's slice of the first axis, as FSDP2 cuts it; the last processes may get none."""
    parts = tensor.chunk(mesh.size())
    rank = mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else tensor[:0]


def as_part(own: Tensor, mesh: DeviceMesh, like: Tensor) -> Tensor:
    """This process's slice of a tensor of the shape of `like`, as FSDP2 and `collect` know it."""
    from torch.distributed.tensor import DTensor, Shard

    return DTensor.from_local(own, mesh, [Shard(0)], shape=like.shape, stride=like.stride())


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a parameter or gradient: all of it where it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a parameter. Of a sharded one all processes must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def collect(tensors: Iterable[tuple[str, Tensor]], wanted: bool) -> dict[str, Tensor]:
    """Tensors by name, whole, in the process that wants them; the others get none and must call it, too.

    Sharded ones come into the host's memory one by one, so that no device holds two at a time.
    """
    found = {}
    for name, tensor in tensors:
        if is_sharded(tensor):
            tensor = tensor.full_tensor()
            tensor = tensor.cpu() if wanted else tensor
        if wanted:
            found[name] = tensor
    return found


# ---- equally many passes ----


def in_parts(model: Transformer) -> bool:
    """Whether `shard` was there: a method that FSDP2 gives tells. Parameters may be whole for the moment."""
    return hasattr(model, "unshard")


def complete_round(model: Transformer, micro_batches: int, processes: Processes) -> bool:
    """After a step's micro-batches: whether this process had one less than others, and took part idly."""
    last_round = micro_batches % processes.size
    idle = in_parts(model) and 0 < last_round <= processes.rank
    if idle:
        nll, _ = token_losses(model, [IDLE])
        (0 * nll).backward()
    return idle


@contextmanager
def in_step(model: Transformer, processes: Processes) -> Iterator[None]:
    """Within it, a process may make as many passes without gradient as it likes, the others making others.

    A sharded model's pass begins with a word to all. Who leaves makes idle passes until all have left.
    """
    if not in_parts(model):
        yield
        return
    make_pass, device = model.hidden_states, model.model.norm.weight.device

    def announced(*args, **kwargs) -> Tensor:
        processes.sum(torch.ones(1, device=device))
        return make_pass(*args, **kwargs)

    model.hidden_states = announced
    yield
    model.hidden_states = make_pass
    while processes.sum(torch.zeros(1, device=device)) > 0:
        token_losses(model, [IDLE])
