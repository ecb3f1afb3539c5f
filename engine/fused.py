"""mor.mor_layer with forward and backward written out, and Eq. 13 by small products: the forms for training.

    for_training(model)  # every MoRLinear of the model runs MoRFunction from now on
    for_training(model, "grouped")  # or Grouped, for GPUs: bfloat16, ready for Transformer.compile_layers

What that gains over plain autograd: a role's rows are a slice, so that the base matmul, which comes last,
adds in place to what the LoRAs wrote, forward and backward. All A of a role and its router are one matrix
(`stack_down`), so that x is read once for them. A softmax over the K largest scores takes the place of one
over all whose K largest are rescaled. Beyond x, only tensors of loras * rank columns are kept for backward.
Letters in shapes are those of mor.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mor import ROLES, MoRConfig, RoleRows, load_statistics, mor_layers


def for_training(model: nn.Module, form: str = "slices") -> nn.Module:
    """Let the MoRLinears of `model` run another form of mor.mor_layer; return the model.

    form: "slices", a role's rows after another's, by MoRFunction; "grouped", all at once, by Grouped.
    """
    layers, function = mor_layers(model), fused_layer
    if form == "grouped":
        function = Grouped(layers[0].config, layers[0].base.weight.device)
        model.arrange_rows = function.arrange
    for layer in layers:
        layer.function = function
    return model


def fused_layer(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    """MoRFunction as a plain function: torch.compile of torch 2.11 cannot follow a bound `apply`."""
    return MoRFunction.apply(*arguments)


class MoRFunction(torch.autograd.Function):
    """Arguments and results are those of mor.mor_layer."""

    @staticmethod
    def forward(ctx, x, weight, bias, role_sizes, active, shared_gate, *parameters):
        h = x.new_empty(len(x), len(weight))
        saved, all_f, all_P = [], [], []
        for role, (u, delta) in enumerate(zip(x.split(role_sizes), h.split(role_sizes), strict=True)):
            A, B, router = parameters[3 * role : 3 * role + 3]
            width = A.shape[0] * A.shape[1]  # loras * rank
            z, scores = (u @ stack_down(A, router, x.dtype).T).tensor_split([width], dim=1)
            scores = scores.to(router.dtype)
            probs = scores[:, int(shared_gate) :].softmax(dim=1)
            gates, chosen = route_largest(scores, active[role] - 1, shared_gate)
            scale_columns(z, gates)
            delta.addmm_(z, B.flatten(0, 1).to(x.dtype), beta=0)  # Eq. 7; beta=0: overwrite
            f, P = load_statistics(probs, chosen)
            all_f.append(f)
            all_P.append(P)
            saved += [z, gates, probs]
        if bias is not None:
            h.add_(bias)
        h.addmm_(x, weight.T)  # Eq. 5
        f, P = torch.cat(all_f), torch.cat(all_P)
        ctx.mark_non_differentiable(f)
        ctx.save_for_backward(x, weight, *parameters, *saved)
        ctx.role_sizes, ctx.shared_gate = role_sizes, shared_gate
        return h, f, P

    @staticmethod
    @once_differentiable
    def backward(ctx, d_h, _, d_P):
        x, weight, *tensors = ctx.saved_tensors
        parameters, saved = tensors[:9], tensors[9:]  # three of each role
        wants_d_x = ctx.needs_input_grad[0]  # not below the first adapter
        d_x = torch.empty_like(x)
        rows = [tensor.split(ctx.role_sizes) for tensor in (x, d_x, d_h)]
        d_P = d_P.split([probs.shape[1] for probs in saved[2::3]])
        d_parameters = []
        for role in range(3):
            u, d_u, d_delta = (part[role] for part in rows)
            A, B, router = parameters[3 * role : 3 * role + 3]
            z, gates, probs = saved[3 * role : 3 * role + 3]
            width = z.shape[1]
            down = stack_down(A, router, x.dtype)

            d_B = z.T @ d_delta
            d_down_output = d_delta.new_empty(len(u), len(down))
            d_z, d_scores = d_down_output.tensor_split([width], dim=1)
            d_z.addmm_(d_delta, B.flatten(0, 1).to(x.dtype).T, beta=0)
            pull = (d_z * z).unflatten(1, A.shape[:2]).sum(dim=2).to(gates.dtype)  # gates * their gradients
            d_probs = d_P[role] / max(len(u), 1)  # Eq. 12 divides by the tokens
            d_scores.copy_(route_backward(pull, d_probs, gates, probs, ctx.shared_gate))
            scale_columns(d_z, gates)

            if wants_d_x:
                d_u.addmm_(d_down_output, down, beta=0)
            d_A, d_router = (d_down_output.T @ u).tensor_split([width])
            d_parameters.append(d_A.view_as(A).to(A.dtype))
            d_parameters.append(d_B.view_as(B).to(B.dtype))
            d_parameters.append(d_router.to(router.dtype))
        d_x = d_x.addmm_(d_h, weight) if wants_d_x else None
        return d_x, None, None, None, None, None, *d_parameters


def stack_down(A: Tensor, router: Tensor, dtype: torch.dtype) -> Tensor:
    """All A of a role, then its router: [loras * rank + routed, in]."""
    return torch.cat([A.flatten(0, 1), router]).to(dtype)


def scale_columns(z: Tensor, gates: Tensor) -> None:
    """z [n, loras * rank], in place: the columns of LoRA i times gates[:, i]."""
    z.unflatten(1, (gates.shape[1], -1)).mul_(gates.unsqueeze(2))


def route_largest(scores: Tensor, top_k: int, shared_gate: bool) -> tuple[Tensor, Tensor]:
    """mor.route's gates [n, 1 + E] and chosen [n, K], by a softmax over the K largest scores."""
    shared, routed = scores.tensor_split([int(shared_gate)], dim=1)
    largest, chosen = routed.topk(top_k, dim=1)
    gates = torch.zeros_like(routed).scatter_(1, chosen, largest.softmax(dim=1))
    if shared_gate:
        gates = torch.cat([shared.sigmoid(), gates], dim=1)
    else:
        gates = F.pad(gates, (1, 0), value=1.0)
    return gates, chosen


def route_backward(pull: Tensor, d_probs: Tensor, gates: Tensor, probs: Tensor, shared_gate: bool) -> Tensor:
    """Gradient of the scores, [n, E], from gates times their gradients, pull [n, 1 + E], and that of probs.

    For p = softmax(s), ds = p dp - p sum(p dp). The K largest, rescaled, are a softmax over their scores.
    """
    weights, weights_pull = gates[:, 1:], pull[:, 1:]
    probs_pull = probs * d_probs
    d_scores = weights_pull - weights * weights_pull.sum(dim=1, keepdim=True)
    d_scores += probs_pull - probs * probs_pull.sum(dim=1, keepdim=True)
    if not shared_gate:
        return d_scores
    d_shared = pull[:, :1] * (1 - gates[:, :1])  # of a sigmoid g: dg g (1 - g)
    return torch.cat([d_shared, d_scores], dim=1)


# ---- all roles in one product, for GPUs ----


@dataclass
class GroupedRows:
    """The rows of a pass, sorted by role, for Grouped. All is on the device: the host waits for nothing.

    Where roles differ in the number of LoRAs, the smaller ones are filled up: E routed LoRAs, K chosen.
    """

    ends: Tensor  # int32 [3] where each role's rows end
    share: Tensor  # [3, T] 1 / tokens of the role in its rows, else 0
    barred: Tensor  # bool [T, E] LoRAs that only fill up the row's role
    kept: Tensor  # [T, K] 1, or 0 where the row's role chooses fewer


class Grouped:
    """MoRFunction for all roles at once: a few operations a linear in place of a few for each role.

    On a GPU an operation on a role's rows takes about as long as to start it. grouped_mm's kernel takes each
    role's rows of x through the role's matrices; the rest goes over all rows. bfloat16 on CUDA.
    """

    def __init__(self, config: MoRConfig, device: torch.device):
        assert config.rank % 8 == 0, f"rank is {config.rank}, grouped products want a multiple of 8"
        routed, top_k = [n - 1 for n in config.loras], [n - 1 for n in config.active]
        self.barred = torch.arange(max(routed)) >= torch.tensor(routed)[:, None]  # [3, E]
        self.kept = (torch.arange(max(top_k)) < torch.tensor(top_k)[:, None]).float()  # [3, K]
        self.real = (~self.barred).flatten().nonzero()[:, 0].to(device)  # of 3 * E, what mor_layer's f has
        self.barred, self.kept = self.barred.to(device), self.kept.to(device)

    def arrange(self, role_ids: Tensor) -> RoleRows:
        """In the place of mor.sort_by_role, whose count of each role makes the host wait."""
        order = torch.argsort(role_ids, stable=True)
        roles = role_ids[order]
        here = roles == torch.arange(len(ROLES), device=roles.device)[:, None]
        tokens = here.sum(dim=1)
        share = here / tokens.clamp(min=1)[:, None]
        rows = GroupedRows(tokens.cumsum(0).int(), share, self.barred[roles], self.kept[roles])
        return RoleRows(rows, order, torch.argsort(order))

    def __call__(self, x, weight, bias, rows, active, shared_gate, *parameters):
        """Arguments and results are those of mor.mor_layer, but for the rows."""
        told = rows.ends, rows.share, rows.barred, rows.kept, self.real
        return GroupedFunction.apply(x, weight, bias, shared_gate, *told, *parameters)


class GroupedFunction(torch.autograd.Function):
    """Grouped's. W columns are z, of as many LoRAs as the largest role has; then come the scores."""

    @staticmethod
    def forward(ctx, x, weight, bias, shared_gate, ends, share, barred, kept, real, *parameters):
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
        z = (z.unflatten(1, (loras, -1)) * gates.to(z.dtype)[:, :, None]).flatten(1)
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
        ctx.shared_gate, ctx.shapes = shared_gate, [p.shape for p in parameters]
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
        d_z = (d_z * gates.to(z.dtype)[:, :, None]).flatten(1)
        d_product = torch.cat([d_z, d_scores.to(z.dtype)], dim=1)
        d_product = F.pad(d_product, (0, down.shape[1] - d_product.shape[1]))
        d_down = F.grouped_mm(d_product.T, x, offs=ends)  # [3, N, in]
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = F.grouped_mm(d_product, down, offs=ends).addmm_(d_h, weight)
        d_parameters = unstack_roles(d_down.to(gates.dtype), d_up.to(gates.dtype), ctx.shapes)
        return d_x, *[None] * 8, *d_parameters


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


# ---- Eq. 13 ----


def orthogonal_loss(model: nn.Module, config: MoRConfig | None = None) -> Tensor:
    """mor.orthogonal_loss, Eq. 13, with one matrix product for all pairs of a linear, role and factor.

    The squared norm of the [out, out] product B_i^T B_j, of the printed reading, is the inner product of the
    [rank, rank] matrices B_i B_i^T and B_j B_j^T.
    """
    layers = mor_layers(model)
    reading = (config or layers[0].config).orthogonal
    total = 0.0
    for role in ROLES:
        A = torch.stack([gram(layer.lora_A[role][1:]) for layer in layers])  # [N, E, rank, E, rank]
        B = torch.stack([gram(layer.lora_B[role][1:]) for layer in layers])
        if reading == "directions":
            pairs = squared_norms(A) + squared_norms(B)  # [N, E, E]
        else:
            pairs = squared_norms(A) + inner_products(B)
        total = total + pairs.triu(diagonal=1).sum()
    return total


def gram(weight: Tensor) -> Tensor:
    """[E, rank, d] -> [E, rank, E, rank], whose block (i, j) is weight[i] @ weight[j].T."""
    rows = weight.flatten(0, 1)
    return (rows @ rows.T).view(weight.shape[:2] + weight.shape[:2])


def squared_norms(gram: Tensor) -> Tensor:
    """Of the blocks (i, j): [N, E, E]."""
    return gram.square().sum(dim=(2, 4))


def inner_products(gram: Tensor) -> Tensor:
    """Of the blocks (i, i) and (j, j): [N, E, E]."""
    own = gram.diagonal(dim1=1, dim2=3).flatten(1, 2)  # [N, rank * rank, E]
    return own.mT @ own
