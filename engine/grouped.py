"""mor.mor_layer for GPUs: all roles in one product, in place of a few operations for each role.

    grouped(model)  # every MoRLinear of the model runs this form from now on

On a GPU an operation on a role's rows takes about as long as it takes to start it. Here grouped_mm's kernel
takes each role's rows through the role's matrices, everything else goes over all rows, and the host waits for
nothing. bfloat16 on CUDA; the paper's adapter, in which each role has a router, of a rank divisible by 8.
Not yet run on a GPU: benchmarks/gpu.py measures it beside engine/fused.py, which train.py uses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.fused import route_backward
from mor import ROLES, MoRConfig, RoleRows, mor_layers


def grouped(model: nn.Module) -> nn.Module:
    """Let the MoRLinears of `model` run Grouped in the place of mor.mor_layer; return the model."""
    layers = mor_layers(model)
    function = Grouped(layers[0].config, layers[0].base.weight.device)
    model.arrange_rows = function.arrange
    for layer in layers:
        layer.function = function
    return model


@dataclass(kw_only=True)
class GroupedRows(RoleRows):
    """The rows of a pass, sorted by role, for Grouped. All is on the device, so `sizes` is empty.

    Where roles differ in the number of LoRAs, the smaller ones are filled up: E routed LoRAs, K chosen.
    """

    ends: Tensor  # int32 [3] where each role's rows end
    share: Tensor  # [3, T] 1 / tokens of the role in its rows, else 0
    barred: Tensor  # bool [T, E] LoRAs that only fill up the row's role
    kept: Tensor  # [T, K] 1, or 0 where the row's role chooses fewer

    def of_groups(self, groups: dict[str, list[int]]) -> "GroupedRows":
        """What Grouped is told in the place of the sizes; each role is a group of its own."""
        return self


class Grouped:
    """MoRFunction for all roles at once: a few operations a linear in place of a few for each role.

    On a GPU an operation on a role's rows takes about as long as to start it. grouped_mm's kernel takes each
    role's rows of x through the role's matrices; the rest goes over all rows. bfloat16 on CUDA.
    """

    def __init__(self, config: MoRConfig, device: torch.device):
        assert config.rank % 8 == 0, f"rank is {config.rank}, grouped products want a multiple of 8"
        assert min(config.loras) > 1, f"loras is {config.loras}, wanted a router for each role"
        routed, top_k = [n - 1 for n in config.loras], [n - 1 for n in config.active]
        self.barred = torch.arange(max(routed)) >= torch.tensor(routed)[:, None]  # [3, E]
        self.kept = (torch.arange(max(top_k)) < torch.tensor(top_k)[:, None]).float()  # [3, K]
        self.real = (~self.barred).flatten().nonzero()[:, 0].to(device)  # of 3 * E, what mor_layer's f has
        self.barred, self.kept = self.barred.to(device), self.kept.to(device)

    def arrange(self, role_ids: Tensor) -> GroupedRows:
        """In the place of mor.sort_by_role, whose count of each role makes the host wait."""
        order = torch.argsort(role_ids, stable=True)
        roles = role_ids[order]
        here = roles == torch.arange(len(ROLES), device=roles.device)[:, None]
        tokens = here.sum(dim=1)
        share = here / tokens.clamp(min=1)[:, None]
        return GroupedRows(
            sizes=[],
            order=order,
            inverse=torch.argsort(order),
            ends=tokens.cumsum(0).int(),
            share=share,
            barred=self.barred[roles],
            kept=self.kept[roles],
        )

    def __call__(self, x, weight, bias, rows, active, shared_gate, scale, *parameters):
        """Arguments and results are those of mor.mor_layer, but for the rows."""
        told = rows.ends, rows.share, rows.barred, rows.kept, self.real
        return GroupedFunction.apply(x, weight, bias, shared_gate, scale, *told, *parameters)


class GroupedFunction(torch.autograd.Function):
    """Grouped's. W columns are z, of as many LoRAs as the largest role has; then come the scores."""

    @staticmethod
    def forward(ctx, x, weight, bias, shared_gate, scale, ends, share, barred, kept, real, *parameters):
        down, up = stack_roles(parameters, x.dtype)
        width, loras = up.shape[1], barred.shape[1] + 1
        product = F.grouped_mm(x, down.mT, offs=ends)  # [T, N]
        z, scores = product[:, :width], product[:, width : width + loras - 1 + int(shared_gate)]
        shared, scores = scores.to(share.dtype).tensor_split([int(shared_gate)], dim=1)
        scores = scores.masked_fill(barred, torch.finfo(scores.dtype).min)
        probs = scores.softmax(dim=1)
        gates, chosen = choose(scores, kept)
        first = shared.sigmoid() if shared_gate else torch.ones_like(gates[:, :1])
        gates = torch.cat([first, gates], dim=1)  # [T, 1 + E]
        z = (z.unflatten(1, (loras, -1)) * (scale * gates).to(z.dtype)[:, :, None]).flatten(1)
        h = F.grouped_mm(z, up, offs=ends)  # Eq. 7
        if bias is not None:
            h = h + bias
        if torch.compiler.is_compiling():  # torch 2.11 would lose the gradient of what is written in place
            h = torch.addmm(h, x, weight.T)
        else:
            h.addmm_(x, weight.T)  # Eq. 5
        f, P = (share @ torch.cat([chosen, probs], dim=1)).unflatten(1, (2, -1)).unbind(1)  # Eqs. 11 and 12
        f, P = f.flatten()[real], P.flatten()[real]
        ctx.mark_non_differentiable(f)
        ctx.save_for_backward(x, weight, down, up, z, gates, probs, ends, share, real)
        ctx.shared_gate, ctx.scale, ctx.shapes = shared_gate, scale, [p.shape for p in parameters]
        return h, f, P

    @staticmethod
    @once_differentiable
    def backward(ctx, d_h, _, d_P):
        x, weight, down, up, z, gates, probs, ends, share, real = ctx.saved_tensors
        d_h = d_h.contiguous()
        d_up = F.grouped_mm(z.T, d_h, offs=ends)  # [3, W, out]
        d_z = F.grouped_mm(d_h, up.mT, offs=ends).unflatten(1, (gates.shape[1], -1))
        pull = (d_z * z.view_as(d_z)).sum(dim=2).to(gates.dtype)  # gates times their gradients
        d_P = d_P.new_zeros(len(ROLES) * probs.shape[1]).index_copy(0, real, d_P).view(len(ROLES), -1)
        d_scores = route_backward(pull, share.T @ d_P, gates, probs, ctx.shared_gate)
        d_z = (d_z * (ctx.scale * gates).to(z.dtype)[:, :, None]).flatten(1)
        d_product = torch.cat([d_z, d_scores.to(z.dtype)], dim=1)
        d_product = F.pad(d_product, (0, down.shape[1] - d_product.shape[1]))
        d_down = F.grouped_mm(d_product.T, x, offs=ends)  # [3, N, in]
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = F.grouped_mm(d_product, down, offs=ends).addmm_(d_h, weight)
        d_parameters = unstack_roles(d_down.to(gates.dtype), d_up.to(gates.dtype), ctx.shapes)
        return d_x, *[None] * 9, *d_parameters


def choose(scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """mor.route's weights of the routed LoRAs, [T, E], and 1 at the chosen ones, [T, E]."""
    largest, index = scores.topk(kept.shape[1], dim=1)
    weights = largest.masked_fill(kept == 0, torch.finfo(scores.dtype).min).softmax(dim=1) * kept
    zeros = torch.zeros_like(scores)
    return zeros.scatter(1, index, weights), zeros.scatter(1, index, kept)


def stack_roles(parameters: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """down [3, N, in], all A of a role, then its router; up [3, W, out], all B. Zeros fill up.

    N is a multiple of 8: grouped_mm wants rows to begin at multiples of 16 bytes.
    """
    width = max(A.shape[0] * A.shape[1] for A in parameters[::3])
    columns = -(-(width + max(len(router) for router in parameters[2::3])) // 8) * 8
    fill = [p.new_zeros(columns, p.shape[2]) for p in parameters[:2]]
    down, up = [], []
    for role in range(len(ROLES)):
        A, B, router = parameters[3 * role : 3 * role + 3]
        A, B = A.flatten(0, 1), B.flatten(0, 1)
        down += [A, fill[0][: width - len(A)], router, fill[0][: columns - width - len(router)]]
        up += [B, fill[1][: width - len(B)]]
    down, up = torch.cat(down).to(dtype), torch.cat(up).to(dtype)
    return down.unflatten(0, (len(ROLES), -1)), up.unflatten(0, (len(ROLES), -1))


def unstack_roles(down: Tensor, up: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """The parts of stack_roles' matrices, in the order and the shapes of the parameters."""
    parts = []
    for role in range(len(ROLES)):
        A, B, router = shapes[3 * role : 3 * role + 3]
        own, width = A[0] * A[1], up.shape[1]
        parts.append(down[role, :own].unflatten(0, A[:2]))
        parts.append(up[role, :own].unflatten(0, B[:2]))
        parts.append(down[role, width : width + router[0]])
    return parts
