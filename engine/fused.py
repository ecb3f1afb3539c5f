"""mor.mor_layer with forward and backward written out, and Eq. 13 by small products: the forms for training.

    for_training(model)  # every MoRLinear of the model runs MoRFunction from now on

What that gains over plain autograd: a role's rows are a slice, so that the base matmul, which comes last,
adds in place to what the LoRAs wrote, forward and backward. All A of a role and its router are one matrix
(`stack_down`), so that x is read once for them. A softmax over the K largest scores takes the place of one
over all whose K largest are rescaled. Beyond x, only tensors of loras * rank columns are kept for backward.
Letters in shapes are those of mor.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mor import MoRConfig, load_statistics, mor_layers


def for_training(model: nn.Module) -> nn.Module:
    """Let the MoRLinears of `model` run MoRFunction in the place of mor.mor_layer; return the model."""
    for layer in mor_layers(model):
        layer.function = fused_layer
    return model


def fused_layer(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    """MoRFunction as a plain function: torch.compile of torch 2.11 cannot follow a bound `apply`."""
    return MoRFunction.apply(*arguments)


class MoRFunction(torch.autograd.Function):
    """Arguments and results are those of mor.mor_layer."""

    @staticmethod
    def forward(ctx, x, weight, bias, role_sizes, active, shared_gate, scale, *parameters):
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
            delta.addmm_(z, B.flatten(0, 1).to(x.dtype), beta=0, alpha=scale)  # Eq. 7; beta=0: overwrite
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
        ctx.role_sizes, ctx.shared_gate, ctx.scale = role_sizes, shared_gate, scale
        return h, f, P

    @staticmethod
    @once_differentiable
    def backward(ctx, d_h, _, d_P):
        x, weight, *tensors = ctx.saved_tensors
        parameters, saved = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]  # three of each role
        wants_d_x = ctx.needs_input_grad[0]  # not below the first adapter
        d_x = torch.empty_like(x)
        rows = [tensor.split(ctx.role_sizes) for tensor in (x, d_x, d_h)]
        d_P = d_P.split([probs.shape[1] for probs in saved[2::3]])
        d_parameters = []
        for role in range(len(ctx.role_sizes)):
            u, d_u, d_delta = (part[role] for part in rows)
            A, B, router = parameters[3 * role : 3 * role + 3]
            z, gates, probs = saved[3 * role : 3 * role + 3]
            width = z.shape[1]
            down, up = stack_down(A, router, x.dtype), B.flatten(0, 1).to(x.dtype)

            d_B = torch.addmm(up, z.T, d_delta, beta=0, alpha=ctx.scale)
            d_down_output = d_delta.new_empty(len(u), len(down))
            d_z, d_scores = d_down_output.tensor_split([width], dim=1)
            d_z.addmm_(d_delta, up.T, beta=0, alpha=ctx.scale)
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
        return d_x, None, None, None, None, None, None, *d_parameters


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


# ---- Eq. 13 ----


def orthogonal_loss(model: nn.Module, config: MoRConfig | None = None) -> Tensor:
    """mor.orthogonal_loss, Eq. 13, with one matrix product for all pairs of a linear, role and factor.

    The squared norm of the [out, out] product B_i^T B_j, of the printed reading, is the inner product of the
    [rank, rank] matrices B_i B_i^T and B_j B_j^T.
    """
    layers = mor_layers(model)
    reading = (config or layers[0].config).orthogonal
    total = 0.0
    for role in layers[0].groups:
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
